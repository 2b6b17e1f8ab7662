"""Long polls: who waits for which queue. Waiting costs a future, no thread and no connection to the database."""

import asyncio
import random
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from dmcore.control.queue.queue import QueueKey

WAKE_AT_ONCE = 1
"""Of those that wait for a queue, so many are told of a job: the rest would only find it gone. Who gets one wakes the
next, and the tick wakes one a second anyway."""
SHORTEST = 0.8
"""A wait takes this part of what was asked for, at least: who came together does not come back together."""


class Waiter:
    """One poll. Made by `Waiters.listening`, in the event loop that awaits it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()

    async def wait(self, timeout_s: float) -> bool:
        """Whether something came within that time, the time before this call included."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._woken.wait()
        except TimeoutError:
            return False
        self._woken.clear()
        return True

    def wake(self) -> None:
        """From any thread, while the loop runs."""
        self._loop.call_soon_threadsafe(self._woken.set)


class Waiters:
    """All of one process. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: dict[QueueKey, dict[Waiter, None]] = {}
        self._closed = False

    @contextmanager
    def listening(self, keys: Iterable[QueueKey]) -> Iterator[Waiter]:
        """Told of what comes into these queues from now on. Begin before looking into them, and nothing is missed."""
        waiter, mine = Waiter(), frozenset(keys)
        with self._lock:
            for key in mine:
                self._queues.setdefault(key, {})[waiter] = None
            if self._closed:
                waiter.wake()
        try:
            yield waiter
        finally:
            self._forget(waiter, mine)

    def wake(self, keys: Iterable[QueueKey]) -> None:
        """There is something to claim. Those who have waited longest are told, and go to the end of the line."""
        with self._lock:
            for key in keys:
                line = self._queues.get(key, {})
                for waiter in list(line)[:WAKE_AT_ONCE]:
                    del line[waiter]
                    line[waiter] = None
                    waiter.wake()

    def close(self) -> None:
        """Wake everybody, now and later: polls end at once. Idempotent."""
        with self._lock:
            self._closed = True
            for waiter in {waiter for line in self._queues.values() for waiter in line}:
                waiter.wake()

    @property
    def closed(self) -> bool:
        """Whether nobody should wait any more."""
        return self._closed

    @property
    def waiting(self) -> int:
        """How many polls wait."""
        with self._lock:
            return len({waiter for line in self._queues.values() for waiter in line})

    def _forget(self, waiter: Waiter, keys: frozenset[QueueKey]) -> None:
        with self._lock:
            for key in keys:
                line = self._queues[key]
                del line[waiter]
                if not line:
                    del self._queues[key]


def jittered_s(wait_s: float) -> float:
    """How long a poll that asked for so long really waits."""
    return wait_s * random.uniform(SHORTEST, 1.0)  # noqa: S311 - spreads load, keeps no secret
