"""What of a disk is in its staging log and what of that is durable; where that is not known, the log is read again."""

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from typing_extensions import Buffer

from dmcore.blocks.coverage import Coverage
from dmcore.blocks.extents import Extents
from dmcore.model.ids import DiskId
from dmcore.seal.header import StreamHeader
from dmcore.seal.stream import StreamReader
from dmcore.shadow.checkpoint import Checkpoint, load_checkpoint, reclaim, save_checkpoint
from dmcore.shadow.errors import BlockRepeated, LogPoisoned, StagingFull, StagingReadOnly, StreamRefused
from dmcore.shadow.log import LogWriter
from dmcore.shadow.records import RecordType, StreamRecord
from dmcore.shadow.segments import LogReader
from dmcore.shadow.staging import StagingRoom
from dmcore.shadow.storage import Storage

OpenStream = Callable[[StreamHeader, int], StreamReader]
"""A reader of a logged stream from a batch on. Raises WrongKey."""


class _Verified(NamedTuple):
    batch: int
    extents: Extents


class _Appended(NamedTuple):
    log_end: int
    batch: int
    extents: Extents


class StagedDisk:
    """Not thread-safe, but `log` may be synced and prepared by another thread."""

    def __init__(
        self, storage: Storage, folder: Path, disk: DiskId, open_stream: OpenStream, room: StagingRoom
    ) -> None:
        self._storage, self._folder, self._disk, self._room = storage, folder, disk, room
        self._open_stream = open_stream
        self.log: LogWriter | None = None
        self.salts: set[bytes] = set()
        """Those of all streams in the log, and before its checkpoint."""
        self.attempt = 0
        """The highest attempt of these."""
        self.durable = Coverage()
        self.durable_log = 0
        """The length of the log that is known to be synced."""
        self.waits = False
        """Whether what was to be appended last found no room, and the log is as it was."""
        self._logged = Coverage()
        self._appended: deque[_Appended] = deque()
        self._verified: _Verified | None = None
        """A batch that is counted in `_logged` and is not in the log yet."""

    @property
    def exists(self) -> bool:
        """Whether there is a log."""
        return self.log is not None or self._storage.exists(self._folder)

    def start_stream(self, log: LogWriter, stream: StreamRecord) -> None:
        """Append a stream's header. Raises as `LogWriter.start_stream`."""
        self._add_to(log, lambda: log.start_stream(stream))
        self.salts.add(stream.header.salt)

    def append(self, log: LogWriter, reader: StreamReader, data: Buffer) -> int:
        """Authenticate the stream's next batch and append it. Returns its number.

        Raises:
            FrameRefused, TotalsDiffer, StreamEnded, BlockRepeated: nothing was logged. Or as `LogWriter.append_batch`.
        """
        number = reader.next_batch
        self._verified = _Verified(number, self._verify(reader, data, self._logged))
        return self.append_again(log, data)

    def append_again(self, log: LogWriter, data: Buffer) -> int:
        """Append the batch that found no room. Returns its number. Raises StreamRefused if there is none."""
        verified = self._verified
        if verified is None:
            raise StreamRefused(disk=str(self._disk), problem="no batch waits for room")
        self._add_to(log, lambda: log.append_batch(data, verified.batch))
        self._appended.append(_Appended(log.position, *verified))
        self._verified = None
        return verified.batch

    def settle(self, durable_to: int) -> int | None:
        """So much of the log is synced. Returns the number of the last batch that has become durable by it."""
        self.durable_log = max(self.durable_log, durable_to)
        last = None
        while self._appended and self._appended[0].log_end <= durable_to:
            done = self._appended.popleft()
            self.durable.add(done.extents)
            last = done.batch
        return last

    def bring_durable(self) -> LogWriter:
        """Sync what was appended; where that cannot be told any more, read the log back from the medium.

        Raises:
            LogCorrupt, StateUnreadable: an operator must look. LogPoisoned, StagingFull, StagingReadOnly: try again.
        """
        self.waits = False
        if self.log is None:
            return self.recover()
        try:
            self.settle(self.log.sync())
        except (LogPoisoned, StagingFull, StagingReadOnly):
            return self.recover()
        if self._verified is not None:  # it never reached the log
            self._verified, self._logged = None, Coverage(self.durable.extents())
        return self.log

    def recover(self) -> LogWriter:
        """Take the checkpoint and the log's good records as the truth: verify these again, cut a torn tail, sync.

        Raises: as `bring_durable`.
        """
        self.close()
        checkpoint = load_checkpoint(self._storage, self._folder)
        scan = LogReader(self._storage, self._folder, checkpoint)
        coverage = self._scan(scan, checkpoint)
        scan.check_tail()
        log = LogWriter(self._storage, self._folder, scan.end, self._room)
        try:
            log.sync()
        except (LogPoisoned, StagingFull, StagingReadOnly):
            log.close()
            raise
        self.log, self._logged, self.durable = log, coverage, Coverage(coverage.extents())
        self.durable_log = log.durable_to
        return log

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Record how far the log was redone, then free the segments before it. Raises OSError."""
        save_checkpoint(self._storage, self._folder, checkpoint)
        reclaim(self._storage, self._folder, checkpoint, self._room.give_back)

    def close(self) -> None:
        """Close the log; what was not synced is not known any more."""
        if self.log is not None:
            self.log.close()
        self.log, self.waits, self._verified = None, False, None
        self._appended.clear()

    def _add_to(self, log: LogWriter, add: Callable[[], None]) -> None:
        self.waits = False
        try:
            add()
        except StagingFull:
            self.waits = not log.poisoned
            raise

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

    def _scan(self, scan: LogReader, checkpoint: Checkpoint | None) -> Coverage:
        coverage, reader = Coverage(), None
        if checkpoint is not None:
            coverage = Coverage(checkpoint.covered)
            self._remember(checkpoint.salts, checkpoint.attempt)
        for record, body in scan.records():
            if record.type is RecordType.STREAM:
                reader = self._enter(StreamRecord.unpack(bytes(body)), reader)
            elif reader is not None:
                self._verify(reader, body, coverage)
        if reader is not None:
            reader.end()
        return coverage

    def _enter(self, stream: StreamRecord, current: StreamReader | None) -> StreamReader:
        if current is not None and current.header == stream.header:
            return current
        if current is not None:
            current.end()
        self._remember({stream.header.salt}, stream.header.attempt)
        return self._open_stream(stream.header, stream.next_batch)

    def _remember(self, salts: "frozenset[bytes] | set[bytes]", attempt: int) -> None:
        self.salts |= salts
        self.attempt = max(self.attempt, attempt)
