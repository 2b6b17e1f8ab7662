"""A TCP relay of ours between appliance and connector that cuts, resets, stalls, slices, limits and spoils connections.

A *toxic* is a rule that one connection is under from a moment on; the moment is a state of its protocol (network.py).
"""

import contextlib
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Self

from dmcore.host.address import Address

PIECE_BYTES = 64 << 10
STALLED_S = 0.4
"""Much shorter than any timeout of the product: a stall that ends must cost nothing but its time."""
SLICES = 400
SLICE_BYTES = 7
LIMITED_S = 0.3
LIMIT_BYTES = 2000
"""A connection that is limited carries this much a hundredth of a second."""


class Toxic(StrEnum):
    """What may happen to a connection."""

    CUT = "cut"
    """Both directions end in good order, as when a proxy is stopped."""
    RESET = "reset"
    """Both ends get a reset, and what was on its way is gone."""
    LOSE_ANSWERS = "lose answers"
    """What the connector says gets lost, then the connection: what was asked has been done."""
    STALL = "stall"
    """Nothing moves for a while, then all goes on."""
    STALL_AND_RESET = "stall and reset"
    HALF_CLOSE = "half close"
    """The appliance's end is closed towards the connector, which may still answer."""
    SLICE = "slice"
    """A few bytes at a time."""
    LIMIT = "limit"
    """A slow line."""
    SPOIL = "spoil"
    """A bit is flipped on the way."""


@dataclass(eq=False)
class Relayed:
    """One connection through the relay."""

    client: socket.socket
    server: socket.socket
    toxic: Toxic | None = None
    since: float = 0.0
    slices: int = 0
    spoiled: bool = False
    woken: "socket.socket" = field(init=False)
    _wake: "socket.socket" = field(init=False)

    def __post_init__(self) -> None:
        self._wake, self.woken = socket.socketpair()

    def poison(self, toxic: Toxic) -> None:
        """From now on."""
        self.toxic, self.since = toxic, time.monotonic()
        self._wake.send(b"x")

    def close(self) -> None:
        for each in (self.client, self.server, self._wake, self.woken):
            each.close()


class Relay:
    """Relays every connection to a target, each in a thread of its own."""

    def __init__(self, target: Callable[[], Address]) -> None:
        self._target = target
        self.refuse = 0
        """So many of the next connections are closed at once."""
        self.at_accept: deque[Toxic | None] = deque()
        """What the next connections, in turn, are under from their first byte."""
        self._lock = threading.Lock()
        self._open: dict[int, Relayed] = {}
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._accepting = threading.Thread(target=self._accept_all, name="relay")
        self._accepting.start()

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", int(self._listener.getsockname()[1]))

    def poison(self, client_port: int, toxic: Toxic) -> bool:
        """Put the connection that comes from this port under a toxic. False: it is over already."""
        with self._lock:
            found = self._open.get(client_port)
            if found is not None:
                found.poison(toxic)
            return found is not None

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        with self._lock:
            for each in self._open.values():
                each.poison(Toxic.RESET)
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept_all(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, (_, port) = self._listener.accept()
                self._take(client, int(port))

    def _take(self, client: socket.socket, port: int) -> None:
        target = self._target()
        try:
            if self.refuse > 0:
                self.refuse -= 1
                raise ConnectionRefusedError
            server = socket.create_connection((target.host, target.port), 10)
        except OSError:
            client.close()
            return
        relayed = Relayed(client, server)
        if self.at_accept and (toxic := self.at_accept.popleft()):
            relayed.poison(toxic)
        with self._lock:
            self._open[port] = relayed
        thread = threading.Thread(target=self._relay, args=(port, relayed), name="relayed")
        self._threads.append(thread)
        thread.start()

    def _relay(self, port: int, relayed: Relayed) -> None:
        try:
            with contextlib.suppress(OSError, EOFError), selectors.DefaultSelector() as selector:
                selector.register(relayed.client, selectors.EVENT_READ)
                selector.register(relayed.server, selectors.EVENT_READ)
                selector.register(relayed.woken, selectors.EVENT_READ)
                while True:
                    for key, _ in selector.select():
                        if key.fileobj is relayed.woken:
                            relayed.woken.recv(16)
                            _begin(relayed)
                        else:
                            _move(relayed, answer=key.fileobj is relayed.server)
        finally:
            with self._lock:
                del self._open[port]
            relayed.close()


def _begin(relayed: Relayed) -> None:
    """What a toxic does at once."""
    toxic = relayed.toxic
    if toxic is Toxic.CUT:
        raise EOFError
    if toxic is Toxic.RESET:
        _reset(relayed)
    if toxic is Toxic.HALF_CLOSE:
        relayed.server.shutdown(socket.SHUT_WR)
    if toxic in {Toxic.STALL, Toxic.STALL_AND_RESET}:
        time.sleep(STALLED_S)  # sleeps: the fault is that nothing happens for a while
        if toxic is Toxic.STALL_AND_RESET:
            _reset(relayed)


def _move(relayed: Relayed, *, answer: bool) -> None:
    """One piece from one end to the other."""
    toxic, ends = relayed.toxic, (relayed.client, relayed.server)
    source, sink = ends[::-1] if answer else ends
    piece = source.recv(_piece_bytes(relayed))
    if not piece:
        raise EOFError
    if toxic is Toxic.LOSE_ANSWERS and answer:
        _reset(relayed)
    if toxic is Toxic.HALF_CLOSE and not answer:
        return
    if toxic is Toxic.SPOIL and not relayed.spoiled:
        relayed.spoiled = True
        piece = piece[:-1] + bytes([piece[-1] ^ 0x10])
    sink.sendall(piece)


def _piece_bytes(relayed: Relayed) -> int:
    if relayed.toxic is Toxic.SLICE and relayed.slices < SLICES:
        relayed.slices += 1
        return SLICE_BYTES
    if relayed.toxic is Toxic.LIMIT and time.monotonic() - relayed.since < LIMITED_S:
        time.sleep(0.01)  # sleeps: the fault is that the line is slow
        return LIMIT_BYTES
    return PIECE_BYTES


def _reset(relayed: Relayed) -> None:
    for each in (relayed.client, relayed.server):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise EOFError
