"""uvicorn in a thread of its owner's, over TLS 1.3; it stops soon, whatever its clients do."""

import asyncio
import socket
import threading
from contextlib import suppress
from typing import Any

import structlog
import uvicorn
from anyio import to_thread
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from dmcore.control.certificates import ServerCertificate
from dmcore.control.serving_errors import CannotListen, ServerStopped
from dmcore.host.address import Address

BACKLOG = 1024
KEEP_ALIVE_S = 75
"""Longer than the longest poll, so that a node's connection outlives it."""
ASK_S = 30
"""How long the head of a request may take, from a connection's begin or from its first byte on."""
MAX_HEAD_BYTES = 64 << 10
"""Of a request's line and headers."""
STOP_S = 5
"""How long requests under way may take when the server stops."""
THREADS = 6
"""For requests at the database. A request needs 2 to 3 ms of the interpreter, and waits for the database in between: if
that takes 15 ms, two threads do no more than 130 a second. Many only take turns at the interpreter's lock. On a machine
without any processor time left, 2 and 6 were equally slow (benchmarks/control)."""
GOODBYE_S = 0.5
"""How long a client may take to end its side of TLS then."""

log = structlog.get_logger()


class HttpServer:
    """uvicorn in a thread of its own."""

    def __init__(self, app: FastAPI, listener: socket.socket, certificate: ServerCertificate) -> None:
        """Takes over the listening socket. Raises FileBroken: the certificate and its key do not fit."""
        context = certificate.context()
        config = uvicorn.Config(
            app, log_config=None, log_level="critical", access_log=False, server_header=False, date_header=False,
            lifespan="off", ws="none", http=_Connection, loop="uvloop", timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=STOP_S, ssl_context_factory=lambda *_: context,
        )  # fmt: skip
        self._listener = listener
        self._server = _Server(config)
        self._thread = threading.Thread(target=self._run, name="http")

    def start(self) -> None:
        """Answer from now on; connections have waited in the socket's queue."""
        self._thread.start()

    def check(self) -> None:
        """Raises ServerStopped: it has ended by itself."""
        if not self._thread.is_alive():
            raise ServerStopped(part="HTTP server")

    def stop(self) -> None:
        """Ends and joins it. Idempotent."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._listener])
        except Exception as fault:  # noqa: BLE001 - `check` tells the owner
            log.error("the HTTP server ended", kind=type(fault).__name__)


class _Connection(HttpToolsProtocol):
    """A client that connects and does not ask is not waited for: uvicorn would, for ever."""

    _late: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        super().data_received(data)
        self._watch()
        if self._head_bytes > MAX_HEAD_BYTES:  # the parser keeps whatever comes
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._asked()

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._asked()
        elif self._late is None:
            self._late = self.loop.call_later(ASK_S, self.transport.abort)

    def _asked(self) -> None:
        self._head_bytes = 0
        if self._late is not None:
            self._late.cancel()
            self._late = None


class _Server(uvicorn.Server):
    """A client that does not answer the end of TLS (one that keeps a connection in a pool) holds nobody up."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        to_thread.current_default_thread_limiter().total_tokens = THREADS
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        cutting = asyncio.create_task(self._cut_silent())
        await super().shutdown(sockets)
        cutting.cancel()
        with suppress(asyncio.CancelledError):
            await cutting
        self._cut(self._transports())
        await asyncio.sleep(0)  # the loop closes what was cut in its next rounds; it ends right after this
        await asyncio.sleep(0)

    async def _cut_silent(self) -> None:
        closing: set[Any] = set()
        while True:
            self._cut(closing)
            closing = {each for each in self._transports() if each.is_closing()}
            await asyncio.sleep(GOODBYE_S)

    def _transports(self) -> set[Any]:
        return {getattr(connection, "transport", None) for connection in self.server_state.connections} - {None}

    @staticmethod
    def _cut(transports: set[Any]) -> None:
        for each in transports:
            each.abort()


def listen(address: Address) -> socket.socket:
    """A listening socket; port 0 is any free one. Raises CannotListen."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family, backlog=BACKLOG)
    except OSError as problem:  # a gaierror, too
        raise CannotListen(address=str(address), problem=problem.strerror or str(problem)) from problem
