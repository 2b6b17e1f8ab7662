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
        self.keys: frozenset[QueueKey] = frozenset()
        """The queues that it is told of."""
        self.told: set[QueueKey] = set()
        """Of which it was told, and has not looked since."""

    async def wait(self, timeout_s: float) -> bool:
        """Whether something came within that time, the time before this call included."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._woken.wait()
        except TimeoutError:
            return False
        self._woken.clear()
        return True

    def wake(self, after_s: float = 0.0) -> None:
        """From any thread, while the loop runs."""
        if after_s:
            self._loop.call_soon_threadsafe(self._loop.call_later, after_s, self._woken.set)
        else:
            self._loop.call_soon_threadsafe(self._woken.set)


class Waiters:
    """All of one process. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: dict[QueueKey, dict[Waiter, None]] = {}
        self._closed = False

    @contextmanager
    def listening(self, keys: Iterable[QueueKey] = ()) -> Iterator[Waiter]:
        """One that is told of what comes into these queues, until the end."""
        waiter = Waiter()
        try:
            self.listen(waiter, keys)
            yield waiter
        finally:
            with self._lock:
                self._forget(waiter)
                self._wake(waiter.told)  # and has gone: the next looks in its place

    def listen(self, waiter: Waiter, keys: Iterable[QueueKey]) -> None:
        """Tell it of what comes into these queues from now on. Do so before looking: then nothing is missed."""
        asked = frozenset(keys)
        with self._lock:
            waiter.told.clear()
            if asked != waiter.keys:
                self._forget(waiter)
                waiter.keys = asked
                for key in asked:
                    self._queues.setdefault(key, {})[waiter] = None
            if self._closed:
                waiter.wake()

    def wake(self, keys: Iterable[QueueKey], apart_s: float = 0.0) -> None:
        """There is something to claim. Those who have waited longest are told, and go to the end of the line.

        Of many queues one is told after the other, so far apart: who asks meanwhile need not wait for all of them.
        Nobody is told of a queue that one who was told before has still to look into: a control plane that is behind
        would ask its database the more often, the further behind it is.
        """
        with self._lock:
            self._wake(keys, apart_s)

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

    def _wake(self, keys: Iterable[QueueKey], apart_s: float = 0.0) -> None:
        for number, key in enumerate(keys):
            line = self._queues.get(key, {})
            if any(key in waiter.told for waiter in line):
                continue
            for waiter in list(line)[:WAKE_AT_ONCE]:
                del line[waiter]
                line[waiter] = None
                waiter.told.add(key)
                waiter.wake(number * apart_s)

    def _forget(self, waiter: Waiter) -> None:
        for key in waiter.keys:
            line = self._queues[key]
            del line[waiter]
            if not line:
                del self._queues[key]
        waiter.keys = frozenset()


def jittered_s(wait_s: float) -> float:
    """How long a poll that asked for so long really waits."""
    return wait_s * random.uniform(SHORTEST, 1.0)  # noqa: S311 - spreads load, keeps no secret
