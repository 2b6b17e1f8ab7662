"""Group commit: one thread that syncs a disk's log while its connection's thread receives the next batches."""

import threading
from collections.abc import Callable

from dmcore.shadow.receiver import DiskReceiver


class LogSyncer:
    """Belongs to one disk connection. `request` after each append; `durable` is what may be acknowledged."""

    def __init__(self, receiver: DiskReceiver, attempt: int, wake: Callable[[], None]) -> None:
        """`wake` is called, by this thread, when `durable` or `error` has changed."""
        self._receiver, self._attempt, self._wake = receiver, attempt, wake
        self._changed = threading.Condition()
        self._wanted = self._stopping = False
        self.durable: int | None = None
        """The last batch that is synced, with all before it."""
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="log-sync")
        self._thread.start()

    def request(self) -> None:
        """Something was appended."""
        with self._changed:
            self._wanted = True
            self._changed.notify()

    def stop(self) -> None:
        """Join the thread. What it has not synced is not durable."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while self._next():
            try:
                self._sync()
                self._receiver.prepare(self._attempt)  # nobody waits for what this thread does now
            except Exception as error:  # noqa: BLE001 - whatever it is, the connection's thread raises it
                self.error = error
                self._wake()
                return

    def _sync(self) -> None:
        batch = self._receiver.sync(self._attempt)
        if batch is not None:
            self.durable = batch
            self._wake()

    def _next(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._wanted or self._stopping)
            self._wanted = False
            return not self._stopping
