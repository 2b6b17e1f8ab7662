"""Waiting for one certain message."""

from typing import TypeVar

from dmcore.wire.coding import Received, ReceivedMessage
from dmcore.wire.connection import Connection
from dmcore.wire.errors import PeerGone, ProtocolError
from dmcore.wire.messages import Message

T = TypeVar("T", bound=Message)


def receive_before(connection: Connection, deadline: float, what: str) -> Received:
    """The next message or batch; wakeups do not end the wait.

    Raises:
        PeerGone: nothing came before the deadline (by the connection's clock), or the peer left.
        PeerRefused, ProtocolError: as `Connection.receive`.
    """
    while (received := connection.receive(deadline - connection.clock())) is None:
        if connection.clock() >= deadline:
            raise PeerGone(peer=connection.peer, problem=f"sent no {what} in time")
    return received


def expect(connection: Connection, wanted: type[T], timeout_s: float) -> tuple[T, memoryview]:
    """The next message, which must be of this type, and its payload.

    Raises:
        ProtocolError: it is another one.
        PeerGone, PeerRefused: as `receive_before`.
    """
    name = wanted.model_fields["type"].default
    received = receive_before(connection, connection.clock() + timeout_s, name)
    if not isinstance(received, ReceivedMessage) or not isinstance(received.message, wanted):
        raise ProtocolError(peer=connection.peer, problem=f"something else than {name}")
    return received.message, received.payload
