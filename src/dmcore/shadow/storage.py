"""The calls on the shadow's own files, in one place: what the tests record, fail, cut short, and keep in memory.

The log's appends and syncs, and patches of maps, go through `io`, the native table of functions; everything else here.
No other module of this package touches a file. What takes several calls is made of the single ones at the end, so that
a medium which has only these runs the very same sequences.
"""

import contextlib
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

from typing_extensions import Buffer

from dmcore.blocks.files import sparse_copy
from dmcore.native.patching import BlockIO

STAT_BLOCK_BYTES = 512
"""The unit of st_blocks, on every Linux file system."""


class Storage:
    """The local file system."""

    def __init__(self, io: BlockIO | None = None) -> None:
        self.io = io or BlockIO()

    def make_dir(self, path: Path) -> None:
        """Make a directory and, if they are missing, its parents, durably.

        One that is there already is synced too: whoever made it may have been killed before it did.
        """
        if not self.exists(path):
            self.make_dir(path.parent)
            self._add_dir(path)
        self.sync_dir(path.parent)

    def replace(self, path: Path, data: bytes) -> None:
        """Put a whole small file in place: either the old or the new content is there, whatever happens."""
        temporary = path.with_name(path.name + ".new")
        fd = self._open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            self.io.append(fd, b"", data, 0)
            self.io.sync(fd)
        finally:
            self.close(fd)
        self.rename(temporary, path)

    def create_sparse(self, path: Path, size: int) -> None:
        """Make, or make anew, a file of holes."""
        temporary = path.with_name(path.name + ".new")
        fd = self._open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            self._set_size(fd, size)
            self.io.sync(fd)
        finally:
            self.close(fd)
        self.rename(temporary, path)

    def rename(self, old: Path, new: Path) -> None:
        """Rename durably, over whatever is there."""
        self._move(old, new)
        self.sync_dir(new.parent)

    def create(self, path: Path) -> int:
        """A new empty file to write, durable in its directory. Returns the file descriptor, the caller's."""
        fd = self._open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            self.sync_dir(path.parent)
        except BaseException:
            self.close(fd)
            raise
        return fd

    def sync_file(self, path: Path) -> None:
        """Make durable what was written to a file, by whomever."""
        fd = self.open(path)
        try:
            self.io.sync(fd)
        finally:
            self.close(fd)

    def truncate(self, path: Path, size: int) -> None:
        """Cut a file, or lengthen it by a hole, durably."""
        fd = self.open(path)
        try:
            self._set_size(fd, size)
            self.io.sync(fd)
        finally:
            self.close(fd)

    def unlink(self, path: Path) -> None:
        """Remove a file durably. No error if there is none."""
        with contextlib.suppress(FileNotFoundError):
            self._remove(path)
            self.sync_dir(path.parent)

    def remove_tree(self, path: Path) -> None:
        """Remove a directory with all in it, durably. No error if there is none."""
        with contextlib.suppress(FileNotFoundError):
            self._remove_all(path)
            self.sync_dir(path.parent)

    def sync_dir(self, path: Path) -> None:
        """Make a directory's entries durable."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    # Reading

    def open(self, path: Path) -> int:
        """An existing file, to read and write. Returns the file descriptor, the caller's. Raises OSError."""
        return self._open(path, os.O_RDWR)

    def close(self, fd: int) -> None:
        """Close a file; never syncs."""
        os.close(fd)

    def read_into(self, fd: int, offset: int, buffer: Buffer) -> int:
        """Fill a buffer from offset. Returns how much of it was filled: less only at the end of the file."""
        whole, done = memoryview(buffer), 0
        view = whole.cast("B") if whole.nbytes else whole
        while done < whole.nbytes:
            got = os.preadv(fd, [view[done:]], offset + done)
            if got == 0:
                break
            done += got
        return done

    def read_file(self, path: Path, limit: int = -1) -> bytes:
        """A whole small file, or its first bytes. Raises FileNotFoundError, OSError."""
        with path.open("rb") as file:
            return file.read(limit)

    def size(self, fd: int) -> int:
        """A file's length."""
        return os.fstat(fd).st_size

    def forget_cached(self, fd: int) -> None:
        """Read from the medium from now on: after a failed sync the page cache does not tell the truth."""
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def exists(self, path: Path) -> bool:
        """Whether there is such a file or directory."""
        return path.exists()

    def names(self, folder: Path) -> list[str]:
        """What is in a directory, sorted; nothing if there is none."""
        try:
            return sorted(path.name for path in folder.iterdir())
        except FileNotFoundError:
            return []

    def modified_at(self, path: Path) -> datetime:
        """When a file was last written. Raises FileNotFoundError."""
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)

    def copy_unnamed(self, fd: int, beside: Path) -> int:
        """A copy of a file's content without a name. Returns its descriptor, the caller's. Raises OSError."""
        path = beside.with_suffix(".copy")
        copied = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            sparse_copy(fd, copied, self.size(fd))
        except BaseException:
            os.close(copied)
            raise
        finally:
            path.unlink(missing_ok=True)
        return copied

    def used_bytes(self, path: Path) -> int:
        """What the files below a path take. Those that vanish meanwhile take nothing."""
        used = 0
        for folder, _, names in os.walk(path):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    used += Path(folder, name).lstat().st_blocks * STAT_BLOCK_BYTES
        return used

    def free_bytes(self, path: Path) -> int:
        """What can still be written below a path by this user."""
        room = os.statvfs(path)
        return room.f_bavail * room.f_frsize

    # Single calls that are made durable above

    def _open(self, path: Path, flags: int) -> int:
        return os.open(path, flags | os.O_CLOEXEC, 0o600)

    def _set_size(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def _add_dir(self, path: Path) -> None:
        path.mkdir(mode=0o700, exist_ok=True)

    def _move(self, old: Path, new: Path) -> None:
        old.rename(new)

    def _remove(self, path: Path) -> None:
        path.unlink()

    def _remove_all(self, path: Path) -> None:
        shutil.rmtree(path)
