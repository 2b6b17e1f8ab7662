"""Receiving one disk of an open cycle: verify, append, sync; and what of it is durable after any break.

One connection feeds a disk at a time. `open` gives it a number, its *attempt*; whoever holds an older one is refused.
"""

import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from typing_extensions import Buffer

from dmcore.blocks.coverage import Coverage
from dmcore.blocks.extents import Extents
from dmcore.model.ids import CycleId, DiskId, PlanId
from dmcore.seal import derive
from dmcore.seal.header import StreamHeader
from dmcore.seal.stream import StreamReader
from dmcore.shadow.errors import BlockRepeated, LogPoisoned, StreamRefused
from dmcore.shadow.log import LogWriter
from dmcore.shadow.records import RecordType, StreamRecord
from dmcore.shadow.segments import LogReader
from dmcore.shadow.state import CycleDisk
from dmcore.shadow.storage import Storage


class UnsealKeys(NamedTuple):
    """A plan's keys of one version. Never logged, never kept longer than needed."""

    dek: bytes
    digest_root: bytes


KeyLookup = Callable[[int], UnsealKeys]
"""The plan's keys of a DEK version. Raises a TrustError if there are none, or the KEK is not the pinned one."""


def reader_for(header: StreamHeader, keys: KeyLookup) -> StreamReader:
    """A reader of a logged or arriving stream. Raises WrongKey before anything is decrypted."""
    known = keys(header.dek_version)
    return StreamReader(header, known.dek, derive.digest_key(known.digest_root, header.disk))


class _Appended(NamedTuple):
    log_end: int
    batch: int
    extents: Extents


class DiskReceiver:
    """A disk's staging log and coverage. Thread-safe: one thread appends, one syncs, any may open or close."""

    def __init__(
        self,
        storage: Storage,
        folder: Path,
        keys: KeyLookup,
        plan: PlanId,
        cycle: CycleId,
        disk: DiskId,
        plan_of_disk: CycleDisk,
    ) -> None:
        self._storage, self._folder, self._keys = storage, folder, keys
        self._plan, self._cycle, self._disk, self._spec = plan, cycle, disk, plan_of_disk
        self._lock = threading.Lock()
        self._attempt = 0
        self._retired = False
        self._epoch = 0
        self._salts: set[bytes] = set()
        self._log: LogWriter | None = None
        self._reader: StreamReader | None = None
        self._logged, self._durable = Coverage(), Coverage()
        self._appended: deque[_Appended] = deque()

    def open(self, epoch: int) -> int:
        """Close whoever was sending this disk, read back what is durable, and give the new attempt's number.

        Raises:
            LogCorrupt: the log is damaged where it was acknowledged. StreamRefused: the cycle or the epoch has ended.
        """
        with self._lock:
            if self._retired:
                raise StreamRefused(disk=str(self._disk), problem=f"cycle {self._cycle} is not receiving any more")
            if epoch < self._epoch:
                raise StreamRefused(disk=str(self._disk), problem=f"epoch {epoch} was fenced off by {self._epoch}")
            self._attempt += 1
            self._epoch = epoch
            self._forget_stream()
            self._bring_durable()
            return self._attempt

    def durable(self) -> Extents:
        """What is synced: it is not sent again."""
        with self._lock:
            return self._durable.extents()

    def start(self, attempt: int, header: StreamHeader, wrapped_keys: bytes) -> None:
        """Begin a stream. Its header is logged before any of its batches.

        Raises:
            StreamRefused: it is not of this attempt, disk and cycle, or its salt was seen. WrongKey: another DEK's.
        """
        with self._lock:
            log = self._check(attempt)
            self._check_header(attempt, header)
            reader = reader_for(header, self._keys)
            self._forget_stream()
            log.start_stream(StreamRecord(header, 0, wrapped_keys))
            self._salts.add(header.salt)
            self._reader = reader

    def append(self, attempt: int, data: Buffer) -> int:
        """Authenticate the stream's next batch and append it. Returns its number; it is not durable yet.

        Raises:
            FrameRefused, TotalsDiffer, StreamEnded, BlockRepeated, LogPoisoned, StagingFull: the stream is over.
        """
        with self._lock:
            log = self._check(attempt)
            reader = self._reader
            if reader is None:
                raise StreamRefused(disk=str(self._disk), problem="a batch before a stream header")
            number = reader.next_batch
            extents = self._verify(reader, data, self._logged)
            log.append_batch(data, number)
            self._appended.append(_Appended(log.position, number, extents))
            return number

    def sync(self, attempt: int) -> int | None:
        """Make durable what was appended. Returns the number of the last durable batch, None if there is none yet.

        Raises:
            LogPoisoned: it failed; open the disk again.
        """
        with self._lock:
            log = self._check(attempt)
        durable_to = log.sync()
        with self._lock:
            self._check(attempt)
            return self._settle(durable_to)

    def seal(self) -> tuple[Extents, int, int]:
        """Sync, end all streams, and give the coverage, the log's length and its chain, for the state file."""
        with self._lock:
            self._attempt += 1
            self._forget_stream()
            if self._log is None and not self._folder.exists():
                return self._durable.extents(), 0, 0
            log = self._bring_durable()
            return self._durable.extents(), log.position, log.chain

    def close(self) -> None:
        """Refuse every sender and close the files; what is durable stays. Idempotent."""
        with self._lock:
            self._attempt += 1
            self._forget_stream()
            if self._log is not None:
                self._log.close()
                self._log = None

    def fence(self, epoch: int) -> None:
        """As `close`, and nobody of an older epoch opens it again, not even one who was let in a moment ago."""
        with self._lock:
            self._epoch = max(self._epoch, epoch)
        self.close()

    def retire(self) -> None:
        """As `close`, for good: the log is sealed or dropped, and not one byte may be added to it."""
        with self._lock:
            self._retired = True
        self.close()

    def _check(self, attempt: int) -> LogWriter:
        if attempt != self._attempt or self._log is None:
            raise StreamRefused(disk=str(self._disk), problem="another attempt has opened this disk")
        return self._log

    def _check_header(self, attempt: int, header: StreamHeader) -> None:
        spec = self._spec
        expected = (self._plan, self._disk, self._cycle, self._epoch, attempt)
        if (header.plan, header.disk, header.cycle, header.epoch, header.attempt) != expected:
            raise StreamRefused(disk=str(self._disk), problem="the header names another plan, disk, cycle or attempt")
        shape = (spec.disk_bytes, spec.block_bytes, spec.base_image, spec.dek_version)
        if (header.disk_bytes, header.block_bytes, header.base_image, header.dek_version) != shape:
            raise StreamRefused(
                disk=str(self._disk), problem="the header names another size, base image or key version"
            )
        if header.salt in self._salts:
            raise StreamRefused(disk=str(self._disk), problem="its salt was seen before in this cycle")

    def _verify(self, reader: StreamReader, data: Buffer, coverage: Coverage) -> Extents:
        number = reader.next_batch
        try:
            extents = reader.verify(data).extents
            repeated = coverage.add(extents)
            if repeated is not None:
                raise BlockRepeated(disk=str(self._disk), batch=number, offset=repeated)
        except BaseException:
            reader.end()  # a broken stream is never continued
            raise
        return extents

    def _settle(self, durable_to: int) -> int | None:
        last = None
        while self._appended and self._appended[0].log_end <= durable_to:
            done = self._appended.popleft()
            self._durable.add(done.extents)
            last = done.batch
        return last

    def _forget_stream(self) -> None:
        if self._reader is not None:
            self._reader.end()
            self._reader = None

    def _bring_durable(self) -> LogWriter:
        """Sync what was appended; where that cannot be told any more, read the log back from the medium."""
        if self._log is None:
            return self._recover()
        try:
            self._settle(self._log.sync())
        except LogPoisoned:
            return self._recover()
        return self._log

    def _recover(self) -> LogWriter:
        """Take the log's good records as the truth: verify them again, cut a torn tail, sync the rest."""
        if self._log is not None:
            self._log.close()
            self._log = None
        scan = LogReader(self._folder)
        coverage, reader = Coverage(), None
        for record, body in scan.records():
            if record.type is RecordType.STREAM:
                reader = self._recover_stream(StreamRecord.unpack(bytes(body)), reader)
            elif reader is not None:
                self._verify(reader, body, coverage)
        if reader is not None:
            reader.end()
        scan.check_tail()
        log = LogWriter(self._storage, self._folder, scan.end)
        try:
            log.sync()
        except LogPoisoned:
            log.close()
            raise
        self._log, self._logged, self._durable = log, coverage, Coverage(coverage.extents())
        self._appended.clear()
        return log

    def _recover_stream(self, stream: StreamRecord, current: StreamReader | None) -> StreamReader:
        if current is not None and current.header == stream.header:
            return current
        if current is not None:
            current.end()
        self._salts.add(stream.header.salt)
        self._attempt = max(self._attempt, stream.header.attempt + 1)
        return reader_for(stream.header, self._keys)
