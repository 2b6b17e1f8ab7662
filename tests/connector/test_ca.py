import ipaddress
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dmcore.connector.ca import open_authority
from dmcore.connector.trust_errors import CsrRefused
from dmcore.host.errors import FileBroken, FileExposed
from dmcore.model.enums import Role
from dmcore.model.names import NodeName, node_id_of
from dmcore.node.identity import public_der
from tests.trust_kit import OTHER_SITE, SITE, ConnectorKit, FakeClock, csr_of, make_connector, new_key


@pytest.fixture
def connector(tmp_path: Path) -> ConnectorKit:
    kit = make_connector(tmp_path)
    kit.server.stop()
    return kit


def uris(certificate: x509.Certificate) -> list[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def usages(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
    return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def is_authority(certificate: x509.Certificate) -> bool:
    return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_made_once(tmp_path: Path) -> None:
    clock = FakeClock()
    first, second = open_authority(tmp_path, SITE, clock), open_authority(tmp_path, SITE, clock)
    assert first.fingerprint == second.fingerprint
    assert (tmp_path / "ca" / "ca.key").stat().st_mode & 0o777 == 0o600
    assert is_authority(first.certificate)
    first.certificate.verify_directly_issued_by(first.certificate)


def test_a_long_site_name_fits(tmp_path: Path) -> None:
    open_authority(tmp_path, "a" * 63, FakeClock()).issue_client(csr_of(new_key()), "b" * 63)


def test_made_again_after_a_crash_between_key_and_certificate(tmp_path: Path) -> None:
    first = open_authority(tmp_path, SITE, FakeClock())
    first.certificate_path.unlink()
    second = open_authority(tmp_path, SITE, FakeClock())
    assert second.certificate.public_key() == first.certificate.public_key()


def test_certificate_of_another_key(tmp_path: Path) -> None:
    open_authority(tmp_path, SITE, FakeClock())
    (tmp_path / "ca" / "ca.key").unlink()
    with pytest.raises(FileBroken, match=r"not the certificate of the key"):
        open_authority(tmp_path, SITE, FakeClock())


def test_unreadable_certificate(tmp_path: Path) -> None:
    open_authority(tmp_path, SITE, FakeClock()).certificate_path.write_text("x")
    with pytest.raises(FileBroken, match="not a certificate"):
        open_authority(tmp_path, SITE, FakeClock())


def test_exposed_key(tmp_path: Path) -> None:
    open_authority(tmp_path, SITE, FakeClock())
    (tmp_path / "ca" / "ca.key").chmod(0o644)
    with pytest.raises(FileExposed):
        open_authority(tmp_path, SITE, FakeClock())


def test_appliance_certificate(connector: ConnectorKit) -> None:
    key = new_key()
    certificate = connector.authority.issue_client(csr_of(key), OTHER_SITE)
    assert uris(certificate) == [NodeName(OTHER_SITE, Role.APPLIANCE, node_id_of(public_der(key))).uri]
    assert usages(certificate) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert certificate.not_valid_after_utc == connector.clock() + timedelta(days=365)
    assert certificate.not_valid_before_utc <= connector.clock()
    certificate.verify_directly_issued_by(connector.authority.certificate)


def test_server_certificate(connector: ConnectorKit) -> None:
    certificate = x509.load_pem_x509_certificate(connector.certificate_path.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert uris(certificate) == [NodeName(SITE, Role.CONNECTOR, connector.identity.node).uri]
    assert names.get_values_for_type(x509.DNSName) == ["connector.example"]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("127.0.0.1")]
    assert usages(certificate) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_what_a_request_asks_for_is_ignored(connector: ConnectorKit) -> None:
    key = new_key()
    greedy = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "administrator")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.UniformResourceIdentifier(NodeName(SITE, Role.CONNECTOR, connector.identity.node).uri)]
            ),
            critical=False,
        )
        .sign(key, SHA256())
    )
    certificate = connector.authority.issue_client(greedy.public_bytes(Encoding.PEM).decode(), SITE)
    assert not is_authority(certificate)
    assert uris(certificate) == [NodeName(SITE, Role.APPLIANCE, node_id_of(public_der(key))).uri]
    assert usages(certificate) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert "administrator" not in certificate.subject.rfc4514_string()


def test_request_that_is_none(connector: ConnectorKit) -> None:
    with pytest.raises(CsrRefused, match="cannot be read"):
        connector.authority.issue_client("nonsense", SITE)


def test_request_with_another_curve(connector: ConnectorKit) -> None:
    with pytest.raises(CsrRefused, match="P-256"):
        connector.authority.issue_client(csr_of(generate_private_key(SECP384R1())), SITE)


def test_request_that_does_not_hold_its_key(connector: ConnectorKit) -> None:
    der = bytearray(x509.load_pem_x509_csr(csr_of(new_key()).encode()).public_bytes(Encoding.DER))
    der[-1] ^= 1
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM).decode()
    with pytest.raises(CsrRefused, match="not signed by its own key"):
        connector.authority.issue_client(forged, SITE)
