"""The data port against clients that have no business there, and those that lose it."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pytest

from dmcore.connector.errors import ConnectorFault
from dmcore.connector.groups import Groups
from dmcore.connector.trust_errors import Unpaired
from dmcore.errors import ExitCode
from dmcore.model.ids import NodeId
from dmcore.shadow.group import GroupShadow
from dmcore.wire.connection import Connection
from dmcore.wire.errors import HandshakeRefused, PeerGone
from dmcore.wire.messages import ConnectionKind, Hello
from dmcore.wire.tls import client_context
from tests.connector.appliance import Appliance
from tests.connector.kit import TIMEOUT_S, Disk, refusal, until
from tests.connector.rig import Rig
from tests.trust_kit import client_certificate, make_connector

GOODBYE = (PeerGone, HandshakeRefused)


def data_port(rig: Rig) -> tuple[str, int]:
    address = rig.connector.server.address
    return address.host, address.port


def converse(rig: Rig, context: ssl.SSLContext) -> None:
    """Shake hands and say hello, as an appliance does. Only the answer shows that the connector takes it."""
    connection = Connection.connect(*data_port(rig), context, TIMEOUT_S)
    with closing(connection):
        connection.send_message(
            Hello(versions=(1,), capabilities=(), connection=ConnectionKind.CONTROL, software="test")
        )
        assert connection.receive(TIMEOUT_S)


def still_serves(appliance: Appliance) -> bool:
    return appliance.state().epoch == 0


# Who may not come in


def test_no_certificate(rig: Rig, appliance: Appliance) -> None:
    naked = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    naked.check_hostname = False
    naked.load_verify_locations(rig.connector.trust.authority.certificate_path)
    with pytest.raises(GOODBYE):
        converse(rig, naked)
    assert still_serves(appliance)


def test_another_authority(rig: Rig, appliance: Appliance, tmp_path: Path) -> None:
    stranger = make_connector(tmp_path / "stranger")
    stranger.server.stop()
    certificate = client_certificate(stranger, appliance.identity, tmp_path / "foreign.pem")
    authority = rig.connector.trust.authority.certificate_path
    with pytest.raises(GOODBYE):
        converse(rig, client_context(certificate, appliance.identity.key_path, authority))
    assert still_serves(appliance)


def test_the_connectors_own_role(rig: Rig, appliance: Appliance) -> None:
    trust = rig.connector.trust
    posing = client_context(
        rig.state_dir / "ca" / "server.pem", trust.identity.key_path, trust.authority.certificate_path
    )
    with pytest.raises(GOODBYE):
        converse(rig, posing)
    assert still_serves(appliance)


def test_an_unpaired_key_with_a_good_certificate(rig: Rig, appliance: Appliance) -> None:
    rig.connector.trust.paired.unpair(appliance.identity.node)
    refused = refusal(appliance.control)
    assert (refused.code, refused.exit_code) == ("tls.unpaired", ExitCode.TRUST)
    assert appliance.identity.node in str(refused)


def test_tls_1_2(rig: Rig, appliance: Appliance) -> None:
    context = appliance.link.context
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(GOODBYE):
        converse(rig, context)
    assert still_serves(appliance)


def test_another_protocol_inside(rig: Rig, appliance: Appliance) -> None:
    context = appliance.link.context
    context.set_alpn_protocols(["http/1.1"])
    refused = refusal(lambda: converse(rig, context))
    assert refused.code == "tls.protocol"


def test_no_tls_at_all(rig: Rig, appliance: Appliance) -> None:
    with socket.create_connection(data_port(rig), TIMEOUT_S) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while plain.recv(4096):
            pass
    assert still_serves(appliance)


def test_other_versions_only(rig: Rig, appliance: Appliance) -> None:
    connection = Connection.connect(*data_port(rig), appliance.link.context, TIMEOUT_S)
    with closing(connection):
        hello = Hello(versions=(999,), capabilities=(), connection=ConnectionKind.DISK, software="future")
        connection.send_message(hello)
        assert refusal(lambda: connection.receive(TIMEOUT_S)).code == "wire.version"


# Who says nothing, and too many


@pytest.fixture
def hasty(rig: Rig) -> Rig:
    rig.limits(handshake_timeout_s=0.2)
    rig.restart()
    return rig


def test_silent_before_the_handshake(hasty: Rig) -> None:
    with socket.create_connection(data_port(hasty), TIMEOUT_S) as plain:
        assert plain.recv(1) == b""


def test_silent_after_the_handshake(hasty: Rig, appliance: Appliance) -> None:
    connection = Connection.connect(*data_port(hasty), appliance.link.context, TIMEOUT_S)
    with closing(connection):
        refused = refusal(lambda: connection.receive(TIMEOUT_S))
    assert refused.code == "wire.gone"
    assert "sent no hello in time" in str(refused)


def test_more_than_are_allowed(rig: Rig, appliance: Appliance) -> None:
    rig.limits(max_connections=2)
    rig.restart()
    first, _ = appliance.control(), appliance.control()
    with pytest.raises(GOODBYE):
        appliance.control()
    first.close()
    until(lambda: len(rig.connector.server._listener._served) == 1)
    assert still_serves(appliance)


# Unpairing


def test_unpairing_cuts_what_is_connected(rig: Rig, appliance: Appliance, disk: Disk) -> None:
    other = rig.pair("other")
    attempt = appliance.begin(disk)
    sender = attempt.open(disk)
    sender.start()
    told = rig.connector.operator.operations.unpair(appliance.identity.node)
    assert told == {"node": appliance.identity.node, "connections_cut": 3}  # state, attempt, disk
    for connection in (attempt.control.connection, sender.channel.connection):
        with pytest.raises(PeerGone):
            connection.receive(TIMEOUT_S)
    assert refusal(appliance.control).code == "tls.unpaired"
    assert other.state()
    other.close()


def test_unpairing_who_is_not_paired(rig: Rig) -> None:
    with pytest.raises(Unpaired):
        rig.connector.operator.operations.unpair(NodeId("ab" * 32))


# What goes wrong inside


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Exception]]:
    """What the next lookups of a group raise, instead of looking."""
    errors: list[Exception] = []
    real = Groups.find

    def find(self: Groups, group: UUID, plan: UUID) -> GroupShadow | None:
        if errors:
            raise errors.pop()
        return real(self, group, plan)  # type: ignore[arg-type]

    monkeypatch.setattr(Groups, "find", find)
    yield errors
    assert not errors


def test_a_failing_state_disk_is_told(appliance: Appliance, failing: list[Exception]) -> None:
    failing.append(OSError(5, "Input/output error", "/state/groups"))
    refused = refusal(appliance.state)
    assert (refused.code, refused.permanent) == ("target.io", False)
    assert "/state/groups" in str(refused)
    assert still_serves(appliance)


def test_a_fault_is_told_without_its_insides(
    appliance: Appliance, failing: list[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(ZeroDivisionError("secret"))
    refused = refusal(appliance.state)
    assert refused.code == ConnectorFault.code == "connector.fault"
    assert "ZeroDivisionError" in str(refused)
    assert refused.correlation in str(refused)
    assert "secret" not in str(refused)
    assert refused.correlation in capsys.readouterr().out
    assert still_serves(appliance)


def test_no_descriptors_left_for_a_connection(rig: Rig, appliance: Appliance, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(sock: socket.socket, *_: object) -> Connection:
        sock.close()
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(Connection, "accept", refuse)
        with pytest.raises(GOODBYE):
            appliance.control()
    assert still_serves(appliance)


def test_stop_does_not_wait_for_who_says_nothing(rig: Rig, appliance: Appliance) -> None:
    """A client that never finishes its handshake, and one that never says what it wants."""
    with socket.create_connection(data_port(rig), TIMEOUT_S) as silent:
        control = appliance.control()
        until(lambda: len(rig.connector.server._listener._served) == 2)
        rig.stop()
        assert silent.recv(1) == b""
        with pytest.raises(PeerGone):
            control.connection.receive(TIMEOUT_S)


def test_who_gets_in_while_it_stops_is_ended(rig: Rig, appliance: Appliance) -> None:
    rig.connector.server._stopping = True
    with pytest.raises(GOODBYE):
        appliance.control()
