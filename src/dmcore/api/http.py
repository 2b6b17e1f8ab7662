"""HTTPS to the control plane: a known certificate, a time limit on everything, no redirects, no answer without end."""

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, SSLError
from urllib3.util import Timeout

from dmcore.api.base import API_VERSION, VERSION_HEADER
from dmcore.api.client_errors import ControlAnswerBroken, ControlUnreachable, ControlUntrusted, PinDiffers
from dmcore.api.cutting import Cuttable, Lines, TimedSocket
from dmcore.api.server_trust import CONNECT_TIMEOUT_S, ServerTrust, fetch_certificate, fingerprint_of, require_address
from dmcore.errors import DmcoreError, TrustError

READ_TIMEOUT_S = 15.0
MAX_ANSWER_BYTES = 32 << 20
"""A list of ten thousand plans is about 20 MB."""
CHUNK_BYTES = 64 << 10
EARLIEST, LATEST = datetime(1970, 1, 2, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC)
"""A clock that is corrected by a date between these can still be signed by."""
FAILING = 500
"""From this status on it is the server that is at fault."""
POOLED = 8
"""Connections that are kept open between requests."""
CLOSED = "this client was closed"


@dataclass(frozen=True)
class Answer:
    """What came back, whatever the status. The body is whole, and not more than was allowed."""

    url: str
    status: int
    body: bytes
    date: datetime | None
    """When it is there, as the control plane says, to the second."""


@dataclass(frozen=True)
class _Request:
    method: str
    path: str
    body: bytes
    headers: dict[str, str]
    timeout_s: float


class _NotSent(Exception):
    """The request has not left: another address may be tried."""

    def __init__(self, error: DmcoreError) -> None:
        super().__init__()
        self.error = error


class Transport:
    """Connections to one control plane, which may have several addresses. Any thread may use it.

    It makes no second try of a request that may have arrived: whoever asks knows what may be asked twice.
    """

    def __init__(
        self,
        urls: Sequence[str],
        trust: ServerTrust,
        *,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        """Nothing is connected yet.

        Raises:
            AddressMalformed: a URL is not https://host[:port].
        """
        for url in urls:
            require_address(url)
        self._urls, self._trust = list(urls), trust
        self._connect_timeout_s, self._max_answer_bytes = connect_timeout_s, max_answer_bytes
        self._pools: dict[str, urllib3.HTTPSConnectionPool] = {}
        self._lines = Lines()

    def send(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout_s: float = READ_TIMEOUT_S,
    ) -> Answer:
        """One request. `path` with its query.

        Raises:
            ControlUnreachable: no address answers, the answer broke off, it took too long, or this was closed.
            ControlAnswerBroken: a redirect, a compressed or too long body.
            PinDiffers, ControlUntrusted, AuthorityUnreadable: nothing was sent.
        """
        request = _Request(method, path, body, _headers(headers or {}, body), timeout_s)
        failures: list[DmcoreError] = []
        for url in self._urls:
            try:
                answer = self._exchange(url, request)
            except _NotSent as failure:
                failures.append(failure.error)
            except DmcoreError:
                self._prefer(url, works=False)
                raise
            else:
                self._prefer(url, works=answer.status < FAILING)
                return answer
        raise next((each for each in failures if isinstance(each, TrustError)), failures[0])

    def close(self) -> None:
        """Cut what is under way, in whatever thread, and send no more. Idempotent."""
        self._lines.cut()
        for pool in list(self._pools.values()):
            pool.close()

    def _prefer(self, url: str, *, works: bool) -> None:
        """The one that works is asked first from now on, one that takes requests in vain is asked last."""
        self._urls = sorted(self._urls, key=lambda each: (each == url) != works)

    def _exchange(self, url: str, request: _Request) -> Answer:
        response = self._ask(url, request)
        try:
            body = self._read(url, response)
        except HTTPError as problem:
            raise ControlUnreachable(url=url, problem=self._said(problem)) from problem
        finally:
            # Whole or not: what is left unread must not be the next answer.
            response.close() if response.length_remaining else response.release_conn()
        return Answer(url, response.status, body, date_of(response.headers.get("Date")))

    def _ask(self, url: str, request: _Request) -> urllib3.BaseHTTPResponse:
        timeout = Timeout(connect=self._connect_timeout_s, read=request.timeout_s)
        try:
            return self._pool(url).urlopen(
                request.method, request.path, request.body or None, request.headers, timeout=timeout,
                retries=False, redirect=False, preload_content=False, decode_content=False,
            )  # fmt: skip
        except (NewConnectionError, ConnectTimeoutError) as problem:
            raise _NotSent(ControlUnreachable(url=url, problem=self._said(problem))) from problem
        except HTTPError as problem:
            cause = problem.args[0] if isinstance(problem, SSLError) else None
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise _NotSent(self._stranger(url, cause)) from problem
            raise ControlUnreachable(url=url, problem=self._said(problem)) from problem

    def _pool(self, url: str) -> urllib3.HTTPSConnectionPool:
        if self._lines.were_cut:
            raise ControlUnreachable(url=url, problem=CLOSED)
        known = self._pools.get(url)
        return known or self._pools.setdefault(url, self._new_pool(url))

    def _new_pool(self, url: str) -> urllib3.HTTPSConnectionPool:
        host, port = require_address(url)
        try:
            context = self._trust.context(url, self._connect_timeout_s)
        except (ControlUnreachable, PinDiffers) as problem:
            raise _NotSent(problem) from problem
        context.sslsocket_class = TimedSocket
        named: dict[str, Any] = {"assert_hostname": False} if self._trust.pinned else {}
        pool = urllib3.HTTPSConnectionPool(host, port, maxsize=POOLED, ssl_context=context, **named)
        pool.ConnectionCls = Cuttable.on(self._lines)
        return pool

    def _stranger(self, url: str, problem: ssl.SSLCertVerificationError) -> DmcoreError:
        """Which certificate was it: another one than the pinned, or one that nobody vouches for (any more)."""
        if self._trust.fingerprint is not None:
            found = fingerprint_of(fetch_certificate(url, self._connect_timeout_s))
            if found != self._trust.fingerprint:
                return PinDiffers(url=url, found=found, pinned=self._trust.fingerprint)
        return ControlUntrusted(url=url, problem=problem.verify_message or str(problem))

    def _read(self, url: str, response: urllib3.BaseHTTPResponse) -> bytes:
        if 300 <= response.status < 400:
            raise ControlAnswerBroken(url=url, problem=f"HTTP status {response.status}, and redirects are not followed")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise ControlAnswerBroken(url=url, problem="a compressed body, which was not asked for")
        body = bytearray()
        while part := response.read1(CHUNK_BYTES):
            body += part
            if len(body) > self._max_answer_bytes:
                raise ControlAnswerBroken(url=url, problem=f"more than {self._max_answer_bytes} bytes")
        return bytes(body)

    def _said(self, problem: HTTPError) -> str:
        """What the operating system said, if it did."""
        if self._lines.were_cut:
            return CLOSED
        cause = problem.__cause__ or problem.__context__
        told = cause.strerror if isinstance(cause, OSError) else None
        return told or str(cause or problem) or type(problem).__name__


def _headers(given: Mapping[str, str], body: bytes) -> dict[str, str]:
    kind = {"Content-Type": "application/json"} if body else {}
    return {VERSION_HEADER: API_VERSION, "Accept": "application/json", "User-Agent": "dmcore", **kind, **given}


def date_of(text: str | None) -> datetime | None:
    """When a server says it is; None: it does not say, or what no clock shows."""
    try:
        found = parsedate_to_datetime(text) if text else None
    except (ValueError, OverflowError):
        return None
    return found if found and found.tzinfo and EARLIEST <= found < LATEST else None
