"""Connectors, appliances and certificates made for tests, and a TLS handshake over a real socket."""

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from dmcore.connector.ca import Authority, open_authority, server_certificate
from dmcore.connector.paired import PairedList
from dmcore.connector.pairing import PairingDesk
from dmcore.connector.pairing_server import PairingServer
from dmcore.connector.pairing_tokens import TokenStore, make_token
from dmcore.host.address import Address
from dmcore.node.identity import Identity, load_identity
from dmcore.wire.tls import pairing_server_context

SITE = "paris"
OTHER_SITE = "london"
LOCAL = Address("127.0.0.1", 0)
DATA_ADDRESS = Address("127.0.0.1", 7443)


@dataclass
class FakeClock:
    """A clock that stands until it is moved. Starts at the real time: OpenSSL judges certificates by that."""

    now: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **by: float) -> None:
        self.now += timedelta(**by)


@dataclass
class ConnectorKit:
    """A connector's trust: everything but the data port."""

    state_dir: Path
    clock: FakeClock
    identity: Identity
    authority: Authority
    certificate_path: Path
    tokens: TokenStore
    paired: PairedList
    server: PairingServer

    def token(self, site: str = SITE) -> str:
        return make_token(self.tokens, self.authority, self.identity.node, [self.server.address], site)


def make_connector(state_dir: Path, *, timeout_s: float = 10.0) -> ConnectorKit:
    clock = FakeClock()
    identity = load_identity(state_dir)
    authority = open_authority(state_dir, SITE, clock)
    certificate = server_certificate(authority, state_dir, identity, SITE, ["127.0.0.1", "connector.example"])
    tokens, paired = TokenStore(state_dir, clock), PairedList(state_dir)
    desk = PairingDesk(authority, identity.node, DATA_ADDRESS, tokens, paired, clock)
    context = pairing_server_context(certificate, identity.key_path)
    server = PairingServer(LOCAL, context, desk, timeout_s=timeout_s)
    return ConnectorKit(state_dir, clock, identity, authority, certificate, tokens, paired, server)


def csr_of(key: EllipticCurvePrivateKey, *extensions: x509.ExtensionType) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()


def client_certificate(connector: ConnectorKit, identity: Identity, path: Path) -> Path:
    """An appliance's certificate, without the pairing endpoint."""
    issued = connector.authority.issue_client(csr_of(identity.private_key), SITE)
    path.write_bytes(issued.public_bytes(Encoding.PEM))
    return path


def custom_certificate(
    authority: Authority,
    key: EllipticCurvePrivateKey,
    *extensions: x509.ExtensionType,
    until: timedelta = timedelta(days=1),
) -> x509.Certificate:
    """What our authority would never issue, signed by it all the same."""
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + until)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(authority.private_key, SHA256())


def new_key() -> EllipticCurvePrivateKey:
    return generate_private_key(SECP256R1())


def write_key(path: Path, key: EllipticCurvePrivateKey) -> Path:
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


Check = Callable[[ssl.SSLSocket], object]


def handshake(
    server: ssl.SSLContext, client: ssl.SSLContext, *, at_server: Check | None = None, at_client: Check | None = None
) -> tuple[object, object]:
    """Both ends' outcomes over a real socket: what the check returned, or the error that ended it.

    A TLS 1.3 client learns that its certificate was refused only when it reads, so each end sends one byte and reads.
    """
    outcome: list[object] = [None]

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        outcome[0] = _one_end(server, connection, at_server, server_side=True)

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        plain = socket.create_connection(listener.getsockname())
        at_client_outcome = _one_end(client, plain, at_client, server_side=False)
        thread.join()
    return outcome[0], at_client_outcome


def _one_end(context: ssl.SSLContext, plain: socket.socket, check: Check | None, *, server_side: bool) -> object:
    plain.settimeout(10)
    try:
        with context.wrap_socket(plain, server_side=server_side) as tls:
            result = check(tls) if check else None
            tls.sendall(b"x")
            return result if tls.recv(1) else ConnectionResetError("closed")
    except Exception as failure:  # noqa: BLE001 - the outcome under test
        return failure
    finally:
        plain.close()
