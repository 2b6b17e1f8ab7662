"""The control plane's own TLS: a certificate that is made once, and known to nodes by its fingerprint."""

import hashlib
import ipaddress
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dmcore.control.settings import ControlPlaneSettings
from dmcore.host.clock import Clock
from dmcore.host.errors import FileBroken
from dmcore.host.files import create_file, make_dir, read_private, read_state

KEY_FILE, CERTIFICATE_FILE = "tls.key", "tls.pem"
LIFE = timedelta(days=20 * 365)
"""It is known by its fingerprint: a certificate that lapses would only cut every node off."""
BACKDATED = timedelta(days=1)
"""For nodes whose clock is behind."""


@dataclass(frozen=True)
class ServerCertificate:
    """What the server shows. `pinned`: made here, so nobody else vouches for it."""

    certificate: Path
    key: Path
    fingerprint: str
    """SHA-256 of the certificate (DER), lower-case hex."""
    pinned: bool

    def context(self) -> ssl.SSLContext:
        """For a server: TLS 1.3 only, no tickets. Raises FileBroken: the key is not the certificate's."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ValueError) as problem:  # an SSLError is an OSError
            raise FileBroken(path=str(self.key), problem="not the key of the certificate") from problem
        return context


def open_certificate(settings: ControlPlaneSettings, clock: Clock) -> ServerCertificate:
    """The operator's own, or the one in the state directory, which is made at the first call.

    Raises:
        FileBroken: a file is missing or not what it should be.
        FileExposed: others than the owner have rights on the key.
    """
    if settings.tls is not None:
        own = settings.tls
        return ServerCertificate(own.certificate, own.key, _fingerprint(own.certificate), pinned=False)
    folder = make_dir(settings.state_dir)
    certificate, key_path = folder / CERTIFICATE_FILE, folder / KEY_FILE
    key = _load_or_make(key_path)
    if not certificate.exists():
        made = _self_signed(key, settings.advertise, clock).public_bytes(Encoding.PEM)
        with suppress(FileExistsError):  # another process was first
            create_file(certificate, made, mode=0o644)
    return ServerCertificate(certificate, key_path, _fingerprint(certificate), pinned=True)


def _fingerprint(path: Path) -> str:
    try:
        certificate = x509.load_pem_x509_certificate(read_state(path))
    except FileNotFoundError as missing:
        raise FileBroken(path=str(path), problem="there is no such file") from missing
    except ValueError as problem:
        raise FileBroken(path=str(path), problem="not a certificate in PEM") from problem
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def _load_or_make(path: Path) -> EllipticCurvePrivateKey:
    if not path.exists():
        made = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with suppress(FileExistsError):  # another process was first: its key is the one
            create_file(path, made)
    try:
        key = load_pem_private_key(read_private(path), password=None)
    except (ValueError, TypeError) as problem:
        raise FileBroken(path=str(path), problem="not a private key in PEM") from problem
    if not isinstance(key, EllipticCurvePrivateKey):
        raise FileBroken(path=str(path), problem="not an elliptic curve key")
    return key


def _self_signed(key: EllipticCurvePrivateKey, hosts: Sequence[str], clock: Clock) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dmcore control plane")])
    now = clock()
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_host_name(host) for host in hosts]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA256())
    )


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
