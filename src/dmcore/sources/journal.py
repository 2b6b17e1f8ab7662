"""The journal of written extents beside a disk: `disk.img.journal`. All integers big-endian.

    header  64  magic "DMJ1"(4) version=1(2) 0(2) journal id(16) disk size(8) base position(8)
                disk mtime in ns(8) XXH3-64 of these(8) 0(8)
    record  32  position(8) offset(8) length(8) XXH3-64 of the journal id and these(8)

Records only ever get appended; a position counts them from the journal's birth, and the record at the base
is the first that is still there. The id is random. Whoever reads or writes holds a lock (flock) on the
journal: shared to read it and to snapshot the disk, exclusive for a write's four steps: append the record,
sync it, write the data, note the disk's mtime in the header. So a change is in the journal before it is on
the disk, and what cannot be relied on shows:

- part of a record at the end: the writer died before it synced, so before it wrote. The next record takes
  its place.
- a wrong header, another disk size or another mtime than the header's (something else wrote the disk, or the
  writer died while it wrote): the journal is *unsound*. It gives no token, and the next writer starts it anew
  under another id, so that older tokens are refused.
- a wrong whole record: changes since a token before it are not known; since one behind it, they are.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from struct import Struct

import numpy as np
import xxhash

from dmcore.blocks import extents as ex
from dmcore.blocks import files
from dmcore.blocks.extents import Extents
from dmcore.sources.errors import JournalUnsound
from dmcore.sources.token import Token

MAGIC = b"DMJ1"
VERSION = 1
HEADER = Struct(">4sHH16sQQq")
CHECKSUM_BYTES = 8
HEADER_BYTES = 64
RECORD = Struct(">QQQ")
RECORD_BYTES = RECORD.size + CHECKSUM_BYTES
PIECE_RECORDS = 1 << 15
"""How many records are read at once: 1 MiB."""


@dataclass(frozen=True)
class Header:
    """What the first 64 bytes say."""

    journal: bytes
    disk_bytes: int
    base: int
    mtime_ns: int

    def pack(self) -> bytes:
        """The bytes, checksum and padding included."""
        fields = HEADER.pack(MAGIC, VERSION, 0, self.journal, self.disk_bytes, self.base, self.mtime_ns)
        return (fields + xxhash.xxh3_64_digest(fields)).ljust(HEADER_BYTES, b"\0")

    @classmethod
    def unpack(cls, packed: bytes) -> "Header | None":
        """Read them back; None if one bit is wrong."""
        if len(packed) != HEADER_BYTES:
            return None
        _, _, _, journal, disk_bytes, base, mtime_ns = HEADER.unpack_from(packed)
        header = cls(journal, disk_bytes, base, mtime_ns)
        return header if header.pack() == packed else None


def pack_record(journal: bytes, position: int, offset: int, length: int) -> bytes:
    """One record with its checksum."""
    fields = RECORD.pack(position, offset, length)
    return fields + xxhash.xxh3_64_digest(journal + fields)


def journal_path(disk: Path) -> Path:
    """Where a disk's journal is. The disk's path has no symbolic links any more."""
    return disk.with_name(f"{disk.name}.journal")


@contextlib.contextmanager
def locked(path: Path, *, exclusive: bool, create: bool = False) -> Iterator[int]:
    """Open a journal and hold its lock; waits while another holds it (one write, one snapshot, one release).

    Raises:
        OSError: it is not there or cannot be opened.
    """
    flags = (os.O_RDWR if exclusive else os.O_RDONLY) | (os.O_CREAT if create else 0) | os.O_NOFOLLOW
    while True:
        fd = os.open(path, flags, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
            if _is_named(fd, path):  # not one that a release replaced while we waited
                yield fd
                return
        finally:
            os.close(fd)


def _is_named(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


class Journal:
    """A sound journal, open and locked by the caller."""

    def __init__(self, fd: int, path: Path, disk_bytes: int, mtime_ns: int) -> None:
        """Read the header.

        Raises:
            JournalUnsound: it says nothing about this disk as it is.
        """
        self._fd = fd
        header = read_header(fd)
        if header is None:
            raise JournalUnsound(path=str(path), problem="its header is damaged")
        if header.disk_bytes != disk_bytes:
            raise JournalUnsound(path=str(path), problem=f"it is of a disk of {header.disk_bytes} bytes")
        if header.mtime_ns != mtime_ns:
            problem = "the disk was written without it, or its writer was killed"
            raise JournalUnsound(path=str(path), problem=problem)
        self.header = header
        self.position = end_position(fd, header)

    @property
    def token(self) -> Token:
        """What stands for the disk as it is now."""
        return Token(self.header.journal, self.position)

    def stamp(self, mtime_ns: int) -> None:
        """Note the disk's mtime after a write. Raises OSError."""
        self.header = replace(self.header, mtime_ns=mtime_ns)
        os.pwrite(self._fd, self.header.pack(), 0)


def read_header(fd: int) -> Header | None:
    """The header of an open journal; None if it is damaged. Raises OSError."""
    return Header.unpack(os.pread(fd, HEADER_BYTES, 0))


def end_position(fd: int, header: Header) -> int:
    """The position behind the last whole record."""
    return header.base + (os.fstat(fd).st_size - HEADER_BYTES) // RECORD_BYTES


def record_offset(header: Header, position: int) -> int:
    """Where in the file a position's record is."""
    return HEADER_BYTES + (position - header.base) * RECORD_BYTES


def read_extents(fd: int, header: Header, start: int, end: int) -> Extents:
    """What the records from start to end name, sorted and merged.

    Raises:
        ValueError: one is damaged.
        EOFError: the journal ends first.
        OSError: reading failed.
    """
    found = ex.empty()
    for position in range(start, end, PIECE_RECORDS):
        piece = bytearray(min(PIECE_RECORDS, end - position) * RECORD_BYTES)
        files.read_full(fd, record_offset(header, position), piece)
        found = ex.union(found, _piece_extents(header, position, bytes(piece)))
    return found


def _piece_extents(header: Header, start: int, piece: bytes) -> Extents:
    for number, at in enumerate(range(0, len(piece), RECORD_BYTES)):
        position, offset, length = RECORD.unpack_from(piece, at)
        expected = pack_record(header.journal, start + number, offset, length)
        inside = offset <= header.disk_bytes and length <= header.disk_bytes - offset
        if not inside or piece[at : at + RECORD_BYTES] != expected:
            raise ValueError(f"record {start + number} is damaged (it says it is {position})")
    fields = np.frombuffer(piece, dtype=">u8").reshape(-1, RECORD_BYTES // 8)
    return ex.normalize(fields[:, 1:3].astype(np.int64))
