"""Writing to a tracked disk: what may change is in its journal, synced, before the disk changes."""

import os
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from typing_extensions import Buffer

from dmcore.native.batches import ZeroMode
from dmcore.native.patching import BlockIO
from dmcore.sources.disks import open_disk, size_of
from dmcore.sources.errors import DiskWriteFailed
from dmcore.sources.journal import Journal, pack_record, record_offset
from dmcore.sources.tracking import start_tracking, writing


class TrackedWriter:
    """A tracked disk, open to write. Each call holds the journal's lock, so there may be several writers.

    Not for use by several threads at once; each thread takes a writer of its own.
    """

    def __init__(self, path: Path, io: BlockIO | None = None) -> None:
        """Open the disk, and start its journal if it has no sound one.

        Raises:
            SourceMissing: there is no such disk.
            SourceUnfit: it is no disk, or cannot be written.
            JournalFailed: its journal cannot be written.
        """
        self._fd, self._path = -1, path
        start_tracking(path)
        self._fd, self._path = open_disk(path, flags=os.O_RDWR)
        self._io = io or BlockIO()
        self._zero_mode = ZeroMode.PUNCH_HOLE

    def write(self, offset: int, data: Buffer) -> None:
        """Write bytes. Durable after `flush`.

        Raises:
            DiskWriteFailed: they pass the disk's end, or a system call failed: any of them may be written.
        """
        raw = memoryview(data).cast("B")
        self._patch(offset, len(raw), 0, raw)

    def zero(self, offset: int, length: int) -> None:
        """Make a range zeros, as a hole where that can be. Raises as `write` does."""
        self._patch(offset, length, -1, b"")

    def flush(self) -> None:
        """Return only when all that was written is durable. Raises DiskWriteFailed."""
        if self._fd < 0:
            raise self._failed(0, 0, "closed")
        try:
            os.fsync(self._fd)  # not fdatasync: the mtime must get there too, it is what the journal compares
            with writing(self._fd, self._path) as (journal_fd, _):
                self._io.sync(journal_fd)
        except OSError as error:
            raise self._failed(0, 0, f"sync failed: {error}") from error

    def close(self) -> None:
        """Free the handle; never flushes. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Flush, if all went well, and close."""
        try:
            if kind is None:
                self.flush()
        finally:
            self.close()

    def _patch(self, offset: int, length: int, position: int, raw: Buffer) -> None:
        disk_bytes = size_of(self._fd) if self._fd >= 0 else 0
        if length < 0 or not 0 <= offset <= disk_bytes - length:
            raise self._failed(offset, length, f"outside the disk of {disk_bytes} bytes")
        if not length:
            return
        rows = np.array([[offset, length, position]], dtype=np.int64)
        try:
            with writing(self._fd, self._path) as (journal_fd, journal):
                self._record(journal_fd, journal, offset, length)
                try:
                    self._zero_mode = self._io.patch(self._fd, rows, raw, self._zero_mode).zero_mode
                finally:  # what a failed write changed is in the journal, too
                    journal.stamp(os.fstat(self._fd).st_mtime_ns)
        except OSError as error:
            raise self._failed(offset, length, str(error)) from error

    def _record(self, journal_fd: int, journal: Journal, offset: int, length: int) -> None:
        """Append, over what is left of a record that was never synced, and sync."""
        record = pack_record(journal.header.journal, journal.position, offset, length)
        at = record_offset(journal.header, journal.position)
        self._io.append(journal_fd, record, b"", at)
        self._io.sync(journal_fd)

    def _failed(self, offset: int, length: int, problem: str) -> DiskWriteFailed:
        return DiskWriteFailed(path=str(self._path), offset=offset, length=length, problem=problem)
