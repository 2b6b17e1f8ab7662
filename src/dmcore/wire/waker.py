"""Ends another thread's wait on a selector."""

import os
import threading


class Waker:
    """An eventfd, readable from `wake` until `take`. `wake` may come from any thread, even after `close`."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        self._closed = False

    def fileno(self) -> int:
        """For the selector."""
        return self._fd

    def wake(self) -> None:
        """Make the owner's wait, or its next one, return."""
        with self._lock:  # a closed descriptor's number may already be somebody else's
            if not self._closed:
                os.eventfd_write(self._fd, 1)

    def take(self) -> bool:
        """Whether `wake` was called since the last time."""
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Free the descriptor. Idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._fd)
