"""What can go wrong between two nodes. Names of certificates have trust_errors.py."""

from dataclasses import dataclass
from typing import ClassVar

from dmcore.errors import ConnectionFailed, DmcoreError, ExitCode, RefusedError, TrustError


@dataclass(eq=False)
class PeerGone(ConnectionFailed):
    """The peer closed, was cut off, or said nothing for too long."""

    code = "wire.gone"
    template = "{peer}: {problem}"
    peer: str
    problem: str


@dataclass(eq=False)
class ConnectionCancelled(ConnectionFailed):
    """Another thread of this node ended the connection."""

    code = "wire.cancelled"
    template = "{peer}: ended by this node: {problem}"
    peer: str
    problem: str


@dataclass(eq=False)
class HeldBack(ConnectionFailed):
    """Sending is paused, and a connection that sends nothing must not hold what others could use. Not a fault."""

    code = "wire.held-back"
    template = "{peer}: ended by this node: sending is paused; it goes on when it is resumed"
    peer: str


@dataclass(eq=False)
class HandshakeRefused(TrustError):
    """TLS could not be agreed: another version, no certificate, or one that a side does not accept."""

    code = "wire.handshake"
    template = "TLS with {peer}: {problem}; check that both nodes are paired and speak TLS 1.3"
    peer: str
    problem: str


@dataclass(eq=False)
class ProtocolError(ConnectionFailed):
    """The peer sent what docs/protocol.md does not allow. The connection must be closed."""

    code = "wire.protocol"
    template = "{peer} broke the wire protocol: {problem}; check both nodes' versions"
    problem: str
    peer: str = "the peer"

    permanent: ClassVar[bool] = True


@dataclass(eq=False)
class VersionMismatch(RefusedError):
    """No version of the wire protocol that both sides speak."""

    code = "wire.version"
    template = "{peer} speaks wire versions {theirs}, this node {ours}: upgrade the older node"
    peer: str
    theirs: tuple[int, ...]
    ours: tuple[int, ...]


@dataclass(eq=False)
class MessageTooLarge(DmcoreError):
    """A message of this node's own is over the limit; nothing was sent."""

    code = "wire.too-large"
    template = "message {type} of {bytes} bytes is over the limit of {limit}: protect fewer disks in one group"
    type: str
    bytes: int
    limit: int


@dataclass(eq=False)
class OutOfTurn(DmcoreError):
    """This node was about to send what may not come now: a bug in this node. Nothing was sent."""

    code = "wire.turn"
    template = "{name} may not be sent while {state}"
    name: str
    state: str


@dataclass(eq=False)
class WrongThread(DmcoreError):
    """A connection was used by a thread that does not own it: a bug in this node."""

    code = "wire.thread"
    template = "connection to {peer} was used by a thread that does not own it"
    peer: str


@dataclass(eq=False)
class PeerRefused(RefusedError):
    """The peer understood and said no. Its code, exit code and permanence stand in for this class's own."""

    code = "wire.refused"
    template = "{peer} refused: {message} [{peer_code}]"
    peer: str
    message: str
    peer_code: str
    peer_exit_code: ExitCode
    peer_permanent: bool

    def __post_init__(self) -> None:
        # On the instance, over the class's: whoever branches on an error sees what the peer decided.
        vars(self).update(code=self.peer_code, exit_code=self.peer_exit_code, permanent=self.peer_permanent)
