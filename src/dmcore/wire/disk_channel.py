"""What an appliance says on a disk connection: open, digests, and one sealed stream under credit."""

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dmcore.blocks.constants import DIGEST_BYTES
from dmcore.blocks.extents import Extents
from dmcore.blocks.grid import Grid
from dmcore.seal.header import StreamHeader
from dmcore.wire.calls import REPLY_TIMEOUT_S, Channel
from dmcore.wire.coding import Received, ReceivedMessage
from dmcore.wire.connection import Connection
from dmcore.wire.errors import ProtocolError
from dmcore.wire.exchange import expect, receive_before
from dmcore.wire.messages import (
    Ack,
    ConnectionKind,
    DigestsReply,
    DigestsRequest,
    ExtentsPage,
    Grant,
    OpenReply,
    OpenRequest,
    PageOf,
    StreamStart,
)
from dmcore.wire.paging import join, most_pages

DIGEST_WINDOWS = 2
"""How many `digests` may be asked ahead of their replies."""
NOTHING_DURABLE = -1


@dataclass(frozen=True)
class OpenedDisk:
    """What `open` came to. Both lists are whole blocks of the grid, sorted and merged."""

    reply: OpenReply
    grid: Grid
    durable: Extents
    unknown: Extents


class DiskChannel(Channel):
    """One disk connection. Acks are taken in whenever something is received or sent."""

    kind = ConnectionKind.DISK

    def __init__(self, connection: Connection, timeout_s: float = REPLY_TIMEOUT_S) -> None:
        super().__init__(connection, timeout_s)
        self.durable_batch = NOTHING_DURABLE
        """The last batch that is known to be durable at the connector, with all before it."""
        self.sent_batches = 0
        self.credit = 0
        """How many batches may be sent now."""
        self._asked: deque[DigestsRequest] = deque()
        self._digests: deque[NDArray[np.uint8]] = deque()

    def open(self, request: OpenRequest) -> OpenedDisk:
        """Open the disk, which ends its older streams, and learn what is durable and what is unknown."""
        reply, _ = self._call(request, OpenReply)
        grid = Grid(reply.disk_bytes, reply.block_bytes)
        if max(reply.durable_pages, reply.unknown_pages) > most_pages(grid):
            raise self._wrong(f"more pages of extents than {grid.blocks} blocks can need")
        self.credit = reply.credit
        durable = self._pages(PageOf.DURABLE, reply.durable_pages, grid)
        return OpenedDisk(reply, grid, durable, self._pages(PageOf.UNKNOWN, reply.unknown_pages, grid))

    def request_digests(self, first_block: int, blocks: int) -> None:
        """Ask for digests ahead; `next_digests` gives them in the same order."""
        if len(self._asked) + len(self._digests) >= DIGEST_WINDOWS:
            raise ValueError(f"more than {DIGEST_WINDOWS} windows of digests asked ahead")
        request = DigestsRequest(first_block=first_block, blocks=blocks)
        self.connection.send_message(request)
        self._asked.append(request)

    def next_digests(self) -> NDArray[np.uint8]:
        """The digests of the oldest window asked: `(blocks, 16)`, in a buffer of the caller's own."""
        deadline = self.connection.clock() + self.timeout_s
        while not self._digests:
            if not self._asked:
                raise ValueError("no digests were asked for")
            self._handle(receive_before(self.connection, deadline, "digests"))
        return self._digests.popleft()

    def digests(self, first_block: int, blocks: int) -> NDArray[np.uint8]:
        """Ask for one window and wait for it."""
        self.request_digests(first_block, blocks)
        return self.next_digests()

    def start(self, header: StreamHeader) -> None:
        """Start the stream; its batch 0 comes next."""
        self.connection.send_message(StreamStart(), header.pack())

    def send_batch(self, data: memoryview, timeout_s: float) -> int:
        """Wait for credit, send a batch, give back its number. The buffer may be reused when this returns.

        `timeout_s` is for each word of the connector's: a Grant of 0 says that it waits for room.
        """
        self.take_acks()
        while not self.credit:
            self._hear("credit", timeout_s)
        self.credit -= 1
        self.sent_batches += 1
        self.connection.send_batch(data)
        return self.sent_batches - 1

    def wait_durable(self, batch: int, timeout_s: float) -> None:
        """Return when this batch is durable at the connector. `timeout_s` is for each word of its on the way."""
        while self.durable_batch < batch:
            self._hear(f"ack of batch {self.durable_batch + 1}", timeout_s)

    def take_acks(self) -> None:
        """Take in what has come, without waiting."""
        while (received := self.connection.poll()) is not None:
            self._handle(received)

    def _hear(self, what: str, timeout_s: float) -> None:
        self._handle(receive_before(self.connection, self.connection.clock() + timeout_s, what))

    def _pages(self, what: PageOf, count: int, grid: Grid) -> Extents:
        payloads: list[memoryview] = []
        for page in range(count):
            message, payload = expect(self.connection, ExtentsPage, self.timeout_s)
            if (message.what, message.page) != (what, page):
                raise self._wrong(f"page {message.page} of {message.what} extents, not {page} of {what}")
            payloads.append(payload)
        try:
            return join(payloads, grid)
        except ProtocolError as error:
            error.peer = self.connection.peer
            raise

    def _handle(self, received: Received) -> None:
        message = received.message if isinstance(received, ReceivedMessage) else None
        if isinstance(message, Ack):
            self._acknowledged(message)
        elif isinstance(message, Grant):
            self.credit += message.credit
        elif isinstance(message, DigestsReply) and isinstance(received, ReceivedMessage):
            self._answered(message, received.payload)
        else:
            raise self._wrong("a message that nobody asked for")

    def _acknowledged(self, ack: Ack) -> None:
        if not self.durable_batch < ack.batch < self.sent_batches:
            raise self._wrong(f"ack of batch {ack.batch} after {self.durable_batch}, of {self.sent_batches} sent")
        self.durable_batch = ack.batch
        self.credit += ack.credit

    def _answered(self, reply: DigestsReply, payload: memoryview) -> None:
        asked = self._asked.popleft() if self._asked else None
        if asked is None or (asked.first_block, asked.blocks) != (reply.first_block, reply.blocks):
            raise self._wrong(f"digests of {reply.blocks} blocks from {reply.first_block}, not asked for")
        self._digests.append(np.frombuffer(payload, np.uint8).reshape(reply.blocks, DIGEST_BYTES))
