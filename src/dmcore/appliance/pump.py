"""One stream's pump: read > scan > seal > send, each in a thread of its own, with buffers that bound them together.

    reader (+ scan)  --ReadBatch-->  sealer  --sealed batch-->  sender, which owns the connection
                     <-------------- digests, for a compare ---------------

The first error wins: it stops the other stages, every thread is joined, every buffer goes back, and it alone is raised.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dmcore.appliance.errors import Cancelled, ConnectorForgets
from dmcore.appliance.progress import DiskStats
from dmcore.appliance.queue import BufferPool, ClosableQueue, Loan
from dmcore.appliance.reading import DigestWindow, ReadBatch, Reader, digest_windows
from dmcore.appliance.rungs import RungChoice
from dmcore.blocks import extents as ex
from dmcore.blocks.coverage import Coverage
from dmcore.blocks.extents import Extents
from dmcore.keys.provider import PlanKeys
from dmcore.model.enums import Rung
from dmcore.native.digests import Scanner
from dmcore.seal.derive import digest_key
from dmcore.seal.header import StreamHeader
from dmcore.seal.stream import Codec, StreamWriter
from dmcore.sources.base import SnapshotDisk
from dmcore.wire.disk_channel import DIGEST_WINDOWS, DiskChannel, OpenedDisk

CREDIT_TIMEOUT_S = 300.0
"""How long a connector may take to make room: its staging disk may be slow, but not dead."""


@dataclass(frozen=True)
class Pools:
    """The node's buffers: what is read, and what is sealed."""

    raw: BufferPool
    sealed: BufferPool


@dataclass(frozen=True)
class SealedItem:
    """A batch ready to send; the sender gives its buffer back."""

    buffer: NDArray[np.uint8]
    used: int


@dataclass(frozen=True)
class DigestsWanted:
    """The reader asks the connection's owner for a window of digests."""

    first: int
    count: int


class DiskPump:
    """Sends what a disk's rung has chosen over one connection. Used once."""

    def __init__(
        self,
        disk: SnapshotDisk,
        choice: RungChoice,
        opened: OpenedDisk,
        channel: DiskChannel,
        stats: DiskStats,
        pools: Pools,
    ) -> None:
        self._choice, self._opened, self._channel, self._stats = choice, opened, channel, stats
        self._stopped = threading.Event()
        self._raw, self._sealed = Loan(pools.raw, self._stopped), Loan(pools.sealed, self._stopped)
        self._read: ClosableQueue[ReadBatch] = ClosableQueue()
        self._to_send: ClosableQueue[SealedItem | DigestsWanted] = ClosableQueue()
        self._digests: ClosableQueue[NDArray[np.uint8]] = ClosableQueue()
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._reader = Reader(disk, opened.grid, self._raw, stats)
        self._sent = Coverage()

    def run(self, header: StreamHeader, keys: PlanKeys, codec: Codec) -> Extents:
        """Send what is missing; returns the whole coverage, all of it durable at the connector.

        Raises:
            SourceError, ConnectionFailed, RefusedError, DmcoreError: the first that happened in any stage.
        """
        planned = ex.union(self._choice.extents, self._opened.unknown)
        durable = self._opened.durable
        foreign = ex.subtract(durable, planned)
        if len(foreign):
            raise ConnectorForgets(disk=self._stats.label, count=ex.total_bytes(foreign))
        todo = ex.subtract(planned, durable)
        if len(todo):
            self._transfer(todo, header, keys, codec)
        return ex.union(durable, self._sent.extents()) if self._choice.rung is Rung.COMPARE else planned

    def cancel(self, why: str) -> None:
        """Stop all stages, or keep them from starting; `run` raises Cancelled, unless an error came first."""
        self._fail(Cancelled(problem=why))

    def _transfer(self, todo: Extents, header: StreamHeader, keys: PlanKeys, codec: Codec) -> None:
        key = digest_key(keys.digest_root, header.disk)
        writer = StreamWriter(header, keys.dek, key, codec)
        with ExitStack() as ended:  # from the last to the first: joined, then wiped, then given back
            ended.callback(self._sealed.close)
            ended.callback(self._raw.close)
            ended.callback(writer.end, "the pump has ended")
            self._start(ended, "read", self._read_all, todo, key)
            self._start(ended, "seal", self._seal_all, writer)
            self._stage(self._send_all, writer.header)
        if self._error is not None:
            raise self._error

    def _start(self, ended: ExitStack, name: str, work: Callable[..., None], *args: object) -> None:
        stage = threading.Thread(target=self._stage, args=(work, *args), name=f"{name} {self._stats.label}")
        stage.start()
        ended.callback(stage.join)

    def _stage(self, work: Callable[..., None], *args: object) -> None:
        try:
            work(*args)
        except BaseException as error:  # noqa: BLE001 - whatever it is, `run` raises it
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._error = error if self._error is None else self._error
        self._stopped.set()
        for queue in (self._read, self._to_send, self._digests):
            queue.cancel("another stage of this disk has failed")
        self._raw.wake()
        self._sealed.wake()
        self._channel.connection.cancel("another stage of this disk has failed")

    # reader

    def _read_all(self, todo: Extents, key: bytes) -> None:
        for batch in self._batches(todo, key):
            self._read.put(batch)
        self._read.finish()

    def _batches(self, todo: Extents, key: bytes) -> Iterator[ReadBatch]:
        if self._choice.rung is Rung.DELTA:
            return self._reader.changed(todo)
        if self._choice.rung is Rung.SEED:
            return self._reader.seeded(todo)
        return self._compared(todo, key)

    def _compared(self, todo: Extents, key: bytes) -> Iterator[ReadBatch]:
        grid = self._opened.grid
        scanner = Scanner(key, block_bytes=grid.block_bytes, disk_bytes=grid.disk_bytes)
        try:
            yield from self._reader.compared(todo, scanner, self._windows(digest_windows(todo, grid)))
        finally:
            scanner.wipe()

    def _windows(self, wanted: list[tuple[int, int]]) -> Iterator[DigestWindow]:
        """The connector's digests of these windows, asked for ahead."""
        for window in wanted[:DIGEST_WINDOWS]:
            self._to_send.put(DigestsWanted(*window))
        ahead = iter(wanted[DIGEST_WINDOWS:])
        for (first, _), digests in zip(wanted, self._digests, strict=False):  # the queue goes on for ever
            if (following := next(ahead, None)) is not None:
                self._to_send.put(DigestsWanted(*following))
            yield first, digests

    # sealer

    def _seal_all(self, writer: StreamWriter) -> None:
        """OPEN goes before the first batch and FINAL after the last; without a batch there is no stream."""
        for batch in self._read:
            if not writer.totals.frames:
                self._seal(writer.open)
            self._seal_batch(writer, batch)
        if writer.totals.frames:
            self._seal(writer.final)
        self._to_send.finish()

    def _seal_batch(self, writer: StreamWriter, batch: ReadBatch) -> None:
        def seal(out: memoryview) -> int:
            raw = np.empty(0, dtype=np.uint8) if batch.raw is None else batch.raw
            before = writer.totals
            sealed = writer.seal(
                batch.blocks,
                raw.data,
                out,
                verdicts=batch.verdicts,
                digests=batch.digests,
                zero_runs=batch.zero_runs,
            )
            self._stats.data_bytes += writer.totals.data_bytes - before.data_bytes
            self._stats.zero_bytes += writer.totals.zero_bytes - before.zero_bytes
            self._stats.sealed_bytes += writer.totals.sealed_bytes - before.sealed_bytes
            return sealed.used

        self._seal(seal)
        if self._choice.rung is Rung.COMPARE:
            self._sent.add(self._extents_of(batch))
        if batch.raw is not None:
            self._raw.give_back(batch.raw)

    def _seal(self, seal: Callable[[memoryview], int]) -> None:
        buffer = self._sealed.take()
        self._to_send.put(SealedItem(buffer, seal(buffer.data)))

    def _extents_of(self, batch: ReadBatch) -> Extents:
        grid, blocks = self._opened.grid, batch.blocks
        chosen = blocks if batch.verdicts is None else blocks[batch.verdicts != 0]
        offsets = chosen * grid.block_bytes
        lengths = np.minimum(grid.block_bytes, grid.disk_bytes - offsets)
        read = ex.normalize(np.stack([offsets, lengths], axis=1))
        return read if batch.zero_runs is None else ex.union(read, batch.zero_runs)

    # sender

    def _send_all(self, header: StreamHeader) -> None:
        channel = self._channel
        started = False
        for item in self._to_send:
            if isinstance(item, DigestsWanted):
                self._digests.put(channel.digests(item.first, item.count))
                continue
            if not started:
                channel.start(header)
                started = True
            channel.send_batch(item.buffer[: item.used].data, CREDIT_TIMEOUT_S)
            self._sealed.give_back(item.buffer)
        channel.wait_durable(channel.sent_batches - 1, CREDIT_TIMEOUT_S)


def header_for(opened: OpenedDisk, template: StreamHeader) -> StreamHeader:
    """The header of the next stream: what the connector answered to `open`, over what the cycle knows."""
    reply = opened.reply
    return replace(
        template, dek_version=reply.dek_version, attempt=reply.attempt, disk_bytes=reply.disk_bytes,
        block_bytes=reply.block_bytes, base_image=reply.base_image,
    )  # fmt: skip
