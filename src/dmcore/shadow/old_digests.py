"""What a cycle has overwritten of a disk's digest map, so that older points can still be checked against theirs.

One file a disk and cycle, named by the cycle's number. Each record is synced before the map is written at its blocks;
a block that is in the file already is not kept again, so redo never rewrites what the cycle found
(docs/staging-log.md, section 6; all integers big-endian).

off  size  field
0     4  magic "DMOD"
4     1  version = 1
5     3  reserved = 0
8     8  runs
16     8  blocks of all runs
24     8  XXH3-64 of bytes 0..23 and of what follows
32        runs: each first block (8), blocks (8)
          a digest (16) of each block, in the order of the runs
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from dmcore.blocks import extents as ex
from dmcore.blocks.constants import DIGEST_BYTES
from dmcore.blocks.coverage import Coverage
from dmcore.blocks.extents import Extents
from dmcore.shadow.digestmap import WINDOW_BLOCKS, DigestMap
from dmcore.shadow.errors import StateUnreadable
from dmcore.shadow.segments import opened
from dmcore.shadow.storage import Storage

MAGIC = b"DMOD"
VERSION = 1
PREFIX = struct.Struct(">4sB3xQQ")
HEADER_BYTES = PREFIX.size + 8
RUN_BYTES = 16
MAX_RUNS = 1 << 20
"""Far above what a round of redo has frames: a length that is damaged must not be allocated."""

DENSE = 8
"""One read of the map for all runs as long as they are at least this part of what lies between them."""

Digests = NDArray[np.uint8]


class Record(NamedTuple):
    """Runs of blocks, (n, 2) of first and count, and the digest that each block had."""

    runs: NDArray[np.int64]
    digests: Digests


def file_of(folder: Path, number: int) -> Path:
    """Where a cycle of this number keeps what it overwrites of one disk."""
    return folder / f"{number:016x}.old"


def numbers(storage: Storage, folder: Path) -> list[int]:
    """Of which cycles there is something, oldest first."""
    return [int(name.removesuffix(".old"), 16) for name in storage.names(folder) if name.endswith(".old")]


def forget(storage: Storage, folder: Path, points: Iterable[int]) -> None:
    """Remove what no point needs: the files of cycles that are not newer than the oldest of these points."""
    held = numbers(storage, folder)  # before the points are looked at: a file is never older than those it is for
    oldest = min(points, default=None)
    for number in held:
        if oldest is None or number <= oldest:
            storage.unlink(file_of(folder, number))


def records(storage: Storage, path: Path, *, torn: bool = True) -> Iterator[Record]:
    """The good records of a file, in order; none if there is no file. What is behind a torn one was never relied on.

    Raises:
        StateUnreadable: not `torn`, and there is something behind them: records are lost.
    """
    end = 0
    for record, end in _scan(storage, path):  # noqa: B007 - the last one counts
        yield record
    if not torn and (size := _size(storage, path)) > end:
        raise StateUnreadable(path=str(path), problem=f"{size - end} bytes behind {end} are no record")


def cut_torn(storage: Storage, path: Path) -> None:
    """Cut what a crash has left behind the good records. Nothing if there is no file."""
    end = max((end for _, end in _scan(storage, path, cached=False)), default=0)
    if _size(storage, path) > end:
        storage.truncate(path, end)


class OldDigests:
    """One disk's file of the running cycle. One thread."""

    def __init__(self, storage: Storage, path: Path, digest_map: DigestMap) -> None:
        """Open or make the file, and cut a torn tail. Raises OSError."""
        self._storage, self._map = storage, digest_map
        self._kept, self._end = Coverage(), 0
        for record, end in _scan(storage, path, cached=False):
            self._kept.add(ex.normalize(record.runs))
            self._end = end
        storage.make_dir(path.parent)
        if storage.exists(path):
            storage.truncate(path, self._end)
            storage.sync_dir(path.parent)  # whoever made it may have been killed before it did
            self._fd = storage.open(path)
        else:
            self._fd = storage.create(path)

    def keep(self, rows: Sequence[NDArray[np.int64]]) -> None:
        """Make durable the digests that the map has of these rows' blocks, (n, 2 or more) of offset and length.

        Raises:
            OSError: nothing may be written to the map. Open the file again.
        """
        fresh = self._fresh(rows)
        if not len(fresh):
            return
        for runs in _windows(fresh):
            packed = self._pack(runs)
            self._storage.io.append(self._fd, b"", packed, self._end)
            self._end += len(packed)
        self._storage.io.sync(self._fd)
        self._kept.add(fresh)

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._fd >= 0:
            self._storage.close(self._fd)
            self._fd = -1

    def _fresh(self, rows: Sequence[NDArray[np.int64]]) -> Extents:
        """Which blocks are not in the file yet, as runs of (first, count)."""
        size = self._map.grid.block_bytes
        touched = [np.stack([each[:, 0] // size, -(-each[:, 1] // size)], axis=1) for each in rows if len(each)]
        if not touched:
            return ex.empty()
        return ex.subtract(ex.normalize(np.concatenate(touched)), self._kept.extents())

    def _pack(self, runs: Extents) -> bytes:
        digests = self._digests(runs)
        body = runs.astype(">i8").tobytes() + digests.tobytes()
        prefix = PREFIX.pack(MAGIC, VERSION, len(runs), len(digests))
        return prefix + xxhash.xxh3_64_digest(prefix + body) + body

    def _digests(self, runs: Extents) -> Digests:
        first, end, count = int(runs[0, 0]), int(runs[-1].sum()), int(runs[:, 1].sum())
        if end - first > DENSE * count:
            return np.concatenate([self._map.read(int(block), int(blocks)) for block, blocks in runs])
        wanted = np.concatenate([np.arange(block - first, block - first + blocks) for block, blocks in runs])
        found: Digests = self._map.read(first, end - first)[wanted]
        return found


def _windows(runs: Extents) -> Iterator[Extents]:
    """The same runs in parts of at most WINDOW_BLOCKS blocks: what is in memory does not follow the disk's size."""
    pieces = ex.split(runs, WINDOW_BLOCKS)
    window = (np.cumsum(pieces[:, 1]) - 1) // WINDOW_BLOCKS
    for number in np.unique(window):
        yield pieces[window == number]


def _size(storage: Storage, path: Path) -> int:
    if not storage.exists(path):
        return 0
    with opened(storage, path) as fd:
        return storage.size(fd)


def _scan(storage: Storage, path: Path, *, cached: bool = True) -> Iterator[tuple[Record, int]]:
    """Each good record and where it ends; not `cached`: as the medium has it, whatever an earlier sync came to."""
    if not storage.exists(path):
        return
    with opened(storage, path) as fd:
        at = 0
        if not cached:
            storage.forget_cached(fd)
        while (found := _read(storage, fd, at)) is not None:
            record, at = found
            yield record, at


def _read(storage: Storage, fd: int, at: int) -> tuple[Record, int] | None:
    header = bytearray(HEADER_BYTES)
    if storage.read_into(fd, at, header) < HEADER_BYTES:
        return None
    magic, version, runs, blocks = PREFIX.unpack_from(header)
    if (magic, version) != (MAGIC, VERSION) or runs > MAX_RUNS or blocks > 2 * WINDOW_BLOCKS:
        return None
    body = bytearray(runs * RUN_BYTES + blocks * DIGEST_BYTES)
    if storage.read_into(fd, at + HEADER_BYTES, body) < len(body):
        return None
    if xxhash.xxh3_64_digest(bytes(header[: PREFIX.size]) + body) != bytes(header[PREFIX.size :]):
        return None
    found = np.frombuffer(body, ">i8", count=2 * runs).astype(np.int64).reshape(-1, 2)
    if int(found[:, 1].sum()) != blocks or (found < 0).any():
        return None
    digests = np.frombuffer(body, np.uint8, offset=runs * RUN_BYTES).reshape(-1, DIGEST_BYTES)
    return Record(found, digests), at + HEADER_BYTES + len(body)
