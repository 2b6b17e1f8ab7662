"""Certificates for a control plane that tests make: one of its own, or one that a CA vouches for."""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from dmcore.api.server_trust import fingerprint_of

HOST = "127.0.0.1"


@dataclass(frozen=True)
class ServerFiles:
    """What a server needs."""

    certificate: Path
    key: Path

    @property
    def pem(self) -> str:
        return self.certificate.read_text()

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.pem)


def own_certificate(folder: Path, name: str = "own", valid: tuple[int, int] = (-1, 1)) -> ServerFiles:
    """Vouched for by itself. `valid` are days from now."""
    key = generate_private_key(SECP256R1())
    return _write(folder, name, _signed(name, key, name, key, valid), key)


def authority(folder: Path, name: str = "ca") -> tuple[Path, EllipticCurvePrivateKey]:
    """A CA's certificate, and its key."""
    key = generate_private_key(SECP256R1())
    return _write(folder, name, _signed(name, key, name, key, (-1, 1), ca=True), key).certificate, key


def issued(folder: Path, ca_key: EllipticCurvePrivateKey, host: str = HOST, ca: str = "ca") -> ServerFiles:
    """A server's certificate of that CA, for a host."""
    key = generate_private_key(SECP256R1())
    return _write(folder, f"of-{host}", _signed("server", key, ca, ca_key, (-1, 1), host=host), key)


def _signed(
    name: str, key: EllipticCurvePrivateKey, issuer: str, issuer_key: EllipticCurvePrivateKey,
    valid: tuple[int, int], *, ca: bool = False, host: str = HOST,
) -> x509.Certificate:  # fmt: skip
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=valid[0]))
        .not_valid_after(now + timedelta(days=valid[1]))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if not ca:
        name_of_host = x509.IPAddress(ipaddress.ip_address(host)) if host[0].isdigit() else x509.DNSName(host)
        builder = builder.add_extension(x509.SubjectAlternativeName([name_of_host]), critical=False)
    return builder.sign(issuer_key, SHA256())


def _write(folder: Path, name: str, certificate: x509.Certificate, key: EllipticCurvePrivateKey) -> ServerFiles:
    files = ServerFiles(folder / f"{name}.pem", folder / f"{name}.key")
    files.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files
