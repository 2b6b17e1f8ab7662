"""Two ends of one real TLS connection on 127.0.0.1."""

import socket
import ssl
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from dmcore.wire.connection import Connection
from dmcore.wire.states import Dialogue, Side

P = ParamSpec("P")
R = TypeVar("R")
TIMEOUT_S = 20.0


class AnyOrder(Dialogue):
    """For tests of what is below the order of messages."""

    def __init__(self) -> None:
        super().__init__(Side.CLIENT)

    def sent(self, message: object) -> None:
        pass

    def received(self, message: object) -> None:
        pass


@dataclass
class FakeClock:
    """Moves only when it is read: every look at it takes `step_s`."""

    step_s: float = 0.0
    now: float = 1000.0

    def __call__(self) -> float:
        self.now += self.step_s
        return self.now


def free_order(connection: Connection) -> None:
    connection.dialogue = connection._inbox._dialogue = AnyOrder()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), TIMEOUT_S)
        server, _ = listener.accept()
    return client, server


@dataclass
class Peers:
    """Makes connected pairs, runs one end on another thread, and closes everything."""

    server_context: ssl.SSLContext
    client_context: ssl.SSLContext
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4))
    _made: list[Connection] = field(default_factory=list)
    _raw: list[socket.socket] = field(default_factory=list)

    def run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> "Future[R]":
        return self._pool.submit(work, *args, **kwargs)

    def run_on(self, connection: Connection, work: Callable[[Connection], R]) -> "Future[R]":
        """Let another thread own a connection and work on it."""

        def adopted() -> R:
            connection.adopt()
            return work(connection)

        return self.run(adopted)

    def pair(self, *, stall_s: float = TIMEOUT_S) -> tuple[Connection, Connection]:
        """Client and server, both owned by the calling thread."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            accepted = self.run(
                lambda: Connection.accept(listener.accept()[0], self.server_context, TIMEOUT_S, stall_s=stall_s)
            )
            client = Connection.connect("127.0.0.1", port, self.client_context, TIMEOUT_S, stall_s=stall_s)
            server = accepted.result(TIMEOUT_S)
        server.adopt()
        self._made += [client, server]
        return client, server

    def free_pair(self, *, stall_s: float = TIMEOUT_S) -> tuple[Connection, Connection]:
        """A pair on which anything may come at any time."""
        client, server = self.pair(stall_s=stall_s)
        free_order(client)
        free_order(server)
        return client, server

    def raw_pair(self) -> tuple[ssl.SSLSocket, Connection]:
        """A client made of the standard library only, and our server."""
        plain, accepted = tcp_pair()
        served = self.run(Connection.accept, accepted, self.server_context, TIMEOUT_S)
        client = self.client_context.wrap_socket(plain)
        server = served.result(TIMEOUT_S)
        server.adopt()
        self._raw.append(client)
        self._made.append(server)
        return client, server

    def close(self) -> None:
        self._pool.shutdown(wait=True)
        for connection in self._made:
            connection.adopt()
            connection.close()
        for raw in self._raw:
            raw.close()
