"""`/metrics` for Prometheus: one small HTTP server a process, bounded in threads, gone when `stop` returns."""

import contextlib
import socket
import threading
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from dmcore.host.address import Address
from dmcore.host.errors import MetricsUnreachable

PATH = "/metrics"
MAX_CLIENTS = 8
SILENCE_S = 5.0
"""How long a client may say nothing, or take nothing."""
POLL_S = 0.1
"""How soon `stop` is noticed."""


class MetricsServer:
    """Serves a registry. Whatever it collects is called from this server's threads."""

    def __init__(self, address: Address, registry: CollectorRegistry) -> None:
        """Listens at once; port 0 is any free one.

        Raises:
            MetricsUnreachable: the address is in use, or is not this machine's.
        """
        try:
            self._server = _Server(address, partial(_Handler, registry))
        except OSError as problem:
            raise MetricsUnreachable(address=str(address), problem=problem.strerror or str(problem)) from problem
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": POLL_S}, name="metrics"
        )

    @property
    def address(self) -> Address:
        """Where it really listens."""
        host, port = self._server.server_address[:2]
        return Address(str(host), int(port))

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Cut whoever is still being answered, and join every thread. Idempotent."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.cut_all()
        self._server.server_close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    """One request a connection. When too many come, the oldest makes room: a slow client holds nobody up."""

    daemon_threads = False
    block_on_close = True
    request_queue_size = MAX_CLIENTS

    def __init__(self, address: Address, handler: Any) -> None:
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self._lock = threading.Lock()
        self._clients: list[socket.socket] = []
        super().__init__((address.host, address.port), handler)

    def server_bind(self) -> None:
        """As the base, without its look-up of this host's name, which may take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._clients.append(request)
            oldest = self._clients[:-MAX_CLIENTS]
        for client in oldest:
            _cut(client)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            if request in self._clients:
                self._clients.remove(request)
        super().shutdown_request(request)

    def cut_all(self) -> None:
        """End every connection."""
        with self._lock:
            clients = list(self._clients)
        for client in clients:
            _cut(client)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left in the middle is no news."""


class _Handler(BaseHTTPRequestHandler):
    server_version, sys_version = "dmcore", ""
    timeout = SILENCE_S

    def __init__(self, registry: CollectorRegistry, *arguments: Any) -> None:
        self._registry = registry
        super().__init__(*arguments)

    def do_GET(self) -> None:
        """The registry, as text."""
        if self.path.partition("?")[0] != PATH:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        body = generate_latest(self._registry)
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", CONTENT_TYPE_LATEST)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Nothing: a line for every scrape helps nobody."""


def _cut(client: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has gone by itself
        client.shutdown(socket.SHUT_RDWR)
