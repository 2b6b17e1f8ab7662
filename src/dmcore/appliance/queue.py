"""What passes between a disk's stages: a queue that can be closed, and a pool of buffers that bounds memory."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from dmcore.appliance.errors import Cancelled

T = TypeVar("T")
Buffer = NDArray[np.uint8]


class ClosableQueue(Generic[T]):
    """First in, first out. What it may hold is bounded by the buffers that its items carry."""

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._finished = False
        self._cancelled = ""

    def put(self, item: T) -> None:
        """Add an item. Raises Cancelled."""
        with self._changed:
            self._check()
            self._items.append(item)
            self._changed.notify()

    def get(self) -> T | None:
        """The next item, waiting for it; None when it is finished and empty. Raises Cancelled."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._finished or self._cancelled)
            self._check()
            return self._items.popleft() if self._items else None

    def __iter__(self) -> Iterator[T]:
        """What `get` gives, until it is finished and empty. Raises Cancelled."""
        while (item := self.get()) is not None:
            yield item

    def finish(self) -> None:
        """Nothing more will be put."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def cancel(self, why: str) -> None:
        """Everybody who waits, now or later, gets Cancelled."""
        with self._changed:
            self._cancelled = self._cancelled or why
            self._changed.notify_all()

    def _check(self) -> None:
        if self._cancelled:
            raise Cancelled(problem=self._cancelled)


PAGE_BYTES = 4096


def aligned_buffer(size: int) -> Buffer:
    """A buffer that begins on a page, as O_DIRECT reads want it. Takes a page more than its size."""
    room = np.empty(size + PAGE_BYTES, dtype=np.uint8)
    skip = -room.ctypes.data % PAGE_BYTES
    return room[skip : skip + size]


class BufferPool:
    """A fixed number of buffers, reused, shared by all disks of a node: its budget of memory.

    A free one goes to who holds the fewest, and among equals to who waited longest: a plan that is limited to a slow
    rate fills what nobody else wants, and no more.
    """

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size
        self._left = count
        self._free: list[Buffer] = []
        self._waiting: list[Callable[[], int]] = []
        self._changed = threading.Condition()

    @property
    def free(self) -> int:
        """How many could be taken now."""
        with self._changed:
            return self._left + len(self._free)

    def take(self, stopped: threading.Event, held: Callable[[], int] = lambda: 0) -> Buffer:
        """A buffer, waiting for one. Raises Cancelled once `stopped` is set and `wake` was called.

        `held` tells how many the asker has already.
        """
        with self._changed:
            self._waiting.append(held)
            try:
                self._changed.wait_for(lambda: self._is_next(held) or stopped.is_set())
            finally:
                self._waiting.remove(held)
                self._changed.notify_all()  # somebody else is next now
            if stopped.is_set():
                raise Cancelled(problem="the disk's other stages have ended")
            if self._free:
                return self._free.pop()
            self._left -= 1
        return aligned_buffer(self.size)

    def give_back(self, buffer: Buffer) -> None:
        """The buffer may be used for something else now."""
        with self._changed:
            self._free.append(buffer)
            self._changed.notify_all()

    def wake(self) -> None:
        """Let those who wait look whether they were stopped."""
        with self._changed:
            self._changed.notify_all()

    def _is_next(self, held: Callable[[], int]) -> bool:
        if not self._free and not self._left:
            return False
        return min(self._waiting, key=lambda waiting: waiting()) is held


class Loan:
    """One pump's buffers of a pool. Wherever a failure has left them, `close` gives them all back."""

    def __init__(self, pool: BufferPool, stopped: threading.Event) -> None:
        """`stopped` ends the waiting of `take`, once `wake` is called."""
        self._pool, self._stopped = pool, stopped
        self._lock = threading.Lock()
        self._held: dict[int, Buffer] = {}
        self._count = self._held.__len__

    def take(self) -> Buffer:
        """A buffer, waiting for one. Raises Cancelled."""
        buffer = self._pool.take(self._stopped, self._count)
        with self._lock:
            self._held[id(buffer)] = buffer
        return buffer

    def give_back(self, buffer: Buffer) -> None:
        """One of this loan's buffers is not needed any more."""
        with self._lock:
            del self._held[id(buffer)]
        self._pool.give_back(buffer)

    def wake(self) -> None:
        """Let those who wait look whether they were stopped."""
        self._pool.wake()

    def close(self) -> None:
        """Give back all that is left. Only when no thread uses them any more. Idempotent."""
        with self._lock:
            left, self._held = list(self._held.values()), {}
        for buffer in left:
            self._pool.give_back(buffer)
