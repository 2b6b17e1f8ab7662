"""Simulated agents over HTTPS: each signs, long-polls, and runs what it gets. One event loop carries all of them."""

import asyncio
import itertools
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from benchmarks.control.channel import Channel, Server
from benchmarks.control.deployment import DURATION_S, SOURCE, Agent
from benchmarks.control.loads import Times
from dmcore.api.base import Message
from dmcore.api.jobs import ConnectorJob, Job, JobResult, Outcome, PointOutcome, PointVerdict, Progress
from dmcore.api.nodes import MAX_WAIT_S, HeartbeatReply, HeartbeatRequest, OutcomeRequest, PollReply, PollRequest
from dmcore.api.points import PointFact, PointsReport
from dmcore.model.enums import Consistency, Role, Stage
from dmcore.model.ids import GroupId, point_id
from dmcore.model.points import PointState

PROBES_S = 10
"""Polls a second that do not wait, of nodes by chance: what a claim costs over HTTPS."""
CONNECTING_AT_ONCE = 16
SLOTS = 4
"""Cycles that an agent runs at a time; it goes on polling meanwhile."""


@dataclass
class Node:
    """One agent as it runs: an ear that long-polls, a mouth for all else."""

    agent: Agent
    ear: Channel
    mouth: Channel
    busy: set[GroupId] = field(default_factory=set)
    version: int = 0
    has_room: asyncio.Event = field(default_factory=asyncio.Event)

    def poll(self, wait_s: float) -> PollRequest:
        return PollRequest(
            incarnation=self.agent.incarnation, version="1.0",
            sources=(SOURCE,) if self.agent.role == Role.APPLIANCE else (), busy=tuple(self.busy),
            slots=max(SLOTS - len(self.busy), 0), plans_version=self.version, wait_s=wait_s,
        )  # fmt: skip

    def took(self, group: GroupId) -> None:
        self.busy.add(group)
        if len(self.busy) >= SLOTS:  # one more than these, if a probe and a poll that waits each got one
            self.has_room.clear()

    def ended(self, group: GroupId) -> None:
        self.busy.discard(group)
        if len(self.busy) < SLOTS:
            self.has_room.set()


class Fleet:
    """All agents. What their calls took is in `times`, by kind."""

    def __init__(self, servers: Sequence[Server], agents: Sequence[Agent]) -> None:
        """Each agent asks one of the servers; those of a site ask all of them."""
        there = zip(random.sample(agents, len(agents)), itertools.cycle(servers), strict=False)
        self._nodes = {each.node: Node(each, Channel(server, each), Channel(server, each)) for each, server in there}
        self._tasks: set[asyncio.Task[None]] = set()
        self._held: dict[GroupId, tuple[str, int]] = {}
        """Who runs a cycle of each group now, and under which epoch."""
        self._ended: dict[GroupId, int] = {}
        self.takes_s = float(DURATION_S)
        """How long a cycle takes, on average."""
        self.forget()

    def forget(self) -> None:
        """Measure from now on."""
        self.times: dict[str, Times] = defaultdict(Times)
        self.cycles = self.works = self.requests = 0

    async def run(self, scenario: Callable[[], Awaitable[None]]) -> None:
        """Connect everybody, let them poll; then what the scenario does is done to them, until it ends."""
        try:
            async with asyncio.TaskGroup() as self._group:
                await self._arrive()
                self._spawn(self._probe())
                await scenario()
                for task in self._tasks:
                    task.cancel()
        finally:
            for node in self._nodes.values():
                await node.ear.close()
                await node.mouth.close()

    async def _arrive(self) -> None:
        gate = asyncio.Semaphore(CONNECTING_AT_ONCE)

        async def arrive(node: Node) -> None:
            node.has_room.set()
            async with gate:
                with self.times["connect"].measured():
                    await node.ear.connect()
                await self._ask("first poll", node.ear, "/v1/nodes/poll", node.poll(0))
            self._spawn(self._poll(node))

        await asyncio.gather(*map(arrive, self._nodes.values()))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _probe(self) -> None:
        """Polls that claim as all others do, and never wait; nor does one of them wait for another."""
        while True:
            await asyncio.sleep(random.expovariate(PROBES_S))
            node = random.choice(list(self._nodes.values()))
            if node.has_room.is_set():
                self._spawn(self._probe_once(node))

    async def _probe_once(self, node: Node) -> None:
        await node.mouth.ready()
        await self._poll_once("claim", node, node.mouth, 0)

    async def _poll(self, node: Node) -> None:
        """The first poll waits anything up to the longest: polls that began together are spread from then on."""
        wait_s = random.uniform(0, MAX_WAIT_S)
        while True:
            await self._poll_once("poll", node, node.ear, wait_s)
            wait_s = MAX_WAIT_S
            await node.has_room.wait()

    async def _poll_once(self, kind: str, node: Node, channel: Channel, wait_s: float) -> None:
        reply = PollReply.model_validate(await self._ask(kind, channel, "/v1/nodes/poll", node.poll(wait_s)))
        node.version = reply.plans_version
        if reply.job and self._is_new(node, reply.job):
            self.cycles += 1
            node.took(reply.job.group)
            self._spawn(self._cycle(node, reply.job, reply.heartbeat_s))
        elif reply.work:
            self.works += 1
            await self._work(node, channel, reply.work)

    def _is_new(self, node: Node, job: Job) -> bool:
        """Or the same lease once more, for a poll that overtook the first answer. Nothing is doubled: RuntimeError."""
        mine = (node.agent.node, job.epoch)
        if (held := self._held.get(job.group)) and held != mine:
            raise RuntimeError(f"group {job.group} runs as {held} and as {mine}")
        if self._ended.get(job.group, 0) >= job.epoch:
            raise RuntimeError(f"group {job.group} runs again under epoch {job.epoch}")
        self._held[job.group] = mine
        return held is None

    async def _cycle(self, node: Node, job: Job, heartbeat_s: float) -> None:
        """A heartbeat at once and every so often, its point, its end."""
        taken_at, left_s = datetime.now(UTC), random.uniform(0.5, 1.5) * self.takes_s
        counter = 1
        await self._heartbeat(node, job, counter)
        while left_s > 0:
            await asyncio.sleep(min(left_s, heartbeat_s))
            left_s -= heartbeat_s
            if left_s > 0:
                await self._heartbeat(node, job, counter := counter + 1)
        await self._complete(node, job, taken_at)
        self._ended[job.group] = job.epoch
        del self._held[job.group]
        node.ended(job.group)

    async def _heartbeat(self, node: Node, job: Job, counter: int) -> None:
        progress = Progress(stage=Stage.TRANSFER, counter=counter, done_bytes=1 << 30, total_bytes=2 << 30)
        said = HeartbeatRequest(incarnation=node.agent.incarnation, epoch=job.epoch, progress=progress)
        answer = await self._ask("heartbeat", node.mouth, f"/v1/nodes/jobs/{job.job}/heartbeat", said)
        if HeartbeatReply.model_validate(answer).cancel:
            raise RuntimeError(f"job {job.job} is cancelled")

    async def _complete(self, node: Node, job: Job, taken_at: datetime) -> None:
        fact = PointFact(
            id=point_id(job.cycle, job.group), plan=job.plan, group=job.group, cycle=job.cycle, source_time=taken_at,
            consistency=Consistency.CRASH, state=PointState.AVAILABLE, disks=2,
        )  # fmt: skip
        connector = self._nodes[job.connector]
        await self._ask("point", connector.mouth, "/v1/nodes/points", PointsReport(points=(fact,)))
        await self._finish(node, node.mouth, job, point=fact.id, source_time=taken_at)

    async def _work(self, node: Node, channel: Channel, work: ConnectorJob) -> None:
        done = tuple(PointOutcome(point=each, verdict=PointVerdict.DONE) for each in work.points)
        await self._finish(node, channel, work, points=done)

    async def _finish(self, node: Node, channel: Channel, job: Job | ConnectorJob, **said: Any) -> None:
        outcome = Outcome(epoch=job.epoch, result=JobResult.COMPLETED, progress=Progress(), **said)
        request = OutcomeRequest(incarnation=node.agent.incarnation, outcome=outcome)
        await self._ask("outcome", channel, f"/v1/nodes/jobs/{job.job}/outcome", request)

    async def _ask(self, kind: str, channel: Channel, path: str, message: Message) -> Any:
        self.requests += 1
        with self.times[kind].measured():
            return await channel.ask(path, message)
