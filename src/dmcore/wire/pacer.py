"""How fast bytes may go to sockets: token buckets that many connections share, and several of them in a row.

Nothing here waits. A connection's owner asks before each write (`take`), gives back what the socket did not take, and
when nothing is allowed sleeps on its selector for `wait_s`, so that what comes from the peer is read meanwhile.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

BURST_S = 0.1
"""What a bucket holds at most, in time at its rate."""
WORTH_WAITING = 4
"""A sleeper wakes for this part of a bucket at the least: a slow rate is not sent byte by byte."""
LONGEST_WAIT_S = 0.5
"""How soon a new rate is noticed by who waits under the old one."""

Clock = Callable[[], float]


class Pace(Protocol):
    """Who decides whether bytes may go. Thread-safe, never waits."""

    @property
    def paused(self) -> bool:
        """Whether nothing goes until somebody says so."""
        ...

    def take(self, wanted: int) -> int:
        """How many of so many bytes may go now."""
        ...

    def give_back(self, count: int) -> None:
        """So many of those that were taken did not go."""
        ...

    def wait_s(self, wanted: int) -> float:
        """How long to sleep before it is worth asking again."""
        ...


class Pacer:
    """A token bucket. Its owner changes the rate at any time: None is no limit, 0 a pause."""

    def __init__(self, rate_bytes_s: float | None = None, clock: Clock = time.monotonic) -> None:
        """The bucket begins empty."""
        self._clock = clock
        self._lock = threading.Lock()
        self._rate = rate_bytes_s
        self._tokens = 0.0
        self._filled_at = clock()

    @property
    def rate_bytes_s(self) -> float | None:
        """What `set_rate` has set."""
        return self._rate

    @property
    def paused(self) -> bool:
        """Whether the rate is 0."""
        return self._rate == 0

    def set_rate(self, rate_bytes_s: float | None) -> None:
        """From now on. What had been saved up stays, as far as the new bucket holds it."""
        with self._lock:
            self._fill()
            self._tokens = 0.0 if rate_bytes_s is None else min(self._tokens, rate_bytes_s * BURST_S)
            self._rate = rate_bytes_s

    def take(self, wanted: int) -> int:
        """See `Pace`."""
        with self._lock:
            if self._rate is None:
                return wanted
            self._fill()
            allowed = min(wanted, int(self._tokens))
            self._tokens -= allowed
            return allowed

    def give_back(self, count: int) -> None:
        """See `Pace`."""
        with self._lock:
            if self._rate is not None:
                self._tokens = min(self._tokens + count, self._capacity(self._rate))

    def wait_s(self, wanted: int) -> float:
        """See `Pace`. 0: now."""
        with self._lock:
            if self._rate is None:
                return 0.0
            self._fill()
            missing = min(wanted, max(self._capacity(self._rate) / WORTH_WAITING, 1.0)) - self._tokens
            if missing <= 0:
                return 0.0
            return min(missing / self._rate, LONGEST_WAIT_S) if self._rate else LONGEST_WAIT_S

    def _fill(self) -> None:
        now = self._clock()
        if self._rate is not None:
            saved = self._tokens + (now - self._filled_at) * self._rate
            self._tokens = min(saved, self._capacity(self._rate))
        self._filled_at = now

    def _capacity(self, rate_bytes_s: float) -> float:
        return rate_bytes_s * BURST_S


class Chain:
    """Several in a row, such as a plan's and its site's: a byte needs all of them, and one that refuses costs none."""

    def __init__(self, paces: Sequence[Pace]) -> None:
        """An empty one never holds anything back."""
        self._paces = tuple(paces)

    @property
    def paused(self) -> bool:
        """Whether any of them is."""
        return any(pace.paused for pace in self._paces)

    def take(self, wanted: int) -> int:
        """See `Pace`."""
        allowed = wanted
        for number, pace in enumerate(self._paces):
            got = pace.take(allowed)
            for earlier in self._paces[:number]:
                earlier.give_back(allowed - got)
            allowed = got
        return allowed

    def give_back(self, count: int) -> None:
        """See `Pace`."""
        for pace in self._paces:
            pace.give_back(count)

    def wait_s(self, wanted: int) -> float:
        """See `Pace`: the longest of all."""
        return max((pace.wait_s(wanted) for pace in self._paces), default=0.0)


UNPACED = Chain(())
