"""Connections that another thread can cut while somebody waits on them."""

import socket
import ssl
import threading
from contextlib import suppress
from typing import ClassVar
from weakref import WeakSet

from urllib3.connection import HTTPSConnection
from urllib3.exceptions import NewConnectionError


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


class Cuttable(HTTPSConnection):
    """Tells its transport of its socket."""

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

    @classmethod
    def on(cls, lines: Lines) -> type["Cuttable"]:
        """The kind of connection of this transport."""
        return type("Cuttable", (cls,), {"lines": lines})


def _cut(line: socket.socket) -> None:
    # Of the socket below TLS: OpenSSL itself must not be called while another thread reads through it.
    with suppress(OSError):  # closed already
        socket.socket.shutdown(line, socket.SHUT_RDWR)
