"""How far a disk's log has been redone: where to begin to read, and what the records before it have said.

One file a log, `checkpoint`, replaced atomically (docs/staging-log.md section 4; big-endian).

off  size  field
0     4  magic "DMCP"
4     2  version = 1
6     2  reserved = 0
8     8  segment: the first that is still needed
16    8  position of that segment's start in the log
24    8  chain at that position
32   16  salt of the log
48    8  attempt
56    8  frames that did not open, before that position
64    8  n: number of streams' salts
72    8  m: number of extents
80  32n  the salts, sorted
   +16m  the extents, each offset(8) length(8)
   +  8  XXH3-64 of all before
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import xxhash

from dmcore.blocks import extents as ex
from dmcore.blocks.extents import EXTENT_BYTES, Extents
from dmcore.shadow.errors import StateUnreadable
from dmcore.shadow.segments import SegmentStart, segment_files
from dmcore.shadow.storage import Storage

CHECKPOINT_FILE = "checkpoint"
MAGIC = b"DMCP"
VERSION = 1
FIXED = struct.Struct(">4sHHQQQ16sQQQQ")
CHECKSUM = struct.Struct(">Q")
STREAM_SALT_BYTES = 32


@dataclass(frozen=True)
class Checkpoint:
    """Always at a segment's start, whose first record is durable. All before it is in shadow and map, both flushed."""

    segment: int
    """The first segment that is still needed."""
    position: int
    """The log's length at its start."""
    chain: int
    """The chain there."""
    salt: bytes
    """The log's."""
    attempt: int
    """The highest attempt of the streams before it."""
    salts: frozenset[bytes]
    """The salts of the streams before it."""
    failed_frames: int
    """Frames before it that did not open."""
    covered: Extents
    """What the records before it cover."""

    @property
    def start(self) -> SegmentStart:
        """Where to begin to read."""
        return SegmentStart(self.segment, self.position, self.chain, self.salt)


def load_checkpoint(storage: Storage, folder: Path) -> Checkpoint | None:
    """A log's checkpoint; None if it was never made.

    Raises:
        StateUnreadable: it is damaged, or of another version.
    """
    path = folder / CHECKPOINT_FILE
    try:
        return _unpack(storage.read_file(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StateUnreadable(path=str(path), problem=str(error)) from error


def save_checkpoint(storage: Storage, folder: Path, checkpoint: Checkpoint) -> None:
    """Replace a log's checkpoint, durably. If it raises OSError, either may be there: both are true."""
    storage.replace(folder / CHECKPOINT_FILE, _pack(checkpoint))


def reclaim(
    storage: Storage, folder: Path, checkpoint: Checkpoint, remove: Callable[[Path], None] | None = None
) -> None:
    """Remove the segments before a checkpoint that is saved, by `remove` if it is given.

    Not while the log may be scanned: of a disk that is receiving, call `DiskReceiver.save_checkpoint`.
    """
    for number, path in segment_files(storage, folder):
        if number < checkpoint.segment:
            (remove or storage.unlink)(path)


def _pack(checkpoint: Checkpoint) -> bytes:
    salts = sorted(checkpoint.salts)
    covered = ex.normalize(checkpoint.covered)
    fixed = FIXED.pack(
        MAGIC, VERSION, 0, checkpoint.segment, checkpoint.position, checkpoint.chain, checkpoint.salt,
        checkpoint.attempt, checkpoint.failed_frames, len(salts), len(covered),
    )  # fmt: skip
    body = b"".join([fixed, *salts, ex.to_bytes(covered)])
    return body + CHECKSUM.pack(xxhash.xxh3_64_intdigest(body))


def _unpack(data: bytes) -> Checkpoint:
    if len(data) < FIXED.size + CHECKSUM.size:
        raise ValueError("it is too short")
    body = data[: -CHECKSUM.size]
    if CHECKSUM.pack(xxhash.xxh3_64_intdigest(body)) != data[-CHECKSUM.size :]:
        raise ValueError("its checksum is wrong")
    magic, version, _, segment, position, chain, salt, attempt, failed, salts, extents = FIXED.unpack_from(body)
    if (magic, version) != (MAGIC, VERSION):
        raise ValueError(f"it is of version {version}, not {VERSION}")
    at = FIXED.size + salts * STREAM_SALT_BYTES
    if len(body) != at + extents * EXTENT_BYTES:
        raise ValueError("it has another length than it says")
    return Checkpoint(
        segment, position, chain, salt, attempt,
        frozenset(body[start : start + STREAM_SALT_BYTES] for start in range(FIXED.size, at, STREAM_SALT_BYTES)),
        failed, ex.from_bytes(body[at:]),
    )  # fmt: skip
