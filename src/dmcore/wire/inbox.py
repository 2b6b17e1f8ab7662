"""What has come from the peer and was not taken yet: bytes to records to messages, in order. Does no I/O."""

from collections import deque

from dmcore.wire.coding import Received, ReceivedBatch, ReceivedMessage, decode
from dmcore.wire.errors import PeerRefused, ProtocolError
from dmcore.wire.messages import ErrorMessage, Message
from dmcore.wire.records import Kind, Record, RecordReader
from dmcore.wire.refusals import refusal
from dmcore.wire.states import Dialogue

INBOX_RECORDS = 256
INBOX_BYTES = 4 << 20
"""Untaken records, and bytes of messages since it was last empty, at which a sender reads no more.

Batches are bounded by credit instead."""


class Inbox:
    """One connection's incoming records. Every ProtocolError that it raises names the peer."""

    def __init__(self, peer: str, dialogue: Dialogue) -> None:
        self.reader = RecordReader()
        self.refused: PeerRefused | None = None
        """Set as soon as the peer's error has arrived, though what came before it may still be untaken."""
        self._peer = peer
        self._dialogue = dialogue
        self._waiting: deque[Received] = deque()
        self._message_bytes = 0

    @property
    def full(self) -> bool:
        """Whether a sender should stop reading."""
        return len(self._waiting) >= INBOX_RECORDS or self._message_bytes >= INBOX_BYTES

    def filled(self, count: int) -> None:
        """Take note that `count` bytes were put into `reader.wanted()`.

        Raises:
            ProtocolError: they are no record or message of ours.
        """
        try:
            record = self.reader.filled(count)
            if record is not None:
                self._add(record)
        except ProtocolError as error:
            error.peer = self._peer
            raise

    def take(self) -> Received | None:
        """The oldest untaken message or batch.

        Raises:
            ProtocolError: it may not come now.
            PeerRefused: it is the peer's error.
        """
        if not self._waiting:
            return None
        received = self._waiting.popleft()
        self._message_bytes = self._message_bytes if self._waiting else 0
        message = _message_of(received)
        try:
            self._dialogue.received(message)
        except ProtocolError as error:
            error.peer = self._peer
            raise
        if isinstance(message, ErrorMessage):
            raise refusal(self._peer, message)
        return received

    def _add(self, record: Record) -> None:
        received: Received = ReceivedBatch(record.body) if record.kind is Kind.BATCH else decode(record.body)
        message = _message_of(received)
        self._message_bytes += len(record.body) if message is not None else 0
        if isinstance(message, ErrorMessage):
            self.refused = refusal(self._peer, message)
        self._waiting.append(received)


def _message_of(received: Received) -> Message | None:
    return received.message if isinstance(received, ReceivedMessage) else None
