"""One kept HTTPS connection of a simulated node: signed requests, one at a time."""

import asyncio
import json
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from benchmarks.control.deployment import Agent
from dmcore.api.base import API_VERSION, VERSION_HEADER, Message
from dmcore.api.signing import sign_request
from dmcore.model.ids import NodeId

IDLE_S = 60.0
"""A connection that was idle for longer is made anew, before the server closes it."""


@dataclass(frozen=True)
class Server:
    """Where the control plane is."""

    host: str
    port: int
    control: UUID
    context: ssl.SSLContext


class Channel:
    """One agent's. Connected at its first request, and anew when it was idle for long, as a node's pool does it."""

    def __init__(self, server: Server, agent: Agent) -> None:
        self._server, self._agent = server, agent
        self._lock = asyncio.Lock()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._used_at = 0.0

    async def connect(self) -> None:
        """TCP, and a whole TLS handshake."""
        server = self._server
        self._streams = await asyncio.open_connection(
            server.host, server.port, ssl=server.context, server_hostname=server.host
        )
        self._used_at = time.monotonic()

    async def close(self) -> None:
        """At once: nobody says goodbye to a server that is about to stop."""
        if self._streams is not None:
            writer, self._streams = self._streams[1], None
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()

    async def ask(self, path: str, message: Message) -> Any:
        """The answer's JSON; None of a 204."""
        async with self._lock:
            await self._ready()
            status, body = await self._exchange(path, message.model_dump_json().encode())
            self._used_at = time.monotonic()
        if status >= 300:
            raise RuntimeError(f"{path}: {status} {body!r}")
        return json.loads(body) if body else None

    async def ready(self) -> None:
        """Connected, so that the next request's time is its own."""
        async with self._lock:
            await self._ready()

    async def _ready(self) -> None:
        if time.monotonic() - self._used_at > IDLE_S:
            await self.close()
        if self._streams is None:
            await self.connect()

    async def _exchange(self, path: str, body: bytes) -> tuple[int, bytes]:
        assert self._streams is not None
        reader, writer = self._streams
        writer.write(self._request(path, body))
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        lengths = [line for line in head.splitlines() if line.startswith("content-length:")]
        answer = await reader.readexactly(int(lengths[0].split(":")[1])) if lengths else b""
        return int(head.split(maxsplit=2)[1]), answer

    def _request(self, path: str, body: bytes) -> bytes:
        agent, server = self._agent, self._server
        now = datetime.now(UTC)
        signature = sign_request(agent.key, NodeId(agent.node), server.control, "POST", path, body, now)
        lines = (
            f"POST {path} HTTP/1.1", f"Host: {server.host}", f"Authorization: {signature}",
            f"{VERSION_HEADER}: {API_VERSION}", "Content-Type: application/json", f"Content-Length: {len(body)}",
        )  # fmt: skip
        return "\r\n".join((*lines, "", "")).encode() + body
