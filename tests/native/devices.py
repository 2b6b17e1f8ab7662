"""Devices behind `BlockIO`: in memory, recording what was asked, failing a named call a named number of times."""

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

PUNCH_HOLE, ZERO_RANGE, KEEP_SIZE = 2, 16, 1  # linux/falloc.h


@dataclass
class MemoryDevice:
    """One disk in memory that records its calls, and takes at most `most_bytes` of a write."""

    content: bytearray
    most_bytes: int = 1 << 62
    calls: list[tuple[object, ...]] = field(default_factory=list)

    def pwritev(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        data = b"".join(buffers)[: self.most_bytes]
        self.calls.append(("pwritev", fd, [len(buffer) for buffer in buffers], offset))
        self.content[offset : offset + len(data)] = data
        return len(data)

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        self.calls.append(("fallocate", fd, mode, offset, length))
        self.content[offset : offset + length] = bytes(length)

    def fdatasync(self, fd: int) -> None:
        self.calls.append(("fdatasync", fd))

    def names(self) -> list[object]:
        return [call[0] for call in self.calls]


@dataclass
class FaultyDevice(MemoryDevice):
    """Fails the next calls of a name, in turn. `left` must be empty at a test's end: a fault was reached."""

    left: list[tuple[str, BaseException]] = field(default_factory=list)

    def fail(self, name: str, *errors: int | BaseException) -> None:
        for error in errors:
            known = OSError(error, os.strerror(error)) if isinstance(error, int) else error
            self.left.append((name, known))

    def pwritev(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        self._fault("pwritev")
        return super().pwritev(fd, buffers, offset)

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        self._fault("fallocate")
        super().fallocate(fd, mode, offset, length)

    def fdatasync(self, fd: int) -> None:
        self._fault("fdatasync")
        super().fdatasync(fd)

    def _fault(self, name: str) -> None:
        if self.left and self.left[0][0] == name:
            self.calls.append((f"{name} failed",))
            raise self.left.pop(0)[1]


ERRNOS = [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EBADF, errno.EPERM, errno.ETIMEDOUT]
