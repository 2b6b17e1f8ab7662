"""A listening socket, the thread that accepts, and a thread for each connection. All are gone when `stop` returns."""

import contextlib
import os
import selectors
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import structlog

from dmcore.connector.errors import ListenFailed
from dmcore.host.address import Address

BACKLOG = 64
PAUSE_S = 0.1
"""Between two tries to accept where there are no descriptors left: the socket stays readable meanwhile."""

log = structlog.get_logger()

Serve = Callable[[socket.socket], None]
"""Takes over an accepted socket, in a thread of its own, and closes it. Must not raise."""


class Listener:
    """Accepts until stopped. Past its limit it closes what it accepts, at once."""

    def __init__(self, name: str, listening: socket.socket, serve: Serve, max_connections: int) -> None:
        """Takes over a listening socket, and accepts from `start` on."""
        self._name, self._serve, self._max = name, serve, max_connections
        self._socket = listening
        self._socket.setblocking(False)
        self._wake, self._woken = socket.socketpair()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._served: dict[threading.Thread, socket.socket] = {}
        self._thread = threading.Thread(target=self._accept_all, name=f"{name}-accept")

    @property
    def address(self) -> Address:
        """Where it really listens, if that is TCP: useful after asking for port 0."""
        host, port = self._socket.getsockname()[:2]
        return Address(host, port)

    def start(self) -> None:
        """Accept from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Accept nobody more, cut who is connected, join every thread. Idempotent."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._wake.send(b"x")
        if self._thread.ident is not None:
            self._thread.join()
        for thread in self._cut():
            thread.join()
        for own in (self._socket, self._wake, self._woken):
            own.close()

    def _cut(self) -> list[threading.Thread]:
        with self._lock:
            for own in self._served.values():
                with contextlib.suppress(OSError):  # it may have ended by itself
                    own.shutdown(socket.SHUT_RDWR)
            return list(self._served)

    def _accept_all(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while not self._stopping.is_set():
                selector.select()
                try:
                    self._take(self._socket.accept()[0])
                except BlockingIOError:  # woken to stop, or the peer left before it was accepted
                    continue
                except (OSError, RuntimeError) as problem:  # no descriptors or threads are left
                    log.error("cannot accept", listener=self._name, problem=str(problem))
                    self._stopping.wait(PAUSE_S)

    def _take(self, connection: socket.socket) -> None:
        with contextlib.ExitStack() as undo, self._lock:
            undo.callback(connection.close)
            if self._stopping.is_set() or len(self._served) >= self._max:
                log.warning("connection refused", listener=self._name, limit=self._max)
                return
            # A handle of its own: `stop` must not cut by a number that the serving thread has closed meanwhile.
            own = connection.dup()
            undo.callback(own.close)
            thread = threading.Thread(target=self._run, args=(connection,), name=self._name)
            thread.start()
            self._served[thread] = own  # before the thread can ask for it: it needs the lock to end
            undo.pop_all()

    def _run(self, connection: socket.socket) -> None:
        try:
            self._serve(connection)
        finally:
            with self._lock:
                self._served.pop(threading.current_thread()).close()


def tcp_listening(address: Address) -> socket.socket:
    """A socket for a listener.

    Raises:
        ListenFailed: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family, backlog=BACKLOG)
    except OSError as problem:
        raise ListenFailed(address=str(address), problem=problem.strerror or str(problem)) from problem


def unix_listening(path: Path) -> socket.socket:
    """A socket for a listener on this machine, which only this process's user may connect to. Replaces an old one.

    Raises:
        ListenFailed: the path cannot be had.
    """
    with contextlib.ExitStack() as undo:
        made = undo.enter_context(socket.socket(socket.AF_UNIX))
        undo.callback(os.umask, os.umask(0o177))
        try:
            path.unlink(missing_ok=True)
            made.bind(str(path))
            made.listen(BACKLOG)
        except OSError as problem:
            raise ListenFailed(address=str(path), problem=problem.strerror or str(problem)) from problem
        return made.dup()
