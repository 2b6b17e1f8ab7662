"""Loads on the control plane's functions themselves, from threads: what the database and the code around it cost."""

import itertools
import queue
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.control.deployment import SOURCE, Agent, make_all_due
from dmcore.api.jobs import ConnectorJob, Job, JobResult, Outcome, PointOutcome, PointVerdict, Progress
from dmcore.api.nodes import HeartbeatRequest, PollRequest
from dmcore.api.points import PointFact
from dmcore.control.access import enrolment
from dmcore.control.index.points import state_points
from dmcore.control.queue import leases, outcomes
from dmcore.control.queue.claims import claim
from dmcore.control.queue.tickets import TicketDesk
from dmcore.control.schedule.scheduler import TickResult, tick
from dmcore.control.settings import LeaseSettings
from dmcore.control.store.database import Database
from dmcore.model.enums import Consistency, Role, Stage
from dmcore.model.ids import point_id
from dmcore.model.points import PointState

THREADS = 8
POLL_S = 27.0
"""How long an agent's long poll lasts on average: so often it asks in vain."""
LEASES = LeaseSettings()
DESK = TicketDesk(Ed25519PrivateKey.generate())


@dataclass
class Times:
    """What one kind of call took."""

    seconds: list[float] = field(default_factory=list)

    @contextmanager
    def measured(self) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds.append(time.perf_counter() - begin)

    def ms(self, share: float) -> float:
        """The smallest that this share of them does not exceed."""
        ordered = sorted(self.seconds)
        return 1000 * ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else float("nan")


@dataclass
class Load:
    """Agents, and what their calls took by kind."""

    database: Database
    agents: Sequence[Agent]
    times: dict[str, Times] = field(default_factory=lambda: defaultdict(Times))
    leases: int = 0

    def __post_init__(self) -> None:
        queues: dict[str, list[Agent]] = defaultdict(list)
        for agent in self.agents:
            queues[agent.site if agent.role == Role.APPLIANCE else agent.node].append(agent)
        self.queues = {owner: itertools.cycle(agents) for owner, agents in queues.items()}
        self.sites = list({agent.site for agent in self.agents})

    def claim(self, agent: Agent) -> Job | ConnectorJob | None:
        """A poll, as the route does it."""
        sources = (SOURCE,) if agent.role == Role.APPLIANCE else ()
        request = PollRequest(incarnation=agent.incarnation, version="1.0", sources=sources)
        with self.times["claim"].measured(), self.database.write() as connection:
            now = self.database.now(connection)
            row = enrolment.seen(connection, now, agent.node, request)
            return None if row is None else claim(connection, now, row, request, DESK, LEASES)

    def run_all(self, agent: Agent) -> int:
        """What waits for an agent, one after the other. Returns how many jobs."""
        count = 0
        while job := self.claim(agent):
            count += 1
            self.leases += 1
            if isinstance(job, Job):
                self._cycle(agent, job)
            else:
                self._expire(agent, job)
        return count

    def _cycle(self, agent: Agent, job: Job) -> None:
        """It takes no time: a heartbeat, its point, its end."""
        progress = Progress(stage=Stage.TRANSFER, counter=1, done_bytes=1 << 30, total_bytes=2 << 30)
        request = HeartbeatRequest(incarnation=agent.incarnation, epoch=job.epoch, progress=progress)
        with self.times["heartbeat"].measured(), self.database.write() as connection:
            leases.heartbeat(connection, self.database.now(connection), agent.node, job.job, request, LEASES)
        with self.times["point"].measured(), self.database.write() as connection:
            taken_at = self.database.now(connection)
            fact = PointFact(
                id=point_id(job.cycle, job.group), plan=job.plan, group=job.group, cycle=job.cycle,
                source_time=taken_at, consistency=Consistency.CRASH, state=PointState.AVAILABLE, disks=2,
            )  # fmt: skip
            state_points(connection, taken_at, job.connector, [fact])
        self._finish(agent, job, point=fact.id, source_time=taken_at, progress=progress, seconds={Stage.TRANSFER: 1.0})

    def _expire(self, agent: Agent, job: ConnectorJob) -> None:
        gone = tuple(PointOutcome(point=each, verdict=PointVerdict.DONE) for each in job.points)
        self._finish(agent, job, points=gone)

    def _finish(self, agent: Agent, job: Job | ConnectorJob, **said: Any) -> None:
        outcome = Outcome(epoch=job.epoch, result=JobResult.COMPLETED, **said)
        with self.times[f"outcome {type(job).__name__}"].measured(), self.database.write() as connection:
            now = self.database.now(connection)
            outcomes.finish(connection, now, agent.node, job.job, agent.incarnation, outcome)

    def tick(self, kind: str = "tick") -> TickResult:
        with self.times[kind].measured(), self.database.write() as connection:
            return tick(connection, self.database.now(connection))


def warm_up(database: Database) -> None:
    """Open all connections that the threads will use: a control plane has them after its first minute."""
    with ExitStack() as stack:
        for _ in range(THREADS + 2):
            stack.enter_context(database.read())


def burst(load: Load, seconds: float) -> float:
    """Everything is due at once. Ticks until all is queued, then leases as fast as it goes. Leases a second."""
    make_all_due(load.database)
    while load.tick("tick, all due").enqueued:
        pass
    ends = time.perf_counter() + seconds
    sites = itertools.cycle(load.sites)

    def work() -> None:
        vain = 0
        while time.perf_counter() < ends and vain < len(load.sites):
            vain = 0 if load.run_all(next(load.queues[next(sites)])) else vain + 1

    return leases_s(load, *[work] * THREADS)


class Paced:
    """Plans are due as their RPO says, one tick a second, every agent polls."""

    def __init__(self, load: Load, seconds: float) -> None:
        self._load = load
        self._seconds = seconds
        self._woken: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def leases_s(self) -> float:
        return leases_s(self._load, self._tick, self._poll_in_vain, *[self._work] * THREADS)

    def _tick(self) -> None:
        begin = time.perf_counter()
        for number in range(1, int(self._seconds) + 1):
            for key in self._load.tick().waiting:
                self._woken.put(key.owner)
            time.sleep(max(begin + number - time.perf_counter(), 0))  # sleeps: a tick a second
        for _ in range(THREADS):
            self._woken.put(None)

    def _work(self) -> None:
        while (owner := self._woken.get()) is not None:
            self._load.run_all(next(self._load.queues[owner]))

    def _poll_in_vain(self) -> None:
        begin = due = time.perf_counter()
        while due < begin + self._seconds:
            due += random.uniform(0, 2 * POLL_S / len(self._load.agents))
            time.sleep(max(due - time.perf_counter(), 0))  # sleeps: polls come as they come
            self._load.run_all(random.choice(self._load.agents))


def leases_s(load: Load, *work: Callable[[], None]) -> float:
    """Leases a second while all of this is done at once. The first error is raised when all have ended."""
    begin, before = time.perf_counter(), load.leases
    with ThreadPoolExecutor(len(work)) as pool:
        futures = [pool.submit(each) for each in work]
    for future in futures:
        future.result()
    return (load.leases - before) / (time.perf_counter() - begin)
