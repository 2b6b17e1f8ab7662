"""Pairing with a connector: from a token to a certificate of its authority, and what is kept of it."""

from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import BaseModel, ConfigDict

from dmcore.api.labels import NodeIdText, Site
from dmcore.appliance.pairing_client import PairingClient
from dmcore.host.address import Address, AddressText
from dmcore.host.errors import FileBroken
from dmcore.host.files import make_dir, read_state, replace_file
from dmcore.model.enums import Role
from dmcore.model.ids import NodeId
from dmcore.model.names import NodeName, is_node_id
from dmcore.node.identity import Identity
from dmcore.node.pairing_errors import NotPaired, PairingRefused, TokenOtherSite
from dmcore.node.pairing_token import PairAnswer, PairingToken, PairRequest


@dataclass(frozen=True)
class Pairing:
    """What an appliance holds of one connector; the key is its identity's."""

    connector: NodeId
    address: Address
    site: str
    """The appliance's own, as the connector certified it."""
    authority_path: Path
    certificate_path: Path


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    connector: NodeIdText
    address: AddressText
    site: Site


def pair(
    token_text: str, identity: Identity, site: str, state_dir: Path, client: PairingClient | None = None
) -> Pairing:
    """Pair with the connector that made this token, and keep the pairing instead of any older one with it.

    Raises:
        TokenMalformed, TokenOtherSite: before anybody is asked.
        TokenUnknown, TokenUsed, TokenExpired, PairingRefused: the connector says no.
        AuthorityMismatch, OtherConnector: it is not that connector; the secret was not sent.
        ConnectorUnreachable: nobody answers at any of the token's addresses.
    """
    token = PairingToken.decode(token_text)
    if token.site != site:
        raise TokenOtherSite(token_site=token.site, own_site=site)
    asking = client or PairingClient()
    address, authority = asking.fetch_authority(token)
    answer = asking.ask_to_pair(address, authority, token, PairRequest(secret=token.secret, csr=_csr(identity)))
    _require_ours(answer, authority, token, identity)
    return _store(state_dir, answer, authority, site)


def load_pairing(state_dir: Path, connector: NodeId) -> Pairing:
    """The pairing with this connector.

    Raises:
        NotPaired: there is none.
        FileBroken: there is one, but it cannot be read.
    """
    if not is_node_id(connector):  # never a path made of something else
        raise NotPaired(connector=connector)
    path = _folder(state_dir, connector) / "pairing.json"
    try:
        record = _Record.model_validate_json(read_state(path))
    except FileNotFoundError as missing:
        raise NotPaired(connector=connector) from missing
    except ValueError as problem:
        raise FileBroken(path=str(path), problem="not a pairing; pair again") from problem
    return _pairing(state_dir, record)


def load_pairings(state_dir: Path) -> list[Pairing]:
    """Every pairing of this appliance, by connector."""
    found = sorted((state_dir / "pairings").glob("[0-9a-f]*/pairing.json"))
    return [load_pairing(state_dir, NodeId(path.parent.name)) for path in found]


def _csr(identity: Identity) -> str:
    """Proves the key, asks for nothing: the connector writes the name."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return request.sign(identity.private_key, SHA256()).public_bytes(Encoding.PEM).decode()


def _require_ours(answer: PairAnswer, authority: x509.Certificate, token: PairingToken, identity: Identity) -> None:
    wanted = NodeName(token.site, Role.APPLIANCE, identity.node).uri
    try:
        certificate = x509.load_pem_x509_certificate(answer.certificate.encode())
        certificate.verify_directly_issued_by(authority)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        fits = names.get_values_for_type(x509.UniformResourceIdentifier) == [wanted]
    except Exception as problem:
        raise PairingRefused(problem=f"its certificate for this node is broken ({problem})") from problem
    if not fits or certificate.public_key() != identity.private_key.public_key():
        raise PairingRefused(problem="its certificate is for another node")
    if answer.connector != token.connector:
        raise PairingRefused(problem=f"it calls itself {answer.connector}, the token says {token.connector}")


def _store(state_dir: Path, answer: PairAnswer, authority: x509.Certificate, site: str) -> Pairing:
    record = _Record(connector=answer.connector, address=answer.address, site=site)
    pairing = _pairing(state_dir, record)
    folder = make_dir(_folder(state_dir, answer.connector))
    replace_file(pairing.authority_path, authority.public_bytes(Encoding.PEM))
    replace_file(pairing.certificate_path, answer.certificate.encode())
    replace_file(folder / "pairing.json", record.model_dump_json().encode())  # last: without it there is no pairing
    return pairing


def _pairing(state_dir: Path, record: _Record) -> Pairing:
    folder = _folder(state_dir, record.connector)
    return Pairing(record.connector, record.address, record.site, folder / "ca.pem", folder / "cert.pem")


def _folder(state_dir: Path, connector: NodeId) -> Path:
    return state_dir / "pairings" / connector
