"""The staging log of one disk in one cycle: sealed batches, appended, synced, then acknowledged.

One thread appends; one other may sync at the same time (group commit). docs/staging-log.md is the format.
"""

import errno
import os
import threading
from pathlib import Path

from typing_extensions import Buffer

from dmcore.shadow import records, segments
from dmcore.shadow.errors import LogPoisoned, StagingFull
from dmcore.shadow.records import HEADER_BYTES, SALT_BYTES, RecordType, StreamRecord
from dmcore.shadow.segments import LogEnd
from dmcore.shadow.storage import Storage


class LogWriter:
    """Appends behind a log's good records. After any failure it refuses everything: scan the log and make another."""

    def __init__(self, storage: Storage, folder: Path, end: LogEnd | None = None) -> None:
        """Continue at `end`, as a scan has found it; what lies behind it is cut off.

        Raises:
            OSError: it could not be cut, or its older segments not be synced; scan it and try again.
        """
        end = end or LogEnd()
        self._storage, self._folder = storage, folder
        self._salt = end.salt or os.urandom(SALT_BYTES)
        self._chain = end.chain
        self.position = end.position
        """The length of the log, over all segments."""
        self.durable_to = 0
        """The length that is known to be synced: the ACK's ground."""
        self._lock = threading.Lock()
        self._syncing = threading.Lock()  # a descriptor must not be closed, and its number reused, under a sync
        self._poisoned = ""
        self._unsynced: list[int] = []
        self._stream: StreamRecord | None = None
        self._segment, self._segment_start, self._fd = self._cut(end)

    def _cut(self, end: LogEnd) -> tuple[int, int, int]:
        """Leave nothing behind `end`, and open the segment it lies in. Returns its number, start and descriptor.

        The last segments go first, so that a crash here leaves no gap. Those before the open one are synced: whoever
        wrote them may have been killed before its own sync, and ours will cover only the open one.
        """
        self._storage.make_dir(self._folder)
        kept = [segment for segment in end.segments if segment.start < end.position]
        for dropped in reversed(end.segments[len(kept) :]):
            self._storage.unlink(dropped.path)
        if not kept:
            return 0, 0, self._storage.create(segments.segment_path(self._folder, 0))
        *finished, last = kept
        for segment in finished:
            self._storage.sync_file(segment.path)
        if last.start + last.size > end.position:
            self._storage.truncate(last.path, end.position - last.start)
        return len(kept) - 1, last.start, os.open(last.path, os.O_RDWR | os.O_CLOEXEC)

    def start_stream(self, stream: StreamRecord) -> None:
        """Append a STREAM record: the batches that follow are this stream's, counted from its `next_batch`."""
        self._stream = stream
        self._append(RecordType.STREAM, stream.pack())

    def append_batch(self, batch: Buffer, number: int) -> None:
        """Append one authenticated batch, exactly as received. Not durable before `sync`.

        Raises:
            StagingFull: no space. LogPoisoned: any other failure, or an earlier one.
        """
        if self.position - self._segment_start >= segments.SEGMENT_BYTES and self._stream is not None:
            self._roll()
            self._append(RecordType.STREAM, self._stream._replace(next_batch=number).pack())
        self._append(RecordType.BATCH, batch)

    def sync(self) -> int:
        """Make durable what had been appended when this was called. Returns that length, `durable_to`.

        Raises:
            LogPoisoned: the sync failed, now or before. It is never tried again.
        """
        with self._syncing:
            with self._lock:
                self._refuse_if_poisoned()
                position, finished, current = self.position, list(self._unsynced), self._fd
            self._sync_files([*finished, current])
            with self._lock:
                self._unsynced = [fd for fd in self._unsynced if fd not in finished]
                self.durable_to = position
            for fd in finished:
                os.close(fd)
        return position

    def close(self) -> None:
        """Close the files; never syncs. Idempotent."""
        with self._syncing, self._lock:
            self._poisoned = self._poisoned or "the log is closed"
            open_fds, self._unsynced, self._fd = [*self._unsynced, self._fd], [], -1
        for fd in open_fds:
            if fd >= 0:
                os.close(fd)

    @property
    def chain(self) -> int:
        """The hash of the last record's header: with the length, what SEALED names."""
        return self._chain

    def _sync_files(self, fds: list[int]) -> None:
        try:
            for fd in fds:
                self._storage.io.sync(fd)
        except OSError as error:
            raise self._poison(f"sync failed: {error}") from error

    def _append(self, kind: RecordType, body: Buffer) -> None:
        with self._lock:
            self._refuse_if_poisoned()
            header, chain = records.pack(kind, body, self.position, self.durable_to, self._salt, self._chain)
            try:
                self._storage.io.append(self._fd, header, body, self.position - self._segment_start)
            except OSError as error:
                self._poisoned = f"write failed: {error}"
                raise self._write_error(error, memoryview(body).nbytes) from error
            self._chain = chain
            self.position += HEADER_BYTES + memoryview(body).nbytes

    def _roll(self) -> None:
        path = segments.segment_path(self._folder, self._segment + 1)
        try:
            fd = self._storage.create(path)
        except OSError as error:
            raise self._poison(f"new segment: {error}") from error
        with self._lock:
            self._unsynced.append(self._fd)
            self._fd, self._segment, self._segment_start = fd, self._segment + 1, self.position

    def _refuse_if_poisoned(self) -> None:
        if self._poisoned:
            raise LogPoisoned(path=str(self._folder), problem=self._poisoned)

    def _poison(self, problem: str) -> LogPoisoned:
        with self._lock:
            self._poisoned = problem
        return LogPoisoned(path=str(self._folder), problem=problem)

    def _write_error(self, error: OSError, body_bytes: int) -> Exception:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = self._storage.free_bytes(self._folder)
            return StagingFull(path=str(self._folder), needed_bytes=body_bytes, free_bytes=free)
        return LogPoisoned(path=str(self._folder), problem=self._poisoned)
