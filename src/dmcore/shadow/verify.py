"""Checking a point's snapshot against the digests it was committed with."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dmcore.blocks import extents as ex
from dmcore.blocks.extents import Extents
from dmcore.blocks.grid import Grid
from dmcore.native.digests import Scanner
from dmcore.seal.constants import MAX_BATCH_DATA_BYTES
from dmcore.shadow.digestmap import WINDOW_BLOCKS, DigestMap
from dmcore.shadow.redo import Progress
from dmcore.targets.base import Readable

Blocks = NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """Some of a disk's blocks, all over it: the same ones whenever it is asked with the same seed."""

    percent: float
    """More than 0, at most 100. Of the smallest disk it is one block."""
    seed: bytes

    def bytes_of(self, disk_bytes: int) -> int:
        """About how much of a disk of this size."""
        return math.ceil(disk_bytes * self.percent / 100)

    def of(self, grid: Grid, disk: bytes) -> Iterator[Blocks]:
        """Its blocks in ascending order: one, at random, of each of as many equal parts of the disk."""
        random = np.random.default_rng(int.from_bytes(hashlib.sha256(self.seed + disk).digest()))
        for first in range(0, grid.blocks, WINDOW_BLOCKS):
            count = min(WINDOW_BLOCKS, grid.blocks - first)
            wanted = self._up_to(first + count) - self._up_to(first)
            parts = first + np.arange(wanted + 1) * count // max(wanted, 1)
            yield random.integers(parts[:-1], parts[1:])

    def _up_to(self, blocks: int) -> int:
        return min(math.ceil(blocks * self.percent / 100), blocks)


class Verifier:
    """One disk of a point, read whole or in part. One thread."""

    def __init__(self, image: Readable, digest_map: DigestMap, digest_key: bytes) -> None:
        self._image, self._map, self._grid = image, digest_map, digest_map.grid
        grid = self._grid
        self._scanner = Scanner(digest_key, block_bytes=grid.block_bytes, disk_bytes=grid.disk_bytes)
        self._allocated = grid.align(image.allocated())
        self._buffer = memoryview(bytearray(MAX_BATCH_DATA_BYTES))
        self._step = MAX_BATCH_DATA_BYTES // grid.block_bytes

    def run(self, progress: Progress, chosen: Iterator[Blocks] | None = None) -> Extents:
        """The extents whose blocks are not what they should be. Told of the bytes checked as it goes.

        All blocks are checked, or those chosen, which come in ascending order.
        """
        damaged = [ex.empty()]
        for blocks in self._whole() if chosen is None else chosen:
            for first, count in self._runs(blocks):
                damaged.append(self._extents(first + self._check(first, count)))
                progress(self._extent(first, count)[1])
        self._scanner.wipe()
        return ex.normalize(np.concatenate(damaged))

    def _whole(self) -> Iterator[Blocks]:
        for first in range(0, self._grid.blocks, self._step):
            yield np.arange(first, min(first + self._step, self._grid.blocks), dtype=np.int64)

    def _runs(self, blocks: Blocks) -> Iterator[tuple[int, int]]:
        """Neighbours together, as many as are read at a time."""
        for run in np.split(blocks, np.flatnonzero(np.diff(blocks) != 1) + 1):
            for at in range(0, len(run), self._step):
                yield int(run[at]), len(run[at : at + self._step])

    def _check(self, first: int, count: int) -> Blocks:
        """Which of these blocks differ, counted from the first."""
        expected = self._map.read(first, count)
        offset, length = self._extent(first, count)
        window = np.array([[offset, length]], dtype=np.int64)
        if not len(ex.intersect(self._allocated, window)):
            return np.flatnonzero(expected.any(axis=1))  # unallocated reads as zeros, whose digest is zeros
        raw = self._buffer[:length]
        self._image.read_into(offset, raw)
        found, _ = self._scanner.scan(np.arange(first, first + count, dtype=np.int64), raw)
        return np.flatnonzero((found != expected).any(axis=1))

    def _extents(self, blocks: Blocks) -> Extents:
        offsets = blocks * self._grid.block_bytes
        lengths = np.minimum(self._grid.block_bytes, self._grid.disk_bytes - offsets)
        return np.stack([offsets, lengths], axis=1)

    def _extent(self, first: int, count: int) -> tuple[int, int]:
        offset = first * self._grid.block_bytes
        return offset, min(count * self._grid.block_bytes, self._grid.disk_bytes - offset)
