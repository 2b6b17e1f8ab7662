"""A shadow or snapshot that is a sparse file."""

import errno
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

from dmcore.blocks import files
from dmcore.blocks.extents import Extents
from dmcore.native.batches import Patched, ZeroMode
from dmcore.native.patching import BlockIO
from dmcore.targets.errors import FlushFailed, TargetIOFailed


def io_failed(path: Path, operation: str, offset: int, error: OSError) -> TargetIOFailed:
    """The error of a failed system call, with what to do where that is known."""
    problem = error.strerror or str(error)
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        problem = f"no space left ({problem}): free space or enlarge the file system, nothing is lost meanwhile"
    return TargetIOFailed(path=str(path), operation=operation, offset=offset, problem=problem)


class FolderImage:
    """A file to read. One thread at a time."""

    def __init__(self, path: Path, flags: int = os.O_RDONLY) -> None:
        """Open it; symbolic links are not followed. Raises OSError."""
        self.path = path
        self._fd = os.open(path, flags | os.O_NOFOLLOW)
        self._disk_bytes = os.fstat(self._fd).st_size

    @property
    def disk_bytes(self) -> int:
        """Its size."""
        return self._disk_bytes

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill the whole buffer from offset.

        Raises:
            TargetIOFailed: reading failed, or passes the end.
        """
        if not 0 <= offset <= self._disk_bytes - memoryview(buffer).nbytes:
            raise self._outside("read", offset)
        try:
            files.read_full(self._fd, offset, buffer)
        except EOFError as error:
            raise TargetIOFailed(path=str(self.path), operation="read", offset=offset, problem=str(error)) from None
        except OSError as error:
            raise io_failed(self.path, "read", offset, error) from error

    def allocated(self) -> Extents:
        """Where the file has data. Raises TargetIOFailed."""
        try:
            return files.data_extents(self._fd, self._disk_bytes)
        except OSError as error:
            raise io_failed(self.path, "map", 0, error) from error

    def clone_to(self, fd: int) -> None:
        """Make an empty file of the same file system hold the same; shares blocks if it can. Raises OSError."""
        if not files.try_reflink(self._fd, fd):
            files.sparse_copy(self._fd, fd, self._disk_bytes)

    def close(self) -> None:
        """Free the handle; never flushes. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _outside(self, operation: str, offset: int) -> TargetIOFailed:
        problem = f"outside the volume of {self._disk_bytes} bytes"
        return TargetIOFailed(path=str(self.path), operation=operation, offset=offset, problem=problem)


class FolderVolume(FolderImage):
    """A shadow being written. After a failed flush it refuses everything: open it again, and redo."""

    def __init__(self, path: Path, io: BlockIO) -> None:
        """Open it. Raises OSError."""
        super().__init__(path, os.O_RDWR)
        self._io = io
        self._zero_mode = ZeroMode.PUNCH_HOLE
        self._flush_problem = ""

    def patch(self, rows: NDArray[np.int64], raw: Buffer) -> Patched:
        """Write rows of (offset, length, position in raw or -1 for zeros). Nothing is durable before `flush`.

        Raises:
            TargetIOFailed: a row passes the volume's end, or writing failed: any of the rows may be written.
            FlushFailed: an earlier flush failed.
        """
        self._refuse_after_failed_flush()
        self._check_inside(rows)
        try:
            patched = self._io.patch(self._fd, rows, raw, self._zero_mode)
        except OSError as error:
            raise io_failed(self.path, "patch", int(rows[0, 0]), error) from error
        self._zero_mode = patched.zero_mode
        return patched

    def flush(self) -> None:
        """Return only when every earlier patch is durable.

        Raises:
            FlushFailed: now or earlier. Never tried again: the kernel may have dropped what it could not write.
        """
        self._refuse_after_failed_flush()
        try:
            self._io.sync(self._fd)
        except OSError as error:
            self._flush_problem = error.strerror or str(error)
            raise FlushFailed(path=str(self.path), problem=self._flush_problem) from error

    def grow(self, disk_bytes: int) -> None:
        """Lengthen it by a hole, durably; never shortens it. Raises TargetIOFailed, FlushFailed."""
        if disk_bytes <= self._disk_bytes:
            return
        try:
            os.ftruncate(self._fd, disk_bytes)
        except OSError as error:
            raise io_failed(self.path, "grow", self._disk_bytes, error) from error
        self.flush()
        self._disk_bytes = disk_bytes

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill the whole buffer from offset. Raises as `FolderImage` does, and FlushFailed."""
        self._refuse_after_failed_flush()
        super().read_into(offset, buffer)

    def allocated(self) -> Extents:
        """Where the file has data. Raises as `FolderImage` does, and FlushFailed."""
        self._refuse_after_failed_flush()
        return super().allocated()

    def _refuse_after_failed_flush(self) -> None:
        if self._flush_problem:
            raise FlushFailed(path=str(self.path), problem=self._flush_problem)

    def _check_inside(self, rows: NDArray[np.int64]) -> None:
        """A write past the end would make the file longer. Written so that no sum can overflow."""
        outside = (rows[:, 0] < 0) | (rows[:, 1] > self._disk_bytes - rows[:, 0])
        if outside.any():
            raise self._outside("patch", int(rows[outside][0, 0]))
