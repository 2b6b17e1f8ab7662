"""SIGTERM and SIGINT as something to look at and to wait for, so that a node stops where it is safe to."""

import select
import signal
import socket
from contextlib import ExitStack
from types import FrameType, TracebackType
from typing import Self

from dmcore.errors import ExitCode

SIGNALS = (signal.SIGINT, signal.SIGTERM)
MAX_PENDING = 4096


class Stop:
    """While it is entered, in the main thread, these signals only ask to stop.

    The kernel may deliver a signal to any thread, and Python's own handler runs only when the main thread runs again.
    So who waits does so on the socket that the interpreter writes to wherever a signal arrives.
    """

    def __init__(self) -> None:
        self._signal = 0
        self._undo = ExitStack()
        self._woken, self._wake = socket.socketpair()
        for each in (self._woken, self._wake):
            each.setblocking(False)

    @property
    def asked(self) -> bool:
        """Whether somebody wants this process to stop."""
        return bool(self._signal)

    @property
    def exit_code(self) -> ExitCode:
        """What a service that was stopped exits with: a Ctrl-C is told from an orderly stop."""
        return ExitCode.INTERRUPTED if self._signal == signal.SIGINT else ExitCode.OK

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until somebody asks, at most so long. Returns whether somebody did."""
        while not self._signal and select.select([self._woken], [], [], timeout_s)[0]:
            for number in self._woken.recv(MAX_PENDING):
                self._ask(number, None)
        return self.asked

    def __enter__(self) -> Self:
        self._undo.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False))
        for each in SIGNALS:
            self._undo.callback(signal.signal, each, signal.signal(each, self._ask))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()
        self._woken.close()
        self._wake.close()

    def _ask(self, number: int, _: FrameType | None) -> None:
        if number in SIGNALS:
            self._signal = self._signal or number
