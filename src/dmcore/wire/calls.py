"""What an appliance says on a control connection, and what both kinds of its connections begin with."""

from typing import TypeVar

from dmcore.wire import versions
from dmcore.wire.connection import Connection
from dmcore.wire.errors import ProtocolError
from dmcore.wire.exchange import expect
from dmcore.wire.messages import (
    BeginReply,
    BeginRequest,
    CommitReply,
    CommitRequest,
    ConnectionKind,
    Hello,
    Message,
    StateReply,
    StateRequest,
    Welcome,
)

REPLY_TIMEOUT_S = 60.0
"""How long a reply may take. A connector answers `commit` at once, with progress."""

T = TypeVar("T", bound=Message)


class Channel:
    """The client's end of one kind of connection. Belongs to the connection's owner.

    Every method raises PeerRefused with the connector's own code, PeerGone or ProtocolError.
    """

    kind: ConnectionKind

    def __init__(self, connection: Connection, timeout_s: float = REPLY_TIMEOUT_S) -> None:
        """`timeout_s` is for each reply."""
        self.connection = connection
        self.timeout_s = timeout_s

    def hello(self) -> Welcome:
        """Agree on a version. Only its reply shows that the connector takes this node's certificate."""
        welcome, _ = self._call(
            Hello(
                versions=versions.VERSIONS,
                capabilities=versions.CAPABILITIES,
                connection=self.kind,
                software=versions.software(),
            ),
            Welcome,
        )
        if welcome.version not in versions.VERSIONS or not set(welcome.capabilities) <= set(versions.CAPABILITIES):
            raise self._wrong(f"version {welcome.version} or a capability was not offered")
        return welcome

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def _call(self, request: Message, reply: type[T]) -> tuple[T, memoryview]:
        self.connection.send_message(request)
        return expect(self.connection, reply, self.timeout_s)

    def _wrong(self, problem: str) -> ProtocolError:
        return ProtocolError(peer=self.connection.peer, problem=problem)


class ControlChannel(Channel):
    """One attempt's control connection."""

    kind = ConnectionKind.CONTROL

    def state(self, request: StateRequest) -> StateReply:
        """What the connector holds of the group; before the source snapshot is made."""
        return self._call(request, StateReply)[0]

    def begin(self, request: BeginRequest) -> BeginReply:
        """Begin, or go on with, the cycle. Once; again only if the answer is BUSY."""
        return self._call(request, BeginReply)[0]

    def commit(self, request: CommitRequest) -> CommitReply:
        """Commit, or ask how far the commit is: the caller repeats until the phase is one of ANSWERED."""
        return self._call(request, CommitReply)[0]
