import ssl
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from dmcore.connector.paired import PairedNode
from dmcore.connector.trust_errors import Unpaired
from dmcore.model.enums import Role
from dmcore.model.ids import NodeId
from dmcore.model.names import NodeName, node_id_of
from dmcore.node.identity import Identity, load_identity, public_der
from dmcore.wire.tls import ALPN, TlsEnd, client_context, connector_name, peer_name, server_context
from dmcore.wire.trust_errors import OtherConnector, PeerRoleRefused, PeerUnnamed, ProtocolRefused
from tests.trust_kit import (
    SITE,
    ConnectorKit,
    client_certificate,
    custom_certificate,
    handshake,
    make_connector,
    new_key,
    write_key,
)

CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER = ExtendedKeyUsageOID.SERVER_AUTH


@pytest.fixture
def connector(tmp_path: Path) -> ConnectorKit:
    kit = make_connector(tmp_path / "connector")
    kit.server.stop()
    return kit


@pytest.fixture
def appliance(tmp_path: Path) -> Identity:
    return load_identity(tmp_path / "appliance")


@pytest.fixture
def server(connector: ConnectorKit) -> ssl.SSLContext:
    return server_context(connector.certificate_path, connector.identity.key_path, connector.authority.certificate_path)


@pytest.fixture
def client(connector: ConnectorKit, appliance: Identity, tmp_path: Path) -> ssl.SSLContext:
    certificate = client_certificate(connector, appliance, tmp_path / "client.pem")
    return client_context(certificate, appliance.key_path, connector.authority.certificate_path)


def test_both_know_who_the_other_is(
    server: ssl.SSLContext, client: ssl.SSLContext, connector: ConnectorKit, appliance: Identity
) -> None:
    at_server, at_client = handshake(
        server, client, at_server=peer_name, at_client=lambda tls: connector_name(tls, connector.identity.node)
    )
    assert at_server == (NodeName(SITE, Role.APPLIANCE, appliance.node), appliance.node)
    assert at_client == NodeName(SITE, Role.CONNECTOR, connector.identity.node)


def test_tls_1_3_without_tickets(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    def facts(tls: ssl.SSLSocket) -> tuple[object, ...]:
        tls.do_handshake()
        return tls.version(), tls.selected_alpn_protocol(), tls.session_reused

    assert handshake(server, client, at_server=facts, at_client=facts) == (("TLSv1.3", ALPN, False),) * 2
    assert server.num_tickets == 0


def test_no_session_to_resume(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    def after_reading(tls: ssl.SSLSocket) -> object:
        tls.sendall(b"x")
        tls.recv(1)  # tickets would arrive with the first bytes
        return tls.session is not None and tls.session.has_ticket

    def echo(tls: ssl.SSLSocket) -> None:
        tls.sendall(tls.recv(1))

    assert handshake(server, client, at_server=echo, at_client=after_reading)[1] is False


# What the server refuses


def test_client_without_a_certificate(server: ssl.SSLContext, connector: ConnectorKit) -> None:
    naked = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    naked.check_hostname = False
    naked.load_verify_locations(connector.authority.certificate_path)
    at_server, at_client = handshake(server, naked)
    assert isinstance(at_server, ssl.SSLError)
    assert "did not return a certificate" in str(at_server)
    assert isinstance(at_client, OSError)


def test_client_of_another_authority(
    server: ssl.SSLContext, connector: ConnectorKit, appliance: Identity, tmp_path: Path
) -> None:
    stranger = make_connector(tmp_path / "stranger")
    stranger.server.stop()
    certificate = client_certificate(stranger, appliance, tmp_path / "foreign.pem")
    foreign = client_context(certificate, appliance.key_path, connector.authority.certificate_path)
    at_server, _ = handshake(server, foreign)
    assert isinstance(at_server, ssl.SSLCertVerificationError)


def test_connector_certificate_used_by_a_client(server: ssl.SSLContext, connector: ConnectorKit) -> None:
    posing = client_context(
        connector.certificate_path, connector.identity.key_path, connector.authority.certificate_path
    )
    at_server, _ = handshake(server, posing, at_server=peer_name)
    assert isinstance(at_server, ssl.SSLCertVerificationError)
    assert "unsuitable certificate purpose" in str(at_server)


def test_client_with_an_expired_certificate(server: ssl.SSLContext, connector: ConnectorKit, tmp_path: Path) -> None:
    key = new_key()
    expired = custom_certificate(connector.authority, key, x509.ExtendedKeyUsage([CLIENT]), until=timedelta(minutes=-1))
    (tmp_path / "c.pem").write_bytes(expired.public_bytes(Encoding.PEM))
    client = client_context(
        tmp_path / "c.pem", write_key(tmp_path / "c.key", key), connector.authority.certificate_path
    )
    at_server, _ = handshake(server, client)
    assert "expired" in str(at_server)


def test_tls_1_2(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_2
    at_server, at_client = handshake(server, client)
    assert "unsupported protocol" in str(at_server).lower() or "UNSUPPORTED_PROTOCOL" in str(at_server)
    assert isinstance(at_client, OSError)


def test_tls_1_2_server(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    server.minimum_version = server.maximum_version = ssl.TLSVersion.TLSv1_2
    _, at_client = handshake(server, client)
    assert isinstance(at_client, ssl.SSLError)


def test_another_protocol_inside(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    client.set_alpn_protocols(["http/1.1"])
    at_server, _ = handshake(server, client, at_server=peer_name)
    assert isinstance(at_server, ProtocolRefused)
    assert "offered nothing" in str(at_server)


def test_unpaired_at_the_next_handshake(
    server: ssl.SSLContext, client: ssl.SSLContext, connector: ConnectorKit, appliance: Identity
) -> None:
    def paired(tls: ssl.SSLSocket) -> bool:
        connector.paired.require(peer_name(tls)[1])
        return True

    assert isinstance(handshake(server, client, at_server=paired)[0], Unpaired)
    connector.paired.add(PairedNode(node=appliance.node, site=SITE, since=connector.clock()))
    assert handshake(server, client, at_server=paired)[0] is True
    connector.paired.unpair(appliance.node)
    assert isinstance(handshake(server, client, at_server=paired)[0], Unpaired)


# What the client refuses


def test_server_that_is_another_connector(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    wanted = NodeId("ab" * 32)
    _, at_client = handshake(server, client, at_client=lambda tls: connector_name(tls, wanted))
    assert isinstance(at_client, OtherConnector)
    assert wanted in str(at_client)


def test_server_of_another_authority(client: ssl.SSLContext, tmp_path: Path) -> None:
    stranger = make_connector(tmp_path / "stranger")
    stranger.server.stop()
    foreign = server_context(stranger.certificate_path, stranger.identity.key_path, stranger.authority.certificate_path)
    assert isinstance(handshake(foreign, client)[1], ssl.SSLCertVerificationError)


def test_appliance_certificate_used_by_a_server(
    client: ssl.SSLContext, connector: ConnectorKit, appliance: Identity, tmp_path: Path
) -> None:
    certificate = client_certificate(connector, appliance, tmp_path / "posing.pem")
    posing = server_context(certificate, appliance.key_path, connector.authority.certificate_path)
    _, at_client = handshake(posing, client, at_client=peer_name)
    assert isinstance(at_client, ssl.SSLCertVerificationError)


# What our authority would never issue, and OpenSSL lets through


class FakeEnd:
    """A finished handshake with whatever certificate."""

    server_side = True

    def __init__(self, der: bytes | None) -> None:
        self.der = der

    def selected_alpn_protocol(self) -> str:
        return ALPN

    def getpeercert(self, binary_form: bool) -> bytes | None:
        assert binary_form
        return self.der


def fake(der: bytes | None) -> TlsEnd:
    return cast("TlsEnd", FakeEnd(der))


KEY = new_key()
Extensions = list[x509.ExtensionType]


def named(*uris: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])


def own_name(role: Role = Role.APPLIANCE) -> str:
    return NodeName(SITE, role, node_id_of(public_der(KEY))).uri


USAGE = x509.ExtendedKeyUsage([CLIENT])
MAKERS: dict[str, tuple[Callable[[], Extensions], type[Exception], str]] = {
    "no name": (lambda: [USAGE], PeerUnnamed, "has no name"),
    "two names": (lambda: [named(own_name(), own_name()), USAGE], PeerUnnamed, "2 names"),
    "only a host": (lambda: [x509.SubjectAlternativeName([x509.DNSName("x")]), USAGE], PeerUnnamed, "0 names"),
    "another scheme": (lambda: [named("https://example.org"), USAGE], PeerUnnamed, "spiffe"),
    "another's name": (
        lambda: [named(NodeName(SITE, Role.APPLIANCE, NodeId("ab" * 32)).uri), USAGE],
        PeerUnnamed,
        "its key is that of node",
    ),
    "connector's name": (lambda: [named(own_name(Role.CONNECTOR)), USAGE], PeerRoleRefused, "not act as appliance"),
    "no usage": (lambda: [named(own_name())], PeerRoleRefused, "no usage"),
    "other usage": (
        lambda: [named(own_name()), x509.ExtendedKeyUsage([SERVER])],
        PeerRoleRefused,
        "another usage",
    ),
    "both usages": (
        lambda: [named(own_name()), x509.ExtendedKeyUsage([CLIENT, SERVER])],
        PeerRoleRefused,
        "another usage",
    ),
}


@pytest.mark.parametrize("case", MAKERS)
def test_names_and_usages(connector: ConnectorKit, case: str) -> None:
    make, error, message = MAKERS[case]
    der = custom_certificate(connector.authority, KEY, *make()).public_bytes(Encoding.DER)
    with pytest.raises(error, match=message):
        peer_name(fake(der))


def test_a_fitting_custom_certificate_passes(connector: ConnectorKit) -> None:
    der = custom_certificate(connector.authority, KEY, named(own_name()), USAGE).public_bytes(Encoding.DER)
    assert peer_name(fake(der))[0].uri == own_name()


def test_no_certificate() -> None:
    with pytest.raises(PeerUnnamed, match="there is none"):
        peer_name(fake(None))


def test_unreadable_certificate() -> None:
    with pytest.raises(PeerUnnamed, match="cannot be read"):
        peer_name(fake(b"nonsense"))


def test_a_connection_that_is_cut_is_never_taken_for_one_that_is_closed(
    server: ssl.SSLContext, client: ssl.SSLContext
) -> None:
    """Debian's Python sets the option that hides it; ours must not have it, whatever the build."""
    assert not server.options & ssl.OP_IGNORE_UNEXPECTED_EOF
    assert not client.options & ssl.OP_IGNORE_UNEXPECTED_EOF
