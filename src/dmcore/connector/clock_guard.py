"""Keeps a clock that has jumped from making every point look old enough to go.

The latest time that was seen is kept durably. A clock that is more than a day ahead of it, beyond the time that this
process has run since, is not believed. A backward jump makes points look younger, which removes none.
"""

import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from dmcore.connector.errors import ClockJumped
from dmcore.host.clock import Clock
from dmcore.host.errors import FileBroken
from dmcore.host.files import read_state, replace_file

CLOCK_FILE = "clock"
LEAP = timedelta(hours=24)
STEP = timedelta(minutes=10)
"""The file is written this seldom."""

log = structlog.get_logger()


def running_s() -> float:
    """Seconds since the machine was started, those that it slept included: nobody sets this clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class ClockGuard:
    """One connector's. Thread-safe."""

    def __init__(self, state_dir: Path, clock: Clock, running: Callable[[], float] = running_s) -> None:
        self._path, self._clock, self._running = state_dir / CLOCK_FILE, clock, running
        self._lock = threading.Lock()
        self._believed: tuple[datetime, float] | None = None
        """What the clock and `running` showed when it was believed last."""

    def now(self) -> datetime:
        """The time, if it can be believed. To be asked now and then: what was seen last must not get old.

        Raises:
            ClockJumped: it cannot. Expiry waits until an operator has looked.
            FileBroken: what was seen last cannot be read.
        """
        with self._lock:
            now, running = self._clock(), self._running()
            seen = self._seen()
            if seen is not None and now > self._latest(seen, running) + LEAP:
                raise ClockJumped(now=now.isoformat(), seen=seen.isoformat(), path=str(self._path))
            if seen is None or now > seen + STEP:
                replace_file(self._path, now.isoformat().encode())
            self._believed = (now, running)
            return now

    def look(self) -> None:
        """As `now`, for whoever needs no time: what is wrong is logged."""
        try:
            self.now()
        except (ClockJumped, FileBroken, OSError) as problem:
            log.error("nothing expires", problem=str(problem))

    def _latest(self, seen: datetime, running: float) -> datetime:
        """The latest that it can be, as far as is known."""
        if self._believed is None:
            return seen
        then, running_then = self._believed
        return max(seen, then + timedelta(seconds=running - running_then))

    def _seen(self) -> datetime | None:
        try:
            seen = datetime.fromisoformat(read_state(self._path).decode())
        except FileNotFoundError:
            return None
        except ValueError as problem:
            raise FileBroken(path=str(self._path), problem="not a time; if this clock is right, remove it") from problem
        if seen.tzinfo is None:
            raise FileBroken(path=str(self._path), problem="a time without a zone; if this clock is right, remove it")
        return seen
