"""A disk in memory with a volatile cache: what is synced stays, of the rest a power cut leaves any part.

* A file's data and size are durable after its sync. Before it, each sector of each write may be there or not, alone.
* A directory's operations (make, rename, remove) are durable after the directory's sync. Before it, each may be there
  or not; a rename is there whole or not at all.
* A file that grew without its data reads as zeros there, or as what was on those sectors before.

A power cut leaves an `Image`, which holds only what is durable, and from which a new medium is made.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from typing import Any

from tests.torture.inodes import Dir, File
from tests.torture.loss import Loss

Image = dict[str, bytes | None]
"""What is on the medium, by path; a directory is None."""


def nothing(what: str) -> None:
    pass


def whole(count: int) -> int:
    return count


class Medium:
    """The disk. `before` is told of each operation that is about to be made, and may fail it; `after` of each made."""

    def __init__(self, image: Image | None = None) -> None:
        self.root = Dir()
        self.nodes: dict[str, File | Dir] = {"/": self.root}
        self.stale: dict[str, bytes] = {}
        """Content of removed files by name: what a file of that name may find on its sectors."""
        self.seq = 0
        self.before: Callable[[str], None] = nothing
        self.after: Callable[[str], None] = nothing
        self.short: Callable[[int], int] = whole
        """How many of so many bytes a write takes."""
        for path in sorted(image or ()):
            self._restore(path, (image or {})[path])

    def _restore(self, path: str, content: bytes | None) -> None:
        parent, name = self.place(path)
        node = Dir() if content is None else File(content)
        parent.entries[name] = parent.durable[name] = self.nodes[path] = node

    # Names

    def place(self, path: str) -> tuple[Dir, str]:
        """The directory of a path, and the name in it. Raises FileNotFoundError, NotADirectoryError."""
        folder, _, name = path.rpartition("/")
        return self.dir(folder or "/"), name

    def dir(self, path: str) -> Dir:
        node = self._node(path)
        if not isinstance(node, Dir):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        return node

    def file(self, path: str) -> File:
        node = self._node(path)
        if not isinstance(node, File):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        return node

    def _node(self, path: str) -> File | Dir:
        node = self.nodes.get(path)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return node

    # Operations, each a step

    def add(self, path: str, node: File | Dir) -> None:
        parent, name = self.place(path)
        self.before(f"make {name}")
        if isinstance(node, File):
            node.stale = self.stale.get(name, b"")
        parent.change(self._next(), "", name, node)
        self.nodes[path] = node
        self.after(f"make {name}")

    def move(self, old: str, new: str) -> None:
        """Within a directory it is one operation; between two, each may have its own, and the file be in both."""
        parent, name = self.place(old)
        target, new_name = self.place(new)
        node = self.file(old)
        self.before(f"rename {new_name}")
        if parent is target:
            parent.change(self._next(), name, new_name, node)
        else:
            target.change(self._next(), "", new_name, node)
            parent.change(self._next(), name, "", None)
        self.nodes[new] = self.nodes.pop(old)
        self.after(f"rename {new_name}")

    def remove(self, path: str) -> None:
        parent, name = self.place(path)
        node = self._node(path)
        self.before(f"remove {name}")
        if isinstance(node, File):
            self.stale[name] = bytes(node.content)
        elif node.entries:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        parent.change(self._next(), name, "", None)
        del self.nodes[path]
        self.after(f"remove {name}")

    def sync_dir(self, path: str) -> None:
        node = self.dir(path)
        name = path.rpartition("/")[2]
        self.before(f"sync directory {name}")
        node.sync()
        self.after(f"sync directory {name}")

    def write(self, file: File, name: str, offset: int, data: bytes | memoryview) -> None:
        self.before(f"write {name}")
        file.write(self._next(), offset, data)
        self.after(f"write {name}")

    def zero(self, file: File, name: str, offset: int, length: int) -> None:
        self.before(f"zero {name}")
        end = min(offset + length, len(file.content))
        if end > offset:
            file.write(self._next(), offset, bytes(end - offset))
        self.after(f"zero {name}")

    def resize(self, file: File, name: str, size: int) -> None:
        self.before(f"resize {name}")
        if size != len(file.content):
            file.resize(self._next(), size)
        self.after(f"resize {name}")

    def sync(self, file: File, name: str) -> None:
        try:
            self.before(f"sync {name}")
        except OSError:
            file.lose()
            raise
        file.sync()
        self.after(f"sync {name}")

    @contextlib.contextmanager
    def unwatched(self) -> Iterator[None]:
        """Without anybody being told."""
        held = self.before, self.after, self.short
        self.before, self.after, self.short = nothing, nothing, whole
        try:
            yield
        finally:
            self.before, self.after, self.short = held

    def _next(self) -> int:
        self.seq += 1
        return self.seq

    # The power goes

    def unsynced(self) -> list[int]:
        """The numbers of the operations that a power cut could take."""
        found: list[int] = []
        folders = [self.root]
        while folders:
            folder = folders.pop()
            found += [operation[0] for operation in folder.pending]
            for node in (
                {*folder.durable.values(), *folder.entries.values()} if folder.pending else folder.entries.values()
            ):
                if isinstance(node, Dir):
                    folders.append(node)
                elif node.pending:
                    found += [write.seq for write in node.pending]
        return found

    def clone(self) -> "Medium":
        """The same disk and cache apart: what a process that is killed leaves to the next."""
        other = Medium()
        copies: dict[File | Dir, Any] = {}
        other.root = self.root.copied(copies)
        other.nodes = {path: copies[node] for path, node in self.nodes.items()}
        other.stale, other.seq = dict(self.stale), self.seq
        return other

    def cut(self, loss: Loss) -> Image:
        """What is on the medium if the power goes now."""
        left: Image = {}
        self._walk(self.root, "", loss, left)
        return left

    def _walk(self, folder: Dir, path: str, loss: Loss, left: Image) -> None:
        for name, node in folder.after(loss).items():
            if isinstance(node, File):
                left[f"{path}/{name}"] = node.after(loss)
            else:
                left[f"{path}/{name}"] = None
                self._walk(node, f"{path}/{name}", loss, left)
