"""Which message may come when: a table for each kind of connection (docs/protocol.md), for both ends."""

from enum import StrEnum

from dmcore.wire.errors import OutOfTurn, ProtocolError
from dmcore.wire.messages import ConnectionKind, Hello, Message

BATCH = "batch"
"""How a BATCH record is called among the messages."""


class Side(StrEnum):
    """Who sent it: the appliance connects, the connector serves."""

    CLIENT = "C"
    SERVER = "S"

    @property
    def other(self) -> "Side":
        """The peer's side."""
        return Side.SERVER if self is Side.CLIENT else Side.CLIENT


class State(StrEnum):
    """Where a conversation is."""

    CONNECTED = "connected"
    GREETING = "greeting"
    READY = "ready"
    ASKED = "asked"
    BEGINNING = "beginning"
    BEGUN = "begun"
    COMMITTING = "committing"
    OPENING = "opening"
    OPENED = "opened"
    STREAMING = "streaming"
    ENDED = "ended"


Table = dict[tuple[State, Side, str], State]
C, S = Side.CLIENT, Side.SERVER

GREETED: Table = {
    (State.CONNECTED, C, "hello"): State.GREETING,
    (State.GREETING, S, "welcome"): State.READY,
}
ERRORS: Table = {(state, side, "error"): State.ENDED for state in State if state is not State.ENDED for side in Side}

CONTROL: Table = {
    **GREETED,
    (State.READY, C, "state-request"): State.ASKED,
    (State.ASKED, S, "state-reply"): State.READY,
    (State.READY, C, "begin-request"): State.BEGINNING,
    (State.BEGINNING, S, "begin-reply"): State.BEGUN,
    (State.BEGUN, C, "begin-request"): State.BEGINNING,
    (State.BEGUN, C, "commit-request"): State.COMMITTING,
    (State.COMMITTING, S, "commit-reply"): State.BEGUN,
    **ERRORS,
}

DISK: Table = {
    **GREETED,
    (State.READY, C, "open-request"): State.OPENING,
    (State.OPENING, S, "open-reply"): State.OPENED,
    (State.OPENED, S, "extents-page"): State.OPENED,
    (State.OPENED, S, "grant"): State.OPENED,
    (State.OPENED, C, "digests-request"): State.OPENED,
    (State.OPENED, S, "digests-reply"): State.OPENED,
    (State.OPENED, C, "stream-start"): State.STREAMING,
    (State.STREAMING, C, BATCH): State.STREAMING,
    (State.STREAMING, S, "ack"): State.STREAMING,
    (State.STREAMING, S, "grant"): State.STREAMING,
    (State.STREAMING, C, "digests-request"): State.STREAMING,
    (State.STREAMING, S, "digests-reply"): State.STREAMING,
    **ERRORS,
}

TABLES = {ConnectionKind.CONTROL: CONTROL, ConnectionKind.DISK: DISK}


class Dialogue:
    """One end's view of a conversation. What is not in the table is refused, sent or received."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self.state = State.CONNECTED
        self._table: Table = {**GREETED, **ERRORS}

    def sent(self, message: Message | None) -> None:
        """Note what this end is about to send; None is a batch.

        Raises:
            OutOfTurn: it may not come now.
        """
        if not self._step(self.side, message):
            raise OutOfTurn(name=_name(message), state=self.state)

    def received(self, message: Message | None) -> None:
        """Note what has come; None is a batch.

        Raises:
            ProtocolError: it may not come now.
        """
        if not self._step(self.side.other, message):
            raise ProtocolError(problem=f"{_name(message)} while {self.state}")

    def _step(self, sender: Side, message: Message | None) -> bool:
        following = self._table.get((self.state, sender, _name(message)))
        if following is None:
            return False
        if isinstance(message, Hello):
            self._table = TABLES[message.connection]
        self.state = following
        return True


def _name(message: Message | None) -> str:
    return BATCH if message is None else message.type
