"""A control plane's outside: HTTPS with answers and faults that a test sets. It keeps what it was asked."""

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from email.utils import formatdate
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel

from dmcore.api.base import ErrorBody
from tests.api.certificates import HOST, ServerFiles, own_certificate

WAIT_S = 10.0
CORRELATION = "c" * 32


class Fault(Enum):
    """What goes wrong with one answer."""

    SILENT = auto()
    """It never comes, until the server is let go."""
    CUT = auto()
    """Half of the body, and the connection is gone."""
    HUNG_UP = auto()
    """The connection is closed without an answer."""
    DRIP = auto()
    """The body comes a byte at a time, and does not end."""
    HEAD_DRIP = auto()
    """So does the head."""
    CONTINUE = auto()
    """One "100 Continue" after the other, and never an answer."""
    TRAILERS = auto()
    """The last chunk has come, and header fields after it do not end."""
    LONG_CHUNK = auto()
    """A chunk's length is a line without end."""
    SPLIT = auto()
    """Two lengths that differ."""
    GARBAGE = auto()
    HUGE = auto()
    REDIRECT = auto()
    COMPRESSED = auto()
    PAGE_500 = auto()
    """A proxy's page."""
    PAGE_200 = auto()


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def route(self) -> str:
        return f"{self.method} {self.path.split('?')[0]}"

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Refuse:
    """An error's answer."""

    status: int
    code: str
    message: str = "no"


Say = BaseModel | dict[str, Any] | Refuse | Fault | None
Respond = Callable[[Asked], Say]


@dataclass
class FakeControl:
    """Answers by route ("POST /v1/nodes/poll"); faults first, in their order."""

    files: ServerFiles
    answers: dict[str, Respond | Say] = field(default_factory=dict)
    faults: list[Fault | Refuse] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    ahead: timedelta = timedelta(0)
    """Of its clock, as its Date says."""
    changed: threading.Condition = field(default_factory=threading.Condition)
    let_go: threading.Event = field(default_factory=threading.Event)
    port: int = 0
    connections: int = 0

    @classmethod
    def make(cls, folder: Path, files: ServerFiles | None = None) -> Self:
        return cls(files or own_certificate(folder))

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}"

    def routes(self) -> list[str]:
        with self.changed:
            return [each.route for each in self.asked]

    def of(self, route: str) -> list[Asked]:
        with self.changed:
            return [each for each in self.asked if each.route == route]

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
        """Until it holds; looked at whenever something was asked."""
        with self.changed:
            assert self.changed.wait_for(condition, timeout_s), f"never came; asked: {self.routes()}"

    def wait_asked(self, route: str, count: int = 1) -> list[Asked]:
        self.wait_for(lambda: len(self.of(route)) >= count)
        return self.of(route)

    def start(self) -> Self:
        self.let_go.clear()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.files.certificate, self.files.key)
        self._server = _Server((HOST, self.port), self, context)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="fake-control")
        self._thread.start()
        return self

    def stop(self) -> None:
        """Nobody answers there any more, and who is connected is cut."""
        self.let_go.set()
        self._server.shutdown()
        self._server.cut()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def say(self, asked: Asked) -> Say:
        with self.changed:
            self.asked.append(asked)
            self.changed.notify_all()
            if self.faults:
                return self.faults.pop(0)
        found = self.answers.get(asked.route)
        return found(asked) if callable(found) else found


class _Server(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, address: tuple[str, int], control: FakeControl, context: ssl.SSLContext) -> None:
        self.control, self._context = control, context
        self._open: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        plain, address = self.socket.accept()
        self.control.connections += 1
        tls = self._context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        tls.settimeout(WAIT_S)
        self._open.add(tls)
        return tls, address

    def cut(self) -> None:
        for each in list(self._open):
            with suppress(OSError):
                socket.socket.shutdown(each, socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or that does not trust us."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        self.request.do_handshake()
        super().setup()

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815 - the base class's

    def date_time_string(self, timestamp: float | None = None) -> str:
        return formatdate(time.time() + self.server.control.ahead.total_seconds(), usegmt=True)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's
        """Nothing."""

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = Asked(self.command, self.path, dict(self.headers.items()), body)
        answer = self.server.control.say(asked)
        if isinstance(answer, Fault):
            self._fail(answer)
        elif isinstance(answer, Refuse):
            refusal = ErrorBody(code=answer.code, message=answer.message, correlation=CORRELATION)
            self.send(answer.status, refusal.model_dump_json().encode())
        elif isinstance(answer, BaseModel):
            self.send(200, answer.model_dump_json().encode())
        elif answer is None:
            self.send(204, b"")
        else:
            self.send(200, json.dumps(answer).encode())

    def send(self, status: int, body: bytes, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _fail(self, fault: Fault) -> None:
        self.close_connection = True
        with suppress(OSError):  # who asked does not read on
            FAULTS[fault](self)

    def be_silent(self) -> None:
        self.server.control.let_go.wait(WAIT_S)

    def drip(self) -> None:
        self.send(200, b"[", length=1 << 20)
        while not self.server.control.let_go.wait(0.02):
            self.wfile.write(b" ")

    def pour(self, first: bytes, again: bytes) -> None:
        """Something without end, slowly."""
        self.wfile.write(first)
        while not self.server.control.let_go.wait(0.01):
            self.wfile.write(again)

    def redirect(self) -> None:
        self.send(307, b"", Location=f"https://{HOST}:{self.server.control.port}/v1/elsewhere")


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"

FAULTS: dict[Fault, Callable[[_Handler], None]] = {
    Fault.SILENT: _Handler.be_silent,
    Fault.HUNG_UP: lambda _: None,
    Fault.CUT: lambda handler: handler.send(200, b'{"control":', length=100),
    Fault.DRIP: _Handler.drip,
    Fault.HEAD_DRIP: lambda handler: handler.pour(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"z"),
    Fault.CONTINUE: lambda handler: handler.pour(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    Fault.TRAILERS: lambda handler: handler.pour(CHUNKED + b"0\r\n", b"X-More: 1\r\n"),
    Fault.LONG_CHUNK: lambda handler: handler.pour(CHUNKED, b"0" * (16 << 10)),
    Fault.SPLIT: lambda handler: handler.send(200, b"{}", Content_Length="9"),
    Fault.GARBAGE: lambda handler: handler.send(200, b"\xff\x00 not JSON {"),
    Fault.HUGE: lambda handler: handler.send(200, b" " * (1 << 20)),
    Fault.REDIRECT: _Handler.redirect,
    Fault.COMPRESSED: lambda handler: handler.send(200, b"\x1f\x8b", Content_Encoding="gzip"),
    Fault.PAGE_500: lambda handler: handler.send(500, b"<html>Bad Gateway</html>"),
    Fault.PAGE_200: lambda handler: handler.send(200, b"<html>Welcome to the hotel's network</html>"),
}
