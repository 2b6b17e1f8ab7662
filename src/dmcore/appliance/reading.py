"""The first stage of a disk's pump: read what is to be sent, in batches; for a compare, find out what differs."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dmcore.appliance.progress import DiskStats
from dmcore.appliance.queue import Loan
from dmcore.blocks import extents as ex
from dmcore.blocks.extents import Extents
from dmcore.blocks.grid import Grid
from dmcore.native.batches import Verdict
from dmcore.native.digests import Scanner
from dmcore.sources.base import SnapshotDisk

BATCH_BYTES = 4 << 20
"""What is read at a time: half of what a batch may hold, so that reading, sealing and sending overlap sooner."""
ZERO_RUNS = 1024
"""Runs of zeros a batch, half of the frames it may have."""
WINDOW_BLOCKS = 65_536
"""Digests asked for at a time: 1 MiB."""

Blocks = NDArray[np.int64]
DigestWindow = tuple[int, NDArray[np.uint8]]
"""A first block, and the connector's digests from it on."""


@dataclass
class ReadBatch:
    """Blocks that were read, the i-th at `raw[i * block_bytes:]`, and runs of zeros that were not."""

    blocks: Blocks
    raw: NDArray[np.uint8] | None
    """From the reader's loan; whoever seals it gives it back. None if there are only zero runs."""
    verdicts: NDArray[np.uint8] | None = None
    digests: NDArray[np.uint8] | None = None
    zero_runs: Extents | None = None


@dataclass
class Reader:
    """Reads one disk for one stream. One thread."""

    disk: SnapshotDisk
    grid: Grid
    pool: Loan
    stats: DiskStats

    def changed(self, extents: Extents) -> Iterator[ReadBatch]:
        """A delta: every block of the extents."""
        self.stats.to_read_bytes = self.stats.read_bytes + ex.total_bytes(extents)
        for blocks in batches_of(extents, self.grid):
            yield ReadBatch(blocks, self.read(blocks))

    def seeded(self, extents: Extents) -> Iterator[ReadBatch]:
        """A seed: what is allocated is read, the rest goes as runs of zeros."""
        allocated = self.grid.align(self.disk.allocated())
        yield from zero_batches(ex.subtract(extents, allocated))
        yield from self.changed(ex.intersect(extents, allocated))

    def compared(self, extents: Extents, scanner: Scanner, windows: Iterable[DigestWindow]) -> Iterator[ReadBatch]:
        """A compare: the blocks of the extents whose digests differ. Unallocated space is zeros without reading it.

        `windows` are those that `digest_windows` names for the extents.
        """
        allocated = self.grid.align(self.disk.allocated())
        self.stats.to_read_bytes = self.stats.read_bytes + ex.total_bytes(ex.intersect(extents, allocated))
        for first, digests in windows:
            todo = ex.intersect(extents, self._run_of(first, len(digests)))
            yield from self._differing_holes(ex.subtract(todo, allocated), first, digests)
            for blocks in batches_of(ex.intersect(todo, allocated), self.grid):
                yield from self._differing(blocks, scanner, digests[blocks - first])

    def read(self, blocks: Blocks) -> NDArray[np.uint8]:
        """The blocks in a buffer of the pool, neighbours with one call."""
        raw = self.pool.take()
        for at, count in neighbours(blocks):
            offset = int(blocks[at]) * self.grid.block_bytes
            length = min(count * self.grid.block_bytes, self.grid.disk_bytes - offset)
            start = at * self.grid.block_bytes
            self.disk.read_into(offset, raw[start : start + length].data)
            self.stats.read_bytes += length
        return raw

    def _differing(self, blocks: Blocks, scanner: Scanner, expected: NDArray[np.uint8]) -> Iterator[ReadBatch]:
        raw = self.read(blocks)
        digests, zero = scanner.scan(blocks, raw.data)
        differs = (digests != expected).any(axis=1)
        if not differs.any():
            self.pool.give_back(raw)
            return
        verdicts = np.where(zero, Verdict.ZERO, Verdict.DATA).astype(np.uint8)
        verdicts[~differs] = Verdict.SKIP
        yield ReadBatch(blocks, raw, verdicts, digests)

    def _differing_holes(self, holes: Extents, first: int, digests: NDArray[np.uint8]) -> Iterator[ReadBatch]:
        """Unallocated blocks whose digest is not that of zeros."""
        blocks = blocks_of(holes, self.grid)
        differing = blocks[digests[blocks - first].any(axis=1)]
        runs = [self._run(int(differing[at]), count) for at, count in neighbours(differing)]
        yield from zero_batches(ex.from_pairs(runs))

    def _run_of(self, block: int, count: int) -> Extents:
        return ex.from_pairs([self._run(block, count)])

    def _run(self, block: int, count: int) -> tuple[int, int]:
        offset = block * self.grid.block_bytes
        return offset, min(count * self.grid.block_bytes, self.grid.disk_bytes - offset)


def blocks_of(extents: Extents, grid: Grid) -> Blocks:
    """The numbers of the blocks that aligned extents cover."""
    return _cells(extents, grid.block_bytes)


def batches_of(extents: Extents, grid: Grid) -> Iterator[Blocks]:
    """The blocks of aligned extents, as many at a time as a batch reads, made batch by batch."""
    size = max(BATCH_BYTES // grid.block_bytes, 1)
    starts, counts = _cell_runs(extents, grid.block_bytes)
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    for first in range(0, total, size):
        positions = np.arange(first, min(first + size, total), dtype=np.int64)
        extent = np.searchsorted(ends, positions, side="right")
        yield starts[extent] + positions - (ends[extent] - counts[extent])


def digest_windows(extents: Extents, grid: Grid) -> list[tuple[int, int]]:
    """The windows of digests that a compare of these extents needs, as (first block, how many)."""
    window_bytes = WINDOW_BLOCKS * grid.block_bytes
    windows = _cells(ex.align(extents, window_bytes, grid.disk_bytes), window_bytes)
    return [(first, min(WINDOW_BLOCKS, grid.blocks - first)) for first in (windows * WINDOW_BLOCKS).tolist()]


def _cells(extents: Extents, cell_bytes: int) -> Blocks:
    starts, counts = _cell_runs(extents, cell_bytes)
    firsts = np.repeat(starts - (np.cumsum(counts) - counts), counts)
    return firsts + np.arange(len(firsts), dtype=np.int64)


def _cell_runs(extents: Extents, cell_bytes: int) -> tuple[Blocks, Blocks]:
    """Of extents that begin on a cell: the first cell of each, and how many it has."""
    return extents[:, 0] // cell_bytes, -(-extents[:, 1] // cell_bytes)


def neighbours(blocks: Blocks) -> list[tuple[int, int]]:
    """Runs of consecutive numbers, as (position of the first, how many)."""
    if not len(blocks):
        return []
    starts = np.concatenate(([0], np.flatnonzero(np.diff(blocks) != 1) + 1, [len(blocks)]))
    return [(int(at), int(end - at)) for at, end in pairwise(starts)]


def zero_batches(runs: Extents) -> Iterator[ReadBatch]:
    """Runs of zeros, some at a time."""
    for at in range(0, len(runs), ZERO_RUNS):
        none = np.empty(0, dtype=np.int64)
        yield ReadBatch(none, None, zero_runs=np.ascontiguousarray(runs[at : at + ZERO_RUNS]))
