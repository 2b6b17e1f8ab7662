"""TLS 1.3 between an appliance and a connector, and who is at the other end.

OpenSSL checks that the peer's certificate was signed by the connector's own authority, is valid now, and is for
its side of the connection. Host names are not checked (`check_hostname` is False): a node is named by a SPIFFE
URI with the hash of its key in it, whatever address it is reached by, and `peer_name` and `connector_name`
check that. So call one of them before the first byte is sent or believed.

No session tickets, so no resumption and no 0-RTT: every connection proves both keys anew, and unpairing is
immediate.
"""

import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from dmcore.model.enums import Role
from dmcore.model.ids import NodeId
from dmcore.model.names import NodeName, node_id_of
from dmcore.wire.trust_errors import OtherConnector, PeerRoleRefused, PeerUnnamed, ProtocolRefused

ALPN = "dmcore/1"
PAIRING_ALPN = "dmcore-pair/1"
USAGE = {Role.APPLIANCE: ExtendedKeyUsageOID.CLIENT_AUTH, Role.CONNECTOR: ExtendedKeyUsageOID.SERVER_AUTH}

IGNORED_CUTS = getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
"""Some builds of Python set it: then a connection that was cut looks like one that was closed. Pairing, whose messages
carry their lengths, does not mind."""

TlsEnd = ssl.SSLObject | ssl.SSLSocket


def server_context(certificate: Path, key: Path, authority: Path) -> ssl.SSLContext:
    """A connector's side: only clients with a certificate of its own authority."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, ALPN)
    context.options &= ~IGNORED_CUTS
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(certificate: Path, key: Path, authority: Path) -> ssl.SSLContext:
    """An appliance's side: only servers with a certificate of the authority it was paired with."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, ALPN)
    context.options &= ~IGNORED_CUTS
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(authority)
    return context


def pairing_server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """The pairing endpoint's side: a client that pairs has no certificate yet."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, PAIRING_ALPN)
    context.load_cert_chain(certificate, key)
    return context


def pairing_client_context(authority_pem: str | None) -> ssl.SSLContext:
    """The pairing client's side. None: trust nobody, to fetch the authority that a token then judges."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, PAIRING_ALPN)
    if authority_pem is None:
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(cadata=authority_pem)
    return context


def peer_name(end: TlsEnd, alpn: str = ALPN) -> tuple[NodeName, NodeId]:
    """Who is at the other end of a finished handshake: an appliance if we are the server, else a connector.

    Raises:
        ProtocolRefused: the peer did not agree on the protocol.
        PeerUnnamed: no certificate, not exactly one SPIFFE name in it, or a name that is not its key's.
        PeerRoleRefused: the certificate is for the other side of a connection.
    """
    if end.selected_alpn_protocol() != alpn:
        raise ProtocolRefused(wanted=alpn, found=end.selected_alpn_protocol() or "nothing")
    certificate = _certificate(end)
    name = _name(certificate)
    _require_role(certificate, name, Role.APPLIANCE if end.server_side else Role.CONNECTOR)
    node = node_id_of(certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    if node != name.node:
        raise PeerUnnamed(problem=f"its name is {name.uri}, but its key is that of node {node}")
    return name, node


def connector_name(end: TlsEnd, expected: NodeId, alpn: str = ALPN) -> NodeName:
    """For the client: `peer_name`, and that it is the connector asked for.

    Raises:
        OtherConnector: it is another one.
        TrustError: whatever `peer_name` refuses.
    """
    name, node = peer_name(end, alpn)
    if node != expected:
        raise OtherConnector(found=node, wanted=expected)
    return name


def _context(side: int, alpn: str) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
    if side == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0
    context.set_alpn_protocols([alpn])
    return context


def _certificate(end: TlsEnd) -> x509.Certificate:
    der = end.getpeercert(binary_form=True)
    if der is None:
        raise PeerUnnamed(problem="there is none")
    try:
        return x509.load_der_x509_certificate(der)
    except ValueError as problem:
        raise PeerUnnamed(problem=f"it cannot be read ({problem})") from problem


def _name(certificate: x509.Certificate) -> NodeName:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        if len(uris) != 1:
            raise PeerUnnamed(problem=f"it has {len(uris)} names, not one")
        return NodeName.parse(uris[0])
    except x509.ExtensionNotFound as missing:
        raise PeerUnnamed(problem="it has no name") from missing
    except ValueError as problem:  # unreadable extensions, and what is no name
        raise PeerUnnamed(problem=str(problem)) from problem


def _require_role(certificate: x509.Certificate, name: NodeName, wanted: Role) -> None:
    if name.role is not wanted:
        raise PeerRoleRefused(name=name.uri, wanted=wanted, problem="its name says so")
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound as missing:
        raise PeerRoleRefused(name=name.uri, wanted=wanted, problem="its certificate has no usage") from missing
    if list(usages) != [USAGE[wanted]]:
        raise PeerRoleRefused(name=name.uri, wanted=wanted, problem="its certificate is for another usage")
