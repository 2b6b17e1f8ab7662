"""Connections that another thread can cut while somebody waits on them, and that end by themselves in time."""

import socket
import ssl
import threading
import time
from contextlib import suppress
from typing import Any, ClassVar
from weakref import WeakSet

from urllib3.connection import HTTPSConnection
from urllib3.exceptions import NewConnectionError
from urllib3.response import HTTPResponse


class Lines:
    """The open sockets of one transport."""

    def __init__(self) -> None:
        self._open: WeakSet[socket.socket] = WeakSet()
        self._lock = threading.Lock()
        self.were_cut = False

    def add(self, line: socket.socket) -> None:
        """One more. It is cut at once if the others were."""
        with self._lock:
            self._open.add(line)
            if self.were_cut:
                _cut(line)

    def cut(self) -> None:
        """Now, and whatever is opened later. Who waits on one gets an error."""
        with self._lock:
            self.were_cut = True
            for line in self._open:
                _cut(line)


class TimedSocket(ssl.SSLSocket):
    """All reads together end at a deadline. A timeout alone is renewed by every byte that a server drips."""

    deadline: float | None = None
    """By the monotonic clock."""

    def recv_into(self, *arguments: Any, **named: Any) -> int:
        """As ever, until the deadline. Raises TimeoutError."""
        if self.deadline is not None:
            left_s = self.deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("the answer does not end")
            self.settimeout(left_s)
        return super().recv_into(*arguments, **named)


class Cuttable(HTTPSConnection):
    """Tells its transport of its socket. The whole answer, its head too, has the time that a read may take."""

    lines: ClassVar[Lines]

    def connect(self) -> None:
        """As ever; but whatever goes wrong before the first request is a connection that was not made."""
        try:
            super().connect()
        except ssl.SSLCertVerificationError:
            raise
        except OSError as problem:
            raise NewConnectionError(self, str(problem)) from problem
        self.lines.add(self.sock)

    def getresponse(self) -> HTTPResponse:  # type: ignore[override] # as urllib3 has it
        """As ever; from now on the time of this answer runs."""
        if isinstance(self.sock, TimedSocket):
            self.sock.deadline = None if self.timeout is None else time.monotonic() + self.timeout
        return super().getresponse()

    @classmethod
    def on(cls, lines: Lines) -> type["Cuttable"]:
        """The kind of connection of this transport."""
        return type("Cuttable", (cls,), {"lines": lines})


def _cut(line: socket.socket) -> None:
    # Of the socket below TLS: OpenSSL itself must not be called while another thread reads through it.
    with suppress(OSError):  # closed already
        socket.socket.shutdown(line, socket.SHUT_RDWR)
