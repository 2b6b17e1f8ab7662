"""The staging log of one disk in one cycle: sealed batches, appended, synced, then acknowledged.

One thread appends; one other may sync at the same time (group commit). docs/staging-log.md is the format.
"""

import threading
from pathlib import Path

from typing_extensions import Buffer

from dmcore.shadow import records, segments
from dmcore.shadow.allocating import Allocator, LogFailure, SegmentFile, log_failure
from dmcore.shadow.cutting import cut
from dmcore.shadow.errors import LogPoisoned, StagingFull
from dmcore.shadow.records import HEADER_BYTES, RecordType, StreamRecord
from dmcore.shadow.segments import LogEnd, SegmentStart
from dmcore.shadow.staging import StagingRoom
from dmcore.shadow.storage import Storage


class LogWriter:
    """Appends behind a log's good records. After any failure it refuses everything: scan the log and make another.

    Only a StagingFull that leaves it not `poisoned` changes nothing: there was no room, ask again.
    """

    def __init__(
        self, storage: Storage, folder: Path, end: LogEnd | None = None, room: StagingRoom | None = None
    ) -> None:
        """Continue at `end`, as a scan has found it; what lies behind it is cut off.

        Raises:
            StagingFull, StagingReadOnly, LogPoisoned: it could not be cut, or its older segments not be synced.
        """
        end = end or LogEnd()
        self._storage, self._folder = storage, folder
        room = room or StagingRoom(storage, folder)
        self._allocator = Allocator(storage, room, folder)
        self._chain = end.chain
        self.position = end.position
        """The length of the log, over all segments."""
        self.durable_to = 0
        """The length that is known to be synced: the ACK's ground."""
        self._lock = threading.Lock()
        self._syncing = threading.Lock()  # a descriptor must not be closed, and its number reused, under a sync
        self._turning = threading.Lock()
        self._poisoned = ""
        self._unsynced: list[int] = []
        self._stream: StreamRecord | None = None
        self._next: SegmentFile | None = None
        try:
            self._salt, self._segment = cut(storage, folder, end)
            room.recount(folder)
        except OSError as error:
            raise log_failure(storage, folder, error, "the log could not be made or cut") from error
        self._following = self._segment.number + 1 if self._segment else end.first
        self._holds_batch = self._segment is not None

    def start_stream(self, stream: StreamRecord) -> None:
        """Append a STREAM record: the batches that follow are this stream's, counted from its `next_batch`.

        Raises: as `append_batch`.
        """
        body = stream.pack()
        size = HEADER_BYTES + len(body)
        if self._is_full(size):
            self._turn(size)
        self._make_room(size)
        self._append(RecordType.STREAM, body)
        self._stream = stream

    def append_batch(self, batch: Buffer, number: int) -> None:
        """Append one authenticated batch, exactly as received. Not durable before `sync`.

        Raises:
            StagingFull: no room; if the log is not poisoned, ask again. StagingReadOnly, LogPoisoned: it is.
        """
        size = HEADER_BYTES + memoryview(batch).nbytes
        if self._is_full(size) and self._stream is not None:
            stream = self._stream._replace(next_batch=number).pack()
            self._turn(HEADER_BYTES + len(stream) + size)
            self._append(RecordType.STREAM, stream)
        self._make_room(size)
        self._append(RecordType.BATCH, batch)
        self._holds_batch = True

    def sync(self) -> int:
        """Make durable what had been appended when this was called. Returns that length, `durable_to`.

        Raises:
            LogPoisoned, StagingFull, StagingReadOnly: the sync failed, now or before. It is never tried again.
        """
        with self._syncing:
            with self._lock:
                self._refuse_if_poisoned()
                position, finished = self.position, list(self._unsynced)
                current = [self._segment.fd] if self._segment else []
            self._sync_files([*finished, *current])
            with self._lock:
                self._unsynced = [fd for fd in self._unsynced if fd not in finished]
                self.durable_to = position
            for fd in finished:
                self._storage.close(fd)
        return position

    def prepare(self) -> None:
        """Allocate ahead what the next appends will need, if they come near. That there is no room is no error yet.

        Raises:
            LogPoisoned, StagingFull, StagingReadOnly: it failed, and the log is poisoned.
        """
        with self._syncing, self._turning:
            segment = self._segment
            if self._poisoned or segment is None or self._allocator.short:
                return
            if self.position - segment.start < segment.ready * 3 // 4:
                return
            try:
                if segment.ready < segments.SEGMENT_BYTES:
                    self._extend(segment, segment.ready + 1)
                else:
                    self._extend(self._following_segment(), segments.SEGMENT_BYTES)
            except StagingFull:
                if self._poisoned:
                    raise

    def close_segment(self) -> SegmentStart | None:
        """Let the next record go into a new segment, and give its start: a checkpoint there frees all before it.

        None, and nothing has changed: not all of the log is durable.
        """
        with self._syncing, self._turning, self._lock:
            if self._poisoned or self.durable_to != self.position:
                return None
            closed, self._segment = self._segment, None
            start = SegmentStart(self._following, self.position, self._chain, self._salt)
        if closed is not None:  # a file that is removed while it is open frees nothing
            self._storage.close(closed.fd)
        return start

    def close(self) -> None:
        """Close the files; never syncs. Idempotent."""
        with self._syncing, self._turning, self._lock:
            self._poisoned = self._poisoned or "the log is closed"
            open_files = [segment.fd for segment in (self._segment, self._next) if segment]
            fds, self._unsynced, self._segment, self._next = [*self._unsynced, *open_files], [], None, None
        for fd in fds:
            self._storage.close(fd)

    @property
    def chain(self) -> int:
        """The hash of the last record's header: with the length, what SEALED names."""
        return self._chain

    @property
    def poisoned(self) -> bool:
        """Whether it refuses everything."""
        return bool(self._poisoned)

    def _is_full(self, size: int) -> bool:
        """Whether a record of this size begins a new segment. One that holds no batch yet takes any."""
        if self._segment is None:
            return True
        return self._holds_batch and self.position - self._segment.start + size > segments.SEGMENT_BYTES

    def _turn(self, size: int) -> None:
        """Go on in the next segment, in which so much is allocated."""
        with self._turning:
            self._refuse_if_poisoned()
            following = self._following_segment()
            self._extend(following, size)
            with self._lock:
                if self._segment is not None:
                    self._unsynced.append(self._segment.fd)
                following.start = self.position
                self._segment, self._next = following, None
                self._following = following.number + 1
                self._holds_batch = False

    def _following_segment(self) -> SegmentFile:
        if self._next is None:
            try:
                self._next = self._allocator.make(self._following)
            except OSError as error:
                raise self._poison(error, "new segment") from error
        return self._next

    def _make_room(self, size: int) -> None:
        self._refuse_if_poisoned()
        if self._segment is not None:
            self._extend(self._segment, self.position - self._segment.start + size)

    def _extend(self, segment: SegmentFile, need: int) -> None:
        if need > segment.ready:
            try:
                self._allocator.extend(segment, need)
            except OSError as error:
                raise self._poison(error, "allocating failed") from error

    def _sync_files(self, fds: list[int]) -> None:
        try:
            for fd in fds:
                self._storage.io.sync(fd)
        except OSError as error:
            raise self._poison(error, "sync failed") from error

    def _append(self, kind: RecordType, body: Buffer) -> None:
        with self._lock:
            self._refuse_if_poisoned()
            segment = self._segment
            if segment is None:
                raise LogPoisoned(path=str(self._folder), problem="a batch before any stream")
            header, chain = records.pack(kind, body, self.position, self.durable_to, self._salt, self._chain)
            try:
                self._storage.io.append(segment.fd, header, body, self.position - segment.start)
            except OSError as error:
                failure = log_failure(self._storage, self._folder, error, "write failed", memoryview(body).nbytes)
                self._poisoned = str(failure)
                raise failure from error
            self._chain = chain
            self.position += HEADER_BYTES + memoryview(body).nbytes

    def _refuse_if_poisoned(self) -> None:
        if self._poisoned:
            raise LogPoisoned(path=str(self._folder), problem=self._poisoned)

    def _poison(self, error: OSError, problem: str) -> LogFailure:
        failure = log_failure(self._storage, self._folder, error, problem)
        with self._lock:
            self._poisoned = str(failure)
        return failure
