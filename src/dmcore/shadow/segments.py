"""Reading a staging log's segment files as one run of records: recovery's scan, and redo's replay."""

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from dmcore.shadow import records
from dmcore.shadow.errors import LogCorrupt
from dmcore.shadow.records import HEADER_BYTES, Record

SEGMENT_BYTES = 64 << 20
"""A segment is closed by the first record that would begin behind this: small enough to reclaim piecewise."""


class Segment(NamedTuple):
    """One file of a log and where it begins in it."""

    path: Path
    start: int
    size: int


@dataclass
class LogEnd:
    """Where a log's good records end, and what the next one chains to."""

    position: int = 0
    chain: int = 0
    salt: bytes = b""
    segments: list[Segment] = field(default_factory=list)


def segment_path(folder: Path, number: int) -> Path:
    """The file of a log's n-th segment."""
    return folder / f"seg-{number:08x}.log"


def list_segments(folder: Path) -> list[Segment]:
    """A log's segments in order, each beginning where the one before ends. A gap in the numbers ends the list."""
    found: list[Segment] = []
    while (path := segment_path(folder, len(found))).exists():
        start = found[-1].start + found[-1].size if found else 0
        found.append(Segment(path, start, path.stat().st_size))
    return found


class LogReader:
    """Walks a log's records from its start, checking position, salt, chain and body.

    The body of a record is a view of one buffer, valid until the next record is asked for.
    """

    def __init__(self, folder: Path) -> None:
        self.end = LogEnd(segments=list_segments(folder))
        self._folder = folder
        self._buffer = bytearray(records.MAX_BODY_BYTES)

    def records(self, upto: int | None = None) -> Iterator[tuple[Record, memoryview]]:
        """The good records in order, those that end behind `upto` left out. `end` then says where they stop."""
        for segment in self.end.segments:
            fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                # After a failed sync only the medium tells the truth, not the page cache.
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
                yield from self._records_of(fd, segment, upto)
            finally:
                os.close(fd)
            if self.end.position != segment.start + segment.size:
                return

    def _records_of(self, fd: int, segment: Segment, upto: int | None) -> Iterator[tuple[Record, memoryview]]:
        while (found := self._read(fd, self.end.position - segment.start)) is not None:
            record, body = found
            if upto is not None and record.end > upto:
                return
            self.end.position, self.end.chain, self.end.salt = record.end, record.chain, record.salt
            yield record, body

    def _read(self, fd: int, at: int) -> tuple[Record, memoryview] | None:
        header = os.pread(fd, HEADER_BYTES, at)
        record = records.unpack(header)
        if record is None or record.position != self.end.position:
            return None
        if self.end.salt and record.salt != self.end.salt:
            return None
        if record.chain != records.chain_of(self.end.chain, header):
            return None
        body = memoryview(self._buffer)[: record.body_bytes]
        if not _fill(fd, body, at + HEADER_BYTES) or records.body_hash(body) != record.body_hash:
            return None
        return record, body

    def check_tail(self) -> None:
        """Called when `records` is exhausted, of a log that is not sealed: decide whether what follows is a torn tail.

        Raises:
            LogCorrupt: a later good record says that more than this was durable.
        """
        durable_to = self._durable_behind()
        if self.end.position < durable_to:
            raise LogCorrupt(path=str(self._folder), position=self.end.position, durable_to=durable_to)

    def check_sealed(self, log_bytes: int, log_chain: int) -> None:
        """Called when `records(log_bytes)` is exhausted: whether it was what the state file names at SEALED.

        Raises:
            LogCorrupt: it is not.
        """
        if (self.end.position, self.end.chain) != (log_bytes, log_chain):
            raise LogCorrupt(path=str(self._folder), position=self.end.position, durable_to=log_bytes)

    def _durable_behind(self) -> int:
        claims = [0]
        for segment in self.end.segments:
            if segment.start + segment.size > self.end.position and segment.size:
                claims += _later_claims(segment, self.end.position, self.end.salt)
        return max(claims)


def _fill(fd: int, body: memoryview, at: int) -> bool:
    done = 0
    while done < len(body):
        got = os.preadv(fd, [body[done:]], at + done)
        if got == 0:
            return False
        done += got
    return True


def _later_claims(segment: Segment, damage: int, salt: bytes) -> Iterator[int]:
    """`durable_to` of each record behind the damage that is good in itself: salt, place, claim and body are right."""
    with segment.path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        at = view.find(records.MAGIC, max(damage + 1 - segment.start, 0))
        while at >= 0:
            record = records.unpack(view[at : at + HEADER_BYTES])
            if record and _plausible(record, segment.start + at, salt):
                body = view[at + HEADER_BYTES : at + HEADER_BYTES + record.body_bytes]
                if len(body) == record.body_bytes and records.body_hash(body) == record.body_hash:
                    yield record.durable_to
            at = view.find(records.MAGIC, at + 1)


def _plausible(record: Record, position: int, salt: bytes) -> bool:
    """Behind damage the chain cannot be checked; a record still knows its place, its log, and no later durability."""
    return record.position == position and record.durable_to <= position and salt in (b"", record.salt)
