"""The shadow's files on a medium in memory: below the real code, above the volatile cache."""

import errno
import itertools
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from typing_extensions import Buffer

from dmcore.native.patching import BlockIO
from dmcore.shadow.storage import Storage
from tests.torture.inodes import Dir, File
from tests.torture.medium import Medium

ROOM_BYTES = 1 << 30
WRITTEN_AT = datetime(2026, 1, 1, tzinfo=UTC)
FIRST_FD = 1 << 20
"""Descriptors that no real file has: one that leaks into a real call fails."""


class Descriptors:
    """What is open, and the three native calls on it."""

    def __init__(self, medium: Medium) -> None:
        self.medium = medium
        self.numbers = itertools.count(FIRST_FD)
        self.held: dict[int, tuple[File, str]] = {}

    def add(self, file: File, name: str) -> int:
        number = next(self.numbers)
        self.held[number] = (file, name)
        return number

    def file(self, fd: int) -> tuple[File, str]:
        if fd not in self.held:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self.held[fd]

    def pwritev(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        data = buffers[0] if len(buffers) == 1 else b"".join(buffers)
        count = self.medium.short(len(data))
        self.medium.write(*self.file(fd), offset, data[:count])
        return count

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        self.medium.zero(*self.file(fd), offset, length)

    def fdatasync(self, fd: int) -> None:
        self.medium.sync(*self.file(fd))


class MemoryStorage(Storage):
    """Every single call of `Storage`; what is made of several of them is the real one's."""

    def __init__(self, medium: Medium) -> None:
        self.medium = medium
        self.fds = Descriptors(medium)
        self.room_bytes = ROOM_BYTES
        super().__init__(BlockIO(self.fds))

    def sync_dir(self, path: Path) -> None:
        self.medium.sync_dir(str(path))

    def close(self, fd: int) -> None:
        self.fds.file(fd)
        del self.fds.held[fd]

    def read_into(self, fd: int, offset: int, buffer: Buffer) -> int:
        whole = memoryview(buffer)
        view = whole.cast("B") if whole.nbytes else whole
        file, name = self.fds.file(fd)
        self.medium.before(f"read {name}")
        piece = file.content[offset : offset + whole.nbytes]
        view[: len(piece)] = piece
        return len(piece)

    def read_file(self, path: Path, limit: int = -1) -> bytes:
        content = self.medium.file(str(path)).content
        self.medium.before(f"read {path.name}")
        return bytes(content if limit < 0 else content[:limit])

    def size(self, fd: int) -> int:
        return len(self.fds.file(fd)[0].content)

    def forget_cached(self, fd: int) -> None:
        self.fds.file(fd)[0].forget_clean()

    def exists(self, path: Path) -> bool:
        return str(path) in self.medium.nodes

    def names(self, folder: Path) -> list[str]:
        node = self.medium.nodes.get(str(folder))
        return sorted(node.entries) if isinstance(node, Dir) else []

    def modified_at(self, path: Path) -> datetime:
        self.medium.file(str(path))
        return WRITTEN_AT

    def copy_unnamed(self, fd: int, beside: Path) -> int:
        file, name = self.fds.file(fd)
        return self.fds.add(File(bytes(file.content)), name)

    def used_bytes(self, path: Path) -> int:
        prefix = f"{path}/"
        files = (node for name, node in self.medium.nodes.items() if name.startswith(prefix))
        return sum(len(node.content) for node in files if isinstance(node, File))

    def free_bytes(self, path: Path) -> int:
        return max(self.room_bytes - self.used_bytes(path), 0)

    def _open(self, path: Path, flags: int) -> int:
        where = str(path)
        if where not in self.medium.nodes:
            if not flags & os.O_CREAT:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), where)
            self.medium.add(where, File())
        elif flags & os.O_EXCL:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), where)
        file = self.medium.file(where)
        if flags & os.O_TRUNC:
            self.medium.resize(file, path.name, 0)
        return self.fds.add(file, path.name)

    def _set_size(self, fd: int, size: int) -> None:
        self.medium.resize(*self.fds.file(fd), size)

    def _add_dir(self, path: Path) -> None:
        self.medium.add(str(path), Dir())

    def _move(self, old: Path, new: Path) -> None:
        self.medium.move(str(old), str(new))

    def _remove(self, path: Path) -> None:
        self.medium.remove(str(path))

    def _remove_all(self, path: Path) -> None:
        for name in list(self.medium.dir(str(path)).entries):
            child = path / name
            if isinstance(self.medium.nodes[str(child)], Dir):
                self._remove_all(child)
            else:
                self._remove(child)
        self._remove(path)
