"""The calls that make the shadow's own files durable, in one place: what the tests record, fail and cut short.

The log's appends and syncs, and patches of maps, go through `io`, the native table of functions; everything else here.
"""

import contextlib
import os
import shutil
from pathlib import Path

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
        if not path.is_dir():
            self.make_dir(path.parent)
            path.mkdir(mode=0o700, exist_ok=True)
        self.sync_dir(path.parent)

    def replace(self, path: Path, data: bytes) -> None:
        """Put a whole small file in place: either the old or the new content is there, whatever happens."""
        temporary = path.with_name(path.name + ".new")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            self.io.append(fd, b"", data, 0)
            self.io.sync(fd)
        finally:
            os.close(fd)
        self.rename(temporary, path)

    def create_sparse(self, path: Path, size: int) -> None:
        """Make, or make anew, a file of holes."""
        temporary = path.with_name(path.name + ".new")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, size)
            self.io.sync(fd)
        finally:
            os.close(fd)
        self.rename(temporary, path)

    def rename(self, old: Path, new: Path) -> None:
        """Rename durably, over whatever is there."""
        old.rename(new)
        self.sync_dir(new.parent)

    def create(self, path: Path) -> int:
        """A new empty file to write, durable in its directory. Returns the file descriptor, the caller's."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            self.sync_dir(path.parent)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def sync_file(self, path: Path) -> None:
        """Make durable what was written to a file, by whomever."""
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self.io.sync(fd)
        finally:
            os.close(fd)

    def truncate(self, path: Path, size: int) -> None:
        """Cut a file, durably."""
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.ftruncate(fd, size)
            self.io.sync(fd)
        finally:
            os.close(fd)

    def unlink(self, path: Path) -> None:
        """Remove a file durably. No error if there is none."""
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
            self.sync_dir(path.parent)

    def remove_tree(self, path: Path) -> None:
        """Remove a directory with all in it, durably. No error if there is none."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)
            self.sync_dir(path.parent)

    def sync_dir(self, path: Path) -> None:
        """Make a directory's entries durable."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

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
