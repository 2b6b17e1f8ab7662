"""Checking a point's snapshot against the digests it was committed with."""

import numpy as np

from dmcore.blocks import extents as ex
from dmcore.blocks.extents import Extents
from dmcore.native.digests import Scanner
from dmcore.seal.constants import MAX_BATCH_DATA_BYTES
from dmcore.shadow.digestmap import DigestMap
from dmcore.shadow.redo import Progress
from dmcore.targets.base import Readable


class Verifier:
    """One disk of a point, read whole. One thread."""

    def __init__(self, image: Readable, digest_map: DigestMap, digest_key: bytes) -> None:
        self._image, self._map, self._grid = image, digest_map, digest_map.grid
        grid = self._grid
        self._scanner = Scanner(digest_key, block_bytes=grid.block_bytes, disk_bytes=grid.disk_bytes)
        self._allocated = grid.align(image.allocated())
        self._buffer = memoryview(bytearray(MAX_BATCH_DATA_BYTES))
        self._step = MAX_BATCH_DATA_BYTES // grid.block_bytes

    def run(self, progress: Progress) -> Extents:
        """The extents whose blocks are not what they should be. Told of the bytes checked as it goes."""
        damaged = []
        for first in range(0, self._grid.blocks, self._step):
            count = min(self._step, self._grid.blocks - first)
            damaged += [first + int(block) for block in self._check(first, count)]
            progress(self._extent(first, count)[1])
        self._scanner.wipe()
        return ex.from_pairs(self._extent(block, 1) for block in damaged)

    def _check(self, first: int, count: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
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

    def _extent(self, first: int, count: int) -> tuple[int, int]:
        offset = first * self._grid.block_bytes
        return offset, min(count * self._grid.block_bytes, self._grid.disk_bytes - offset)
