"""Simulated agents over HTTPS: each signs, long-polls, and runs what it gets. One event loop carries all of them."""

import asyncio
import itertools
import json
import random
import ssl
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from benchmarks.control.deployment import SOURCE, Agent
from benchmarks.control.loads import Times
from dmcore.api.base import API_VERSION, VERSION_HEADER, Message
from dmcore.api.jobs import ConnectorJob, Job, JobResult, Outcome, PointOutcome, PointVerdict, Progress
from dmcore.api.nodes import MAX_WAIT_S, HeartbeatRequest, OutcomeRequest, PollReply, PollRequest
from dmcore.api.points import PointFact, PointsReport
from dmcore.api.signing import sign_request
from dmcore.model.enums import Consistency, Role, Stage
from dmcore.model.ids import NodeId, point_id
from dmcore.model.points import PointState

PROBES_S = 5
"""Polls a second that do not wait: what a claim costs over HTTPS."""
CONNECTING_AT_ONCE = 16


@dataclass(frozen=True)
class Server:
    """Where the control plane is."""

    host: str
    port: int
    control: UUID
    context: ssl.SSLContext


class Channel:
    """One kept connection of one agent; a request at a time."""

    def __init__(self, server: Server, agent: Agent) -> None:
        self._server, self._agent = server, agent
        self._lock = asyncio.Lock()

    async def connect(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(
            self._server.host, self._server.port, ssl=self._server.context, server_hostname=self._server.host
        )

    async def close(self) -> None:
        """At once: nobody says goodbye to a server that is about to stop."""
        self._writer.transport.abort()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def ask(self, path: str, message: Message) -> Any:
        """The answer's JSON; None of a 204."""
        async with self._lock:
            self._writer.write(self._request(path, message.model_dump_json().encode()))
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
            status = int(head.split()[1])
            lengths = [line for line in head.splitlines() if line.startswith("content-length:")]
            body = await self._reader.readexactly(int(lengths[0].split(":")[1])) if lengths else b""
        if status >= 300:
            raise RuntimeError(f"{path}: {status} {body!r}")
        return json.loads(body) if body else None

    def _request(self, path: str, body: bytes) -> bytes:
        agent, server = self._agent, self._server
        now = datetime.now(UTC)
        signature = sign_request(agent.key, NodeId(agent.node), server.control, "POST", path, body, now)
        lines = (
            f"POST {path} HTTP/1.1", f"Host: {server.host}", f"Authorization: {signature}",
            f"{VERSION_HEADER}: {API_VERSION}", "Content-Type: application/json", f"Content-Length: {len(body)}",
        )  # fmt: skip
        return "\r\n".join((*lines, "", "")).encode() + body


@dataclass
class Fleet:
    """All agents."""

    server: Server
    agents: Sequence[Agent]
    times: dict[str, Times] = field(default_factory=lambda: defaultdict(Times))
    leases: int = 0

    async def run(self, begin: Callable[[], None], seconds: float) -> None:
        """Connect everybody, let them poll; then `begin` makes something due, and it is measured for so long."""
        connectors = [agent for agent in self.agents if agent.role == Role.CONNECTOR]
        self._mouths = {agent.node: Channel(self.server, agent) for agent in connectors}
        ears = {agent: Channel(self.server, agent) for agent in self.agents}
        channels = [*self._mouths.values(), *ears.values()]
        await self._connect(channels)
        try:
            await self._load(ears, connectors, begin, seconds)
        finally:
            for channel in channels:
                await channel.close()

    async def _load(
        self, ears: dict[Agent, Channel], connectors: list[Agent], begin: Callable[[], None], seconds: float
    ) -> None:
        ready = [asyncio.Event() for _ in ears]
        async with asyncio.TaskGroup() as group:
            polls = [self._poll(agent, ear, event) for (agent, ear), event in zip(ears.items(), ready, strict=True)]
            polling = [group.create_task(poll) for poll in polls]
            for event in ready:
                await event.wait()
            begin()
            await self._probe(connectors, seconds)
            for task in polling:
                task.cancel()

    async def _connect(self, channels: list[Channel]) -> None:
        gate = asyncio.Semaphore(CONNECTING_AT_ONCE)

        async def connect(channel: Channel) -> None:
            async with gate:
                await channel.connect()

        await asyncio.gather(*map(connect, channels))

    async def _probe(self, connectors: list[Agent], seconds: float) -> None:
        """Polls of connectors' second connections: they claim as all others do, and never wait."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + seconds
        while loop.time() < ends:
            await asyncio.sleep(1 / PROBES_S)
            agent = random.choice(connectors)
            reply = await self._ask("claim", self._mouths[agent.node], "/v1/nodes/poll", poll_of(agent, 0, 0))
            await self._take(agent, self._mouths[agent.node], PollReply.model_validate(reply))

    async def _poll(self, agent: Agent, channel: Channel, ready: asyncio.Event) -> None:
        """The second poll waits anything up to the longest: polls that began together are spread from then on."""
        version = 0
        for number in itertools.count():
            wait_s = (0.0, random.uniform(0, MAX_WAIT_S))[number] if number < 2 else MAX_WAIT_S
            asked = poll_of(agent, version, wait_s)
            reply = PollReply.model_validate(await channel.ask("/v1/nodes/poll", asked))
            version = reply.plans_version
            await self._take(agent, channel, reply)
            if number:
                ready.set()

    async def _take(self, agent: Agent, channel: Channel, reply: PollReply) -> None:
        if reply.job:
            self.leases += 1
            await self._cycle(agent, channel, reply.job)
        elif reply.work:
            self.leases += 1
            done = tuple(PointOutcome(point=each, verdict=PointVerdict.DONE) for each in reply.work.points)
            await self._finish(agent, channel, reply.work, points=done)

    async def _cycle(self, agent: Agent, channel: Channel, job: Job) -> None:
        progress = Progress(stage=Stage.TRANSFER, counter=1, done_bytes=1 << 30, total_bytes=2 << 30)
        said = HeartbeatRequest(incarnation=agent.incarnation, epoch=job.epoch, progress=progress)
        await self._ask("heartbeat", channel, f"/v1/nodes/jobs/{job.job}/heartbeat", said)
        taken_at = datetime.now(UTC)
        fact = PointFact(
            id=point_id(job.cycle, job.group), plan=job.plan, group=job.group, cycle=job.cycle, source_time=taken_at,
            consistency=Consistency.CRASH, state=PointState.AVAILABLE, disks=2,
        )  # fmt: skip
        await self._ask("point", self._mouths[job.connector], "/v1/nodes/points", PointsReport(points=(fact,)))
        await self._finish(agent, channel, job, point=fact.id, source_time=taken_at, progress=progress)

    async def _finish(self, agent: Agent, channel: Channel, job: Job | ConnectorJob, **said: Any) -> None:
        outcome = Outcome(epoch=job.epoch, result=JobResult.COMPLETED, **said)
        request = OutcomeRequest(incarnation=agent.incarnation, outcome=outcome)
        await self._ask("outcome", channel, f"/v1/nodes/jobs/{job.job}/outcome", request)

    async def _ask(self, kind: str, channel: Channel, path: str, message: Message) -> Any:
        with self.times[kind].measured():
            return await channel.ask(path, message)


def poll_of(agent: Agent, version: int, wait_s: float) -> PollRequest:
    sources = (SOURCE,) if agent.role == Role.APPLIANCE else ()
    return PollRequest(
        incarnation=agent.incarnation, version="1.0", sources=sources, plans_version=version, wait_s=wait_s
    )  # fmt: skip
