"""How long limits and pauses have held sending back."""

import threading
import time
from collections.abc import Callable

from dmcore.wire.pacer import Pace


class TimedPace:
    """A pace that tells how long it has let wait. Two connections that wait at once count once."""

    def __init__(
        self, pace: Pace, add_s: Callable[[float], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`add_s` is given seconds, again and again."""
        self._pace, self._add_s, self._clock = pace, add_s, clock
        self._lock = threading.Lock()
        self._since: float | None = None

    @property
    def paused(self) -> bool:
        """See `Pace`."""
        return self._pace.paused

    def take(self, wanted: int) -> int:
        """See `Pace`."""
        allowed = self._pace.take(wanted)
        now = self._clock()
        with self._lock:
            since, self._since = self._since, None if allowed == wanted else now
        if since is not None:
            self._add_s(max(now - since, 0.0))
        return allowed

    def give_back(self, count: int) -> None:
        """See `Pace`."""
        self._pace.give_back(count)

    def wait_s(self, wanted: int) -> float:
        """See `Pace`."""
        return self._pace.wait_s(wanted)
