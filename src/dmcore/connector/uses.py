"""Who is at which point: many may read one, and whoever removes it is alone with it."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from dmcore.connector.errors import PointBusy
from dmcore.model.ids import PointId


class PointUses:
    """Thread-safe. Nobody waits in it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: Counter[PointId] = Counter()
        self._removed: set[PointId] = set()

    @contextmanager
    def reading(self, point: PointId) -> Iterator[None]:
        """While this lasts, nobody removes it. Raises PointBusy: somebody is at it."""
        with self._lock:
            if point in self._removed:
                raise PointBusy(point=str(point), doing="removed")
            self._read[point] += 1
        try:
            yield
        finally:
            with self._lock:
                self._read[point] -= 1
                self._read += Counter()  # forgets those that nobody reads

    @contextmanager
    def removing(self, point: PointId) -> Iterator[None]:
        """While this lasts, nobody else is at it. Raises PointBusy: somebody is."""
        with self._lock:
            if point in self._removed:
                raise PointBusy(point=str(point), doing="removed")
            if self._read[point]:
                raise PointBusy(point=str(point), doing="recovered or verified")
            self._removed.add(point)
        try:
            yield
        finally:
            with self._lock:
                self._removed.discard(point)
