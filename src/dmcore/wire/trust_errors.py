"""Why a peer whose certificate its authority signed is refused all the same."""

from dataclasses import dataclass

from dmcore.errors import TrustError


@dataclass(eq=False)
class PeerUnnamed(TrustError):
    """The peer's certificate does not say who it is in the one way that counts."""

    code = "tls.peer-name"
    template = "the peer's certificate is refused: {problem}"
    problem: str


@dataclass(eq=False)
class PeerRoleRefused(TrustError):
    """A certificate of one role was used in the other."""

    code = "tls.peer-role"
    template = "the peer {name} may not act as {wanted}: {problem}"
    name: str
    wanted: str
    problem: str


@dataclass(eq=False)
class OtherConnector(TrustError):
    """The server is a connector of this authority, but not the one that was asked for."""

    code = "tls.other-connector"
    template = "the connector that answers is {found}, not {wanted}; check the address in the pairing"
    found: str
    wanted: str


@dataclass(eq=False)
class ProtocolRefused(TrustError):
    """TLS was agreed without agreeing on what is spoken inside."""

    code = "tls.protocol"
    template = "the peer does not speak {wanted} (it offered {found})"
    wanted: str
    found: str
