"""Reading a staging log's segment files as one run of records: recovery's scan, and redo's replay."""

import itertools
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from dmcore.shadow import records
from dmcore.shadow.errors import LogCorrupt, StateUnreadable
from dmcore.shadow.logsalt import SALT_FILE, load_salt
from dmcore.shadow.records import HEADER_BYTES, Record
from dmcore.shadow.storage import Storage

SEGMENT_BYTES = 64 << 20
"""A segment is closed by the first record that would end behind this: small enough to reclaim piecewise."""
WINDOW_BYTES = 1 << 20
"""How much of a file is looked through at once."""
SEGMENT_NAME = re.compile(r"seg-([0-9a-f]{8,})\.log")


class LogStart(Protocol):
    """Where in a log to begin to read: always the start of a segment."""

    @property
    def segment(self) -> int:
        """The segment's number."""

    @property
    def position(self) -> int:
        """The log's length there."""

    @property
    def chain(self) -> int:
        """The chain there."""

    @property
    def salt(self) -> bytes:
        """The log's."""


class SegmentStart(NamedTuple):
    """The plain LogStart."""

    segment: int
    position: int
    chain: int
    salt: bytes


class Segment(NamedTuple):
    """One file of a log and where it begins in it. The file may go on behind the log's end."""

    number: int
    path: Path
    start: int
    size: int


@dataclass
class LogEnd:
    """Where a log's good records end, and what the next one chains to."""

    position: int = 0
    chain: int = 0
    salt: bytes = b""
    first: int = 0
    """The number of the first segment that was looked for."""
    segments: list[Segment] = field(default_factory=list)
    """Those that hold good records."""
    beyond: list[tuple[int, Path]] = field(default_factory=list)
    """The later ones, which hold none."""


def segment_path(folder: Path, number: int) -> Path:
    """The file of a log's n-th segment."""
    return folder / f"seg-{number:08x}.log"


def segment_files(storage: Storage, folder: Path) -> list[tuple[int, Path]]:
    """The segments that are there, by number."""
    named = filter(None, map(SEGMENT_NAME.fullmatch, storage.names(folder)))
    return sorted((int(found[1], 16), folder / found[0]) for found in named)


@contextmanager
def opened(storage: Storage, path: Path) -> Iterator[int]:
    """A file's descriptor, closed at the end."""
    fd = storage.open(path)
    try:
        yield fd
    finally:
        storage.close(fd)


def read_body(storage: Storage, fd: int, at: int, record: Record, body: memoryview) -> bool:
    """Read the body of the record at an offset. Whether it is whole and what its header says."""
    whole = storage.read_into(fd, at + HEADER_BYTES, body) == len(body)
    return whole and records.body_hash(body) == record.body_hash


def headers_from(storage: Storage, fd: int, at: int) -> Iterator[tuple[int, Record]]:
    """Whatever from an offset on looks like a record's header, with its offset in the file."""
    window = bytearray(WINDOW_BYTES)
    while (got := storage.read_into(fd, at, window)) >= HEADER_BYTES:
        last = got - HEADER_BYTES  # those behind it are not whole in this window
        found = window.find(records.MAGIC, 0, last + len(records.MAGIC))
        while found >= 0:
            record = records.unpack(bytes(window[found : found + HEADER_BYTES]))
            if record is not None:
                yield at + found, record
            found = window.find(records.MAGIC, found + 1, last + len(records.MAGIC))
        at += last + 1


class LogReader:
    """Walks a log's records, checking position, salt, chain and body.

    The body of a record is a view of one buffer, valid until the next record is asked for. Segments are allocated ahead
    and used again, so their size says nothing: a log goes on in the next segment if that begins with the next record.
    """

    def __init__(self, storage: Storage, folder: Path, start: LogStart | None = None) -> None:
        """From the log's beginning, or from `start`: a checkpoint.

        Raises:
            StateUnreadable: the log's salt cannot be read.
        """
        at = start or _beginning(storage, folder)
        self.at = SegmentStart(at.segment, at.position, at.chain, at.salt)
        """The start of the segment that the last record was read from."""
        self.end = LogEnd(at.position, at.chain, at.salt, at.segment)
        self._storage, self._folder = storage, folder
        self._buffer = np.empty(records.MAX_BODY_BYTES, dtype=np.uint8).data  # not touched before it is needed

    def records(self, upto: int | None = None) -> Generator[tuple[Record, memoryview], None, None]:
        """The good records in order, those that end behind `upto` left out. `end` then says where they stop."""
        for number in itertools.count(self.end.first):
            path = segment_path(self._folder, number)
            before = self.end.position
            if not self._storage.exists(path):
                return
            with opened(self._storage, path) as fd:
                self._storage.forget_cached(fd)
                yield from self._records_of(fd, number, upto)
            if self.end.position == before:
                return

    def _records_of(self, fd: int, number: int, upto: int | None) -> Iterator[tuple[Record, memoryview]]:
        end = self.end
        start = SegmentStart(number, end.position, end.chain, end.salt)
        while (found := self._read(fd, end.position - start.position)) is not None:
            record, body = found
            if upto is not None and record.end > upto:
                return
            if end.position == start.position:
                self.at = start
                path = segment_path(self._folder, number)
                end.segments.append(Segment(number, path, start.position, self._storage.size(fd)))
            end.position, end.chain = record.end, record.chain
            yield record, body

    def _read(self, fd: int, at: int) -> tuple[Record, memoryview] | None:
        header = bytearray(HEADER_BYTES)
        got = self._storage.read_into(fd, at, header)
        record = records.unpack(bytes(header[:got]))
        if record is None or (record.position, record.salt) != (self.end.position, self.end.salt):
            return None
        if record.chain != records.chain_of(self.end.chain, bytes(header)):
            return None
        body = self._buffer[: record.body_bytes]
        return (record, body) if read_body(self._storage, fd, at, record, body) else None

    def check_tail(self) -> None:
        """Called when `records` is exhausted, of a log that is not sealed: decide whether what follows is a torn tail.

        Raises:
            LogCorrupt: a later good record says that more than this was durable.
        """
        last = self.end.segments[-1:]
        known = last[0].number if last else self.end.first - 1
        self.end.beyond = [pair for pair in segment_files(self._storage, self._folder) if pair[0] > known]
        claims = [0]
        for segment in last:
            claims += self._later_claims(segment.path, self.end.position + 1 - segment.start, segment.start)
        for _, path in self.end.beyond:
            claims += self._later_claims(path, 0, None)
        if self.end.position < max(claims):
            raise LogCorrupt(path=str(self._folder), position=self.end.position, durable_to=max(claims))

    def check_sealed(self, log_bytes: int, log_chain: int) -> None:
        """Called when `records(log_bytes)` is exhausted: whether it was what the state file names at SEALED.

        Raises:
            LogCorrupt: it is not.
        """
        if (self.end.position, self.end.chain) != (log_bytes, log_chain):
            raise LogCorrupt(path=str(self._folder), position=self.end.position, durable_to=log_bytes)

    def _later_claims(self, path: Path, at: int, start: int | None) -> Iterator[int]:
        """`durable_to` of each record from `at` on that is good in itself: salt, place, claim, body are right."""
        with opened(self._storage, path) as fd:
            for offset, record in headers_from(self._storage, fd, at):
                if self._plausible(record, offset, start):
                    body = self._buffer[: record.body_bytes]
                    if read_body(self._storage, fd, offset, record, body):
                        yield record.durable_to

    def _plausible(self, record: Record, offset: int, start: int | None) -> bool:
        """Behind damage the chain cannot be checked; a record still knows its place, its log, and no later durability.

        Of a segment in which nothing good was read only this is known of its start: it is not before the log's end.
        A record that a segment had when this same log used it before lies before that.
        """
        begins = record.position - offset
        placed = begins == start if start is not None else begins >= self.end.position
        return placed and record.durable_to <= record.position and record.salt == self.end.salt


def _beginning(storage: Storage, folder: Path) -> SegmentStart:
    salt = load_salt(storage, folder)
    if salt is None and segment_files(storage, folder):
        raise StateUnreadable(path=str(folder / SALT_FILE), problem="it is missing, and the log has segments")
    return SegmentStart(0, 0, 0, salt or b"")
