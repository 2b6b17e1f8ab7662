"""The connector's own certificate authority: it names the connector and its paired appliances only.

Names, usages and lifetimes are written here; whatever a request asks for beside its key is ignored.
"""

import hashlib
import ipaddress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dmcore.connector.trust_errors import CsrRefused
from dmcore.host.clock import Clock
from dmcore.host.errors import FileBroken
from dmcore.host.files import make_dir, read_state, replace_file
from dmcore.model.enums import Role
from dmcore.model.names import NodeName, node_id_of
from dmcore.node.identity import Identity, load_or_make_key

AUTHORITY_LIFE = timedelta(days=20 * 365)
"""Longer than any appliance: a lapsed authority stops replication, and its fingerprint is pinned anyway."""
NODE_LIFE = timedelta(days=365)
BACKDATED = timedelta(hours=1)
"""For peers whose clock is behind."""


@dataclass(frozen=True)
class Authority:
    """The CA of one connector."""

    certificate: x509.Certificate
    certificate_path: Path
    clock: Clock
    private_key: EllipticCurvePrivateKey = field(repr=False)

    @property
    def pem(self) -> str:
        """Its certificate, for a peer to trust."""
        return self.certificate.public_bytes(Encoding.PEM).decode()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of its certificate (DER), hex: what a pairing token pins."""
        return authority_fingerprint(self.certificate)

    def issue_client(self, csr_pem: str, site: str) -> x509.Certificate:
        """An appliance's certificate for the key in a request; everything else in the request is ignored.

        Raises:
            CsrRefused: unreadable, not a P-256 key, or not signed by it.
        """
        key = requested_key(csr_pem)
        name = NodeName(site, Role.APPLIANCE, node_id_of(_der(key)))
        return self._issue(key, name, ExtendedKeyUsageOID.CLIENT_AUTH, [])

    def issue_server(self, identity: Identity, site: str, hosts: list[str]) -> x509.Certificate:
        """The connector's own certificate; `hosts` are the names and addresses it is reached by."""
        name = NodeName(site, Role.CONNECTOR, identity.node)
        host_names = [_host_name(host) for host in hosts]
        return self._issue(identity.private_key.public_key(), name, ExtendedKeyUsageOID.SERVER_AUTH, host_names)

    def _issue(
        self,
        key: EllipticCurvePublicKey,
        name: NodeName,
        usage: x509.ObjectIdentifier,
        hosts: list[x509.GeneralName],
    ) -> x509.Certificate:
        return (
            _dated(
                _subject(f"dmcore {name.role}", name.site),
                self.certificate.subject,
                key,
                self.clock,
                NODE_LIFE,
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name.uri), *hosts]),
                critical=False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.private_key.public_key()),
                critical=False,
            )
            .sign(self.private_key, SHA256())
        )


def open_authority(state_dir: Path, site: str, clock: Clock) -> Authority:
    """The authority in this state directory, made at the first call (the node's state lock is held).

    Raises:
        FileBroken: its certificate cannot be read, or is not its key's.
        FileExposed: others than the owner have rights on its key.
    """
    folder = make_dir(state_dir / "ca")
    key = load_or_make_key(folder / "ca.key")
    path = folder / "ca.pem"
    if not path.exists():
        replace_file(path, _self_signed(key, site, clock).public_bytes(Encoding.PEM), mode=0o644)
    certificate = _load(path)
    if certificate.public_key() != key.public_key():
        raise FileBroken(path=str(path), problem="not the certificate of the key ca.key beside it")
    return Authority(certificate, path, clock, key)


def server_certificate(authority: Authority, state_dir: Path, identity: Identity, site: str, hosts: list[str]) -> Path:
    """A fresh certificate of the connector for its own key, as a PEM file; asked for at every start."""
    path = make_dir(state_dir / "ca") / "server.pem"
    issued = authority.issue_server(identity, site, hosts)
    replace_file(path, issued.public_bytes(Encoding.PEM), mode=0o644)
    return path


def authority_fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of a certificate (DER), hex."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def _self_signed(key: EllipticCurvePrivateKey, site: str, clock: Clock) -> x509.Certificate:
    name = _subject("dmcore connector authority", site)
    return (
        _dated(name, name, key.public_key(), clock, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA256())
    )


def _dated(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePublicKey, clock: Clock, life: timedelta
) -> x509.CertificateBuilder:
    now = clock()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + life)
    )


def requested_key(csr_pem: str) -> EllipticCurvePublicKey:
    """The key that a certificate request proves to hold: the one thing in it that counts.

    Raises:
        CsrRefused: unreadable, not a P-256 key, or not signed by it.
    """
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
        key = request.public_key()
        proven = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as problem:
        raise CsrRefused(problem=f"it cannot be read ({problem})") from problem
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise CsrRefused(problem="its key is not a P-256 key")
    if not proven:
        raise CsrRefused(problem="it is not signed by its own key")
    return key


def _load(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(read_state(path))
    except ValueError as problem:
        raise FileBroken(path=str(path), problem=f"not a certificate in PEM: {problem}") from problem


def _subject(title: str, site: str) -> x509.Name:
    """For people who look at a certificate; nothing reads it."""
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, site), x509.NameAttribute(NameOID.COMMON_NAME, title)]
    )


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _der(key: EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
