"""The system's write calls with staging logs that fill up, hang or fail on demand; all else is left alone."""

import errno
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from dmcore.native.patching import BlockIO
from dmcore.shadow.storage import Storage


class StagingCalls:
    """Every call on a file below a `staging` directory may be told to fail."""

    def __init__(self) -> None:
        self.full = self.broken = False
        self.open_gate = threading.Event()
        self.open_gate.set()
        self.reached = 0

    def pwritev(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        if self.full and staged(fd):
            self.reached += 1
            if sum(map(len, buffers)) > 100:
                return os.pwritev(fd, [buffers[0][:100]], offset)  # as a file system does that has a little left
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.pwritev(fd, buffers, offset)

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def fdatasync(self, fd: int) -> None:
        if staged(fd):
            assert self.open_gate.wait(20)
            if self.broken:
                self.reached += 1
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        os.fdatasync(fd)


def staged(fd: int) -> bool:
    return "staging" in str(Path(f"/proc/self/fd/{fd}").readlink())


class StagingStorage(Storage):
    def __init__(self) -> None:
        self.calls = StagingCalls()
        super().__init__(BlockIO(self.calls))
