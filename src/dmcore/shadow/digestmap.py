"""The digest map of a shadow: 16 bytes a block, what each block of the shadow should be.

A new map is one hole, which reads as the digests of zero blocks: what a zeroed shadow has. 16 bytes of 0xFF are
*unknown*.
A map is never ahead of its shadow: it is written only after the shadow was flushed (docs/staging-log.md).
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dmcore.blocks.constants import DIGEST_BYTES
from dmcore.blocks.grid import Grid
from dmcore.native.batches import OpenedBatch, ZeroMode
from dmcore.shadow.errors import StateUnreadable
from dmcore.shadow.storage import Storage

WINDOW_BLOCKS = 65_536
"""How many digests are read at a time: 1 MiB."""
UNKNOWN = np.full(DIGEST_BYTES, 0xFF, dtype=np.uint8)
ZERO = np.zeros(DIGEST_BYTES, dtype=np.uint8)


class DigestMap:
    """One shadow's map file, open. One thread at a time."""

    def __init__(self, storage: Storage, path: Path, grid: Grid, fd: int | None = None) -> None:
        """Open an existing map, or take an open file of it.

        Raises:
            StateUnreadable: it is missing, or too short for this grid.
        """
        self._storage, self._path, self.grid = storage, path, grid
        try:
            self._fd = storage.open(path) if fd is None else fd
        except OSError as error:
            raise StateUnreadable(path=str(path), problem=f"no digest map: {error.strerror}") from error
        size = storage.size(self._fd)
        if size < grid.blocks * DIGEST_BYTES:  # it may be longer: its disk is about to have grown
            storage.close(self._fd)
            raise StateUnreadable(path=str(path), problem=f"{size} bytes for {grid.blocks} blocks")
        self._zero_mode = ZeroMode.PUNCH_HOLE

    @staticmethod
    def create(storage: Storage, path: Path, grid: Grid) -> None:
        """Make the map of a zeroed shadow, durably, over whatever is there."""
        storage.create_sparse(path, grid.blocks * DIGEST_BYTES)

    def copy(self, grid: Grid | None = None) -> "DigestMap":
        """This map as it is now, without a name, the caller's to close: later writes leave it alone. Raises OSError.

        Of a smaller grid, if one is given: that of an older point of a disk that has grown.
        """
        return DigestMap(self._storage, self._path, grid or self.grid, self._storage.copy_unnamed(self._fd, self._path))

    def read(self, first: int, count: int) -> NDArray[np.uint8]:
        """The digests of `count` blocks from `first` on, (count, 16); fewer at the disk's end."""
        count = max(min(count, self.grid.blocks - first), 0)
        digests = np.empty((count, DIGEST_BYTES), dtype=np.uint8)
        self._storage.read_into(self._fd, first * DIGEST_BYTES, digests.data)
        return digests

    def expected(self, grid: Grid, first: int, count: int) -> NDArray[np.uint8]:
        """What a disk of this grid, which may have grown, has in these blocks: what it has grown by is unknown.

        So is the old last block, if it was short.
        """
        count = max(min(count, grid.blocks - first), 0)
        known = (
            self.grid.blocks if grid.disk_bytes == self.grid.disk_bytes else self.grid.disk_bytes // grid.block_bytes
        )
        held = self.read(first, min(count, max(known - first, 0)))
        return np.concatenate([held, np.tile(UNKNOWN, (count - len(held), 1))])

    def write(self, batch: OpenedBatch) -> None:
        """Put a batch's digests in: zeros for ZERO rows, unknown for rows that did not open. Not durable yet."""
        opened = batch.rows[:, 3] == 0
        self._patch(np.ascontiguousarray(self._map_rows(batch.rows)[opened]), batch.digests)
        for offset, length in batch.rows[~opened, :2]:
            self.set_unknown(int(offset), int(length))

    def put(self, runs: NDArray[np.int64], digests: NDArray[np.uint8]) -> None:
        """Put digests in by runs of blocks, (n, 2) of first and count. Not durable yet."""
        places = np.concatenate([[0], np.cumsum(runs[:, 1])[:-1]]).astype(np.int64)
        self._patch(np.ascontiguousarray(np.stack([runs[:, 0], runs[:, 1], places], axis=1) * DIGEST_BYTES), digests)

    def _map_rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The same rows on the map: a DATA row takes its digest, a ZERO row becomes a run of zeros."""
        blocks = -(-rows[:, 1] // self.grid.block_bytes)
        place = np.where(rows[:, 2] >= 0, np.arange(len(rows)) * DIGEST_BYTES, -1)
        return np.stack([rows[:, 0] // self.grid.block_bytes * DIGEST_BYTES, blocks * DIGEST_BYTES, place], axis=1)

    def set_unknown(self, offset: int, length: int) -> None:
        """Mark the blocks of a range of the disk unknown."""
        first = offset // self.grid.block_bytes
        blocks = -(-length // self.grid.block_bytes)
        while blocks:
            count = min(blocks, WINDOW_BLOCKS)
            marks = np.tile(UNKNOWN, (count, 1))
            self._patch(np.array([[first * DIGEST_BYTES, count * DIGEST_BYTES, 0]], dtype=np.int64), marks)
            first, blocks = first + count, blocks - count

    def unknown(self) -> NDArray[np.int64]:
        """The extents of the disk whose blocks are unknown: sorted, one per block."""
        found = [self._unknown_in(first) for first in range(0, self.grid.blocks, WINDOW_BLOCKS)]
        blocks = np.concatenate(found)
        offsets = blocks * self.grid.block_bytes
        lengths = np.minimum(self.grid.block_bytes, self.grid.disk_bytes - offsets)
        return np.stack([offsets, lengths], axis=1)

    def _unknown_in(self, first: int) -> NDArray[np.int64]:
        return first + np.flatnonzero((self.read(first, WINDOW_BLOCKS) == UNKNOWN).all(axis=1))

    def flush(self) -> None:
        """Returns when all that was written is durable. Raises OSError; the map is then opened and redone."""
        self._storage.io.sync(self._fd)

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._fd >= 0:
            self._storage.close(self._fd)
            self._fd = -1

    def _patch(self, rows: NDArray[np.int64], digests: NDArray[np.uint8]) -> None:
        raw = np.ascontiguousarray(digests).reshape(-1).data
        self._zero_mode = self._storage.io.patch(self._fd, rows, raw, self._zero_mode).zero_mode
