"""A real connector that kills itself (SIGKILL) right before or after it saves a phase, or while it receives.

python -m tests.lab.killed_connector CONFIG before|after PHASE
python -m tests.lab.killed_connector CONFIG batch N
"""

import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from dmcore.connector.daemon import Connector
from dmcore.host.logs import configure
from dmcore.host.settings import LogSettings
from dmcore.native.patching import BlockIO
from dmcore.node.settings import load_connector
from dmcore.shadow.records import HEADER_BYTES
from dmcore.shadow.storage import Storage


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class CountingCalls:
    """Passes the log's and map's calls on, and dies before the n-th record of a log with a body."""

    def __init__(self, batch: int) -> None:
        self.left = batch

    def pwritev(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        if len(buffers) == 2 and len(buffers[0]) == HEADER_BYTES:
            self.left -= 1
            if self.left == 0:
                os.pwritev(fd, [buffers[0], buffers[1][: len(buffers[1]) // 2]], offset)  # a torn record, too
                die()
        return os.pwritev(fd, buffers, offset)

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        raise OSError(95, "not here: zeros are written")

    def fdatasync(self, fd: int) -> None:
        os.fdatasync(fd)


class DyingStorage(Storage):
    def __init__(self, when: str, phase: str, io: BlockIO | None = None) -> None:
        super().__init__(io)
        self.when, self.mark = when, f'"phase": "{phase}"'.encode()

    def replace(self, path: Path, data: bytes) -> None:
        hit = path.name == "state.json" and self.mark in data
        if hit and self.when == "before":
            die()
        super().replace(path, data)
        if hit and self.when == "after":
            die()


def main() -> None:
    config, when, what = sys.argv[1:]
    configure(LogSettings())
    storage = DyingStorage(when, what) if when != "batch" else Storage(BlockIO(CountingCalls(int(what))))
    with Connector(load_connector(Path(config)), storage):
        print("serving", flush=True)  # noqa: T201 - what the test waits for
        threading.Event().wait()


if __name__ == "__main__":
    main()
