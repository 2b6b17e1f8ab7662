"""The threads that run cycles: several at a time, never two of a group."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import structlog

from dmcore.api.jobs import Outcome
from dmcore.appliance.duty import Duty, End
from dmcore.model.ids import GroupId

log = structlog.get_logger()


class Crew:
    """All attempts that run here. Any thread may call."""

    def __init__(self, size: int, done: Callable[[Duty, Outcome], None]) -> None:
        """`done` is called in the attempt's thread when it is over, while its group still counts as busy."""
        self._size, self._done = size, done
        self.freed: Callable[[], None] = lambda: None
        """Called there after that, when there is room for another one."""
        self._lock = threading.Lock()
        self._running: dict[Duty, Future[None]] = {}
        self._stopping = False
        self._pool = ThreadPoolExecutor(size, thread_name_prefix="cycle")

    @property
    def slots(self) -> int:
        """How many more cycles could begin now."""
        with self._lock:
            return 0 if self._stopping else max(self._size - len(self._running), 0)

    def duties(self) -> list[Duty]:
        """Those that are not over."""
        with self._lock:
            return list(self._running)

    def of_group(self, group: GroupId) -> list[Duty]:
        """A group's."""
        return [duty for duty in self.duties() if duty.job.group == group]

    def busy(self) -> tuple[GroupId, ...]:
        """The groups that have one."""
        return tuple(dict.fromkeys(duty.job.group for duty in self.duties()))

    def take(self, duty: Duty) -> bool:
        """Run it, after what the group has running: that one is told to end. False: the node stops."""
        with self._lock:
            if self._stopping:
                return False
            earlier = [each for each in self._running if each.job.group == duty.job.group]
            before = [self._running[each] for each in earlier]
            # A thread that waits for an earlier attempt waits for one that has a thread already: they are first come,
            # first served.
            self._running[duty] = self._pool.submit(self._work, duty, before)
        for each in earlier:
            each.stop(End.LOST)
        return True

    def stop(self) -> None:
        """End all attempts where they are, and join the threads. Idempotent."""
        with self._lock:
            self._stopping = True
        for duty in self.duties():
            duty.stop(End.STOPPED)
        self._pool.shutdown(wait=True)

    def _work(self, duty: Duty, before: list[Future[None]]) -> None:
        wait(before)
        try:
            self._done(duty, duty.run())
        except Exception:
            log.exception("an attempt's end could not be told", job=str(duty.job.job))
        finally:
            with self._lock:
                del self._running[duty]
            self.freed()
