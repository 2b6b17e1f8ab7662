"""A wish to end that sticks: whoever works is told, and whoever begins later is refused."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TypeVar

from dmcore.appliance.errors import Cancelled
from dmcore.errors import ConnectionFailed
from dmcore.wire.calls import Channel

AnyChannel = TypeVar("AnyChannel", bound=Channel)


class Stop:
    """Thread-safe. The first reason stays."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._why = ""
        self._watchers: list[Callable[[str], None]] = []

    def request(self, why: str) -> None:
        """End what is under way, and refuse what comes later."""
        with self._lock:
            self._why = self._why or why
            for end in self._watchers:
                end(self._why)

    def check(self) -> None:
        """Raise Cancelled if the end was asked for."""
        with self._lock:
            if self._why:
                raise Cancelled(problem=self._why)

    def pause(self, wait_s: float) -> None:
        """Wait. A request ends it at once, and it raises Cancelled then."""
        asked = threading.Event()
        with self.watching(lambda _: asked.set()):
            asked.wait(wait_s)
        self.check()

    @contextmanager
    def watching(self, end: Callable[[str], None]) -> Iterator[None]:
        """Let `end` be called, by any thread and at once if it is too late already, until the block is left."""
        with self._lock:
            self._watchers.append(end)
            if self._why:
                end(self._why)
        try:
            yield
        finally:
            with self._lock:
                self._watchers.remove(end)

    @contextmanager
    def connected(self, connect: Callable[[], AnyChannel]) -> Iterator[AnyChannel]:
        """A channel that a request ends. What the block raises then is Cancelled, which nobody tries again."""
        self.check()
        try:
            with closing(connect()) as channel, self.watching(channel.connection.cancel):
                yield channel
        except ConnectionFailed:
            self.check()
            raise
