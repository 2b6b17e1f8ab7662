"""What every request passes, whatever its route: version, size, time, correlation, and faults that nobody foresaw."""

import asyncio
import time
import traceback
from collections.abc import Mapping
from email.utils import format_datetime
from typing import Any
from uuid import uuid4

import structlog
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dmcore.api.base import API_VERSION, MAX_BODY_BYTES, VERSION_HEADER, ErrorBody
from dmcore.control.errors import VersionRefused
from dmcore.control.serving_errors import ControlFault, RequestSlow, RequestTooLarge
from dmcore.errors import DmcoreError
from dmcore.host.clock import Clock

MAX_VERSION_CHARACTERS = 16
BODY_S = 30.0
"""How long a body may take: the longest is a quarter of a megabyte."""
SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Strict-Transport-Security": "max-age=31536000",
    "X-Content-Type-Options": "nosniff",
    VERSION_HEADER: API_VERSION,
}
"""Of every answer, unless a route says otherwise."""

log = structlog.get_logger()


class Gate:
    """An ASGI middleware around all routes."""

    def __init__(self, app: ASGIApp, clock: Clock) -> None:
        self.app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; everything else (start and end of the application) goes through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        correlation = uuid4().hex
        with structlog.contextvars.bound_contextvars(correlation=correlation):
            await _Exchange(self.app, scope, receive, send, self._clock).run()


class _Exchange:
    """One request and its answer."""

    def __init__(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, clock: Clock) -> None:
        self._app, self._scope, self._receive, self._send = app, scope, receive, send
        self._clock = clock
        self._status = 0

    async def run(self) -> None:
        began = time.monotonic()
        try:
            self._require_version()
            body = await self._body_in_time()
        except RequestSlow as slow:  # what may still come of it is not waited for, either
            await error_answer(slow, {"Connection": "close"})(self._scope, self._receive, self._answer)
        except DmcoreError as refused:
            await error_answer(refused)(self._scope, self._receive, self._answer)
        else:
            if body is None:
                return  # it broke off: half a request is none
            await self._pass_on(_Replayed(body, self._receive))
        self._log(time.monotonic() - began)

    async def _pass_on(self, receive: Receive) -> None:
        try:
            await self._app(self._scope, receive, self._answer)
        except Exception as fault:  # noqa: BLE001 - a fault of ours is an answer too, without what it says
            where = [f"{frame.name}:{frame.lineno}" for frame in traceback.extract_tb(fault.__traceback__)]
            log.error("a fault of dmcore", kind=type(fault).__name__, where=where[-12:])
            if not self._status:
                await error_answer(ControlFault())(self._scope, receive, self._answer)

    def _require_version(self) -> None:
        """Raises VersionRefused: a client of another major version, or of a newer minor one."""
        asked = Headers(scope=self._scope).get(VERSION_HEADER, API_VERSION)
        major, minor = API_VERSION.split(".")
        given, _, given_minor = asked[:MAX_VERSION_CHARACTERS].partition(".")
        oldest = max(int(minor) - 1, 0)
        # isascii: other digits than ours are digits to isdigit and int, too.
        whole = given_minor.isascii() and given_minor.isdigit() and given == major
        if not whole or not oldest <= int(given_minor) <= int(minor):
            raise VersionRefused(asked=_plain(asked), served=API_VERSION)

    async def _body_in_time(self) -> bytes | None:
        """None: the sender is gone. Raises RequestTooLarge, RequestSlow."""
        try:
            async with asyncio.timeout(BODY_S):
                return await self._whole_body()
        except TimeoutError as late:
            raise RequestSlow(limit_s=BODY_S) from late

    async def _whole_body(self) -> bytes | None:
        """None: the sender is gone. Raises RequestTooLarge, before more than that was kept."""
        body = bytearray()
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > MAX_BODY_BYTES:
                raise RequestTooLarge(limit_bytes=MAX_BODY_BYTES)
            if not message.get("more_body", False):
                return bytes(body)

    async def _answer(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = list(message.get("headers", []))
            given = {name.lower() for name, _ in headers}
            fixed = SECURITY_HEADERS | {"Date": format_datetime(self._clock(), usegmt=True)}
            headers += [
                (name.lower().encode(), value.encode())
                for name, value in fixed.items() if name.lower().encode() not in given
            ]  # fmt: skip
            message = {**message, "headers": headers}
        await self._send(message)

    def _log(self, duration_s: float) -> None:
        """The route as it is declared, not the path as it was sent: that may hold anything."""
        route: Any = self._scope.get("route")
        write = log.info if self._status >= 400 else log.debug
        write(
            "request", method=self._scope["method"] if route else None, route=getattr(route, "path", None),
            status=self._status, duration_s=round(duration_s, 4),
        )  # fmt: skip


class _Replayed:
    """A body that was read already; what comes after it is whatever really comes."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


def error_answer(error: DmcoreError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error as every client gets it."""
    found = int(getattr(error, "status", 500))
    correlation = str(structlog.contextvars.get_contextvars().get("correlation") or uuid4().hex)
    body = ErrorBody(code=error.code, message=str(error), correlation=correlation)
    retry = {"Retry-After": "2"} if found in {429, 503} else {}
    challenge = {"WWW-Authenticate": "Bearer"} if found == 401 else {}
    return JSONResponse(body.model_dump(), status_code=found, headers={**retry, **challenge, **(headers or {})})


def _plain(text: str) -> str:
    """A header's value, as far as an answer may repeat it."""
    known = text.isascii() and all(sign.isalnum() or sign == "." for sign in text)
    return text if known and len(text) <= MAX_VERSION_CHARACTERS else "(not a version)"
