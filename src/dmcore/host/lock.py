"""One process a state directory."""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from dmcore.host.errors import NodeRunning
from dmcore.host.files import make_dir, remove_scratch

LOCK_FILE = "node.lock"


class StateLock:
    """Held by the one process that runs a node. The kernel frees it however the process ends."""

    def __init__(self, state_dir: Path) -> None:
        """Take it, or fail at once. What a killed process has left half made is removed.

        Raises:
            NodeRunning: another process has it.
        """
        self._handle = os.open(make_dir(state_dir) / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as held:
            os.close(self._handle)
            raise NodeRunning(path=str(state_dir)) from held
        remove_scratch(state_dir)

    def release(self) -> None:
        """Let another process run the node."""
        os.close(self._handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
