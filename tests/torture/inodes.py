"""Files and directories of the medium, each with what is durable of it and what a power cut may take."""

from typing import Any

from tests.torture.loss import SECTOR, Loss, Write


class File:
    """An inode: `durable` is on the medium, `content` is what a reader sees, `pending` what lies between."""

    __slots__ = ("content", "durable", "lost", "pending", "stale")

    def __init__(self, durable: bytes = b"", stale: bytes = b"") -> None:
        self.durable, self.stale = durable, stale
        self.lost = False
        self.content: bytes | bytearray = durable
        self.pending: list[Write] = []

    def writable(self) -> bytearray:
        if not isinstance(self.content, bytearray):
            self.content = bytearray(self.content)
        return self.content

    def write(self, seq: int, offset: int, data: bytes | memoryview) -> None:
        content = self.writable()
        if offset > len(content):
            content.extend(bytes(offset - len(content)))
        content[offset : offset + len(data)] = data
        start = offset // SECTOR * SECTOR
        end = min(-(-(offset + len(data)) // SECTOR) * SECTOR, len(content))
        self.pending.append(Write(seq, start, bytes(content[start:end]), len(content)))

    def resize(self, seq: int, size: int) -> None:
        content = self.writable()
        del content[size:]
        content.extend(bytes(size - len(content)))
        self.pending.append(Write(seq, -1, b"", size))

    def sync(self) -> None:
        if self.pending:
            self.durable = Loss().apply(self.durable, self.pending, b"") if self.lost else bytes(self.content)
            self.pending = []

    def lose(self) -> None:
        """A sync has failed: what was written counts as clean from now on, is still read, and is not on the medium."""
        self.pending, self.lost = [], True

    def forget_clean(self) -> None:
        """Drop what the cache holds and need not write."""
        if self.lost:
            self.content = Loss().apply(self.durable, self.pending, b"")
            self.lost = bool(self.pending)

    def copied(self, copies: "dict[File | Dir, Any]") -> "File":
        copy = copies.get(self)
        if copy is None:
            copy = copies[self] = File(self.durable, self.stale)
            copy.content = self.content if isinstance(self.content, bytes) else bytearray(self.content)
            copy.pending, copy.lost = list(self.pending), self.lost
        return copy

    def after(self, loss: Loss) -> bytes:
        """What a power cut leaves of it."""
        return loss.apply(self.durable, self.pending, self.stale) if self.pending else self.durable


class Dir:
    """A directory's inode. An operation is (its number, the name that goes or "", the name that comes or "", what)."""

    __slots__ = ("durable", "entries", "pending")

    def __init__(self) -> None:
        self.durable: dict[str, File | Dir] = {}
        self.entries: dict[str, File | Dir] = {}
        self.pending: list[tuple[int, str, str, File | Dir | None]] = []

    def change(self, seq: int, gone: str, come: str, what: "File | Dir | None") -> None:
        self.pending.append((seq, gone, come, what))
        self._apply(self.entries, gone, come, what)

    def sync(self) -> None:
        if self.pending:
            self.durable, self.pending = dict(self.entries), []

    def copied(self, copies: "dict[File | Dir, Any]") -> "Dir":
        copy = copies.get(self)
        if copy is None:
            copy = copies[self] = Dir()
            copy.entries = {name: node.copied(copies) for name, node in self.entries.items()}
            copy.durable = {name: node.copied(copies) for name, node in self.durable.items()}
            copy.pending = [(seq, gone, come, what and what.copied(copies)) for seq, gone, come, what in self.pending]
        return copy

    def after(self, loss: Loss) -> "dict[str, File | Dir]":
        if not self.pending:
            return self.durable
        left = dict(self.durable)
        for seq, gone, come, what in self.pending:
            if loss.keeps(seq):
                self._apply(left, gone, come, what)
        return left

    @staticmethod
    def _apply(entries: "dict[str, File | Dir]", gone: str, come: str, what: "File | Dir | None") -> None:
        if gone:
            entries.pop(gone, None)
        if come and what is not None:
            entries[come] = what
