"""A small world for the queue: a site, nodes, plans, and short words for what nodes do."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection, Row, func, insert, select, update

from dmcore.api.base import Problem
from dmcore.api.jobs import ConnectorJob, Job, JobResult, Outcome, Progress
from dmcore.api.limits import NO_LIMIT, Limit
from dmcore.api.nodes import HeartbeatReply, HeartbeatRequest, PollRequest
from dmcore.api.plans import DEFAULT_TIERS
from dmcore.control.queue import leases, outcomes, queue
from dmcore.control.queue.claims import claim
from dmcore.control.queue.tickets import TicketDesk
from dmcore.control.settings import LeaseSettings
from dmcore.control.store.database import Database
from dmcore.control.store.tables import events, groups, jobs, nodes, plans, sites
from dmcore.model.enums import Role, Stage
from dmcore.model.ids import PointId
from dmcore.model.jobs import JobKind

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LEASES = LeaseSettings()
DESK = TicketDesk(Ed25519PrivateKey.generate())
SITE, SOURCE = "north", "vmware"
CONNECTOR = "c" * 64


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


@dataclass
class Worker:
    """A process of a node, as far as the queue sees it."""

    database: Database
    node: str
    incarnation: UUID = field(default_factory=uuid4)
    sources: tuple[str, ...] = (SOURCE,)

    def poll(self, **more: Any) -> PollRequest:
        return PollRequest(incarnation=self.incarnation, version="1.0", sources=self.sources, **more)

    def claim(self, now: datetime = NOW, **more: Any) -> Job | ConnectorJob | None:
        with self.database.write() as connection:
            return claim_with(connection, self, now, **more)

    def cycle(self, now: datetime = NOW) -> Job:
        found = self.claim(now)
        assert isinstance(found, Job)
        return found

    def work(self, now: datetime = NOW) -> ConnectorJob:
        found = self.claim(now)
        assert isinstance(found, ConnectorJob)
        return found

    def heartbeat(self, job: Job | ConnectorJob, now: datetime = NOW, **progress: Any) -> HeartbeatReply:
        request = HeartbeatRequest(incarnation=self.incarnation, epoch=job.epoch, progress=Progress(**progress))
        with self.database.write() as connection:
            return leases.heartbeat(connection, now, self.node, job.job, request, LEASES)

    def finish(self, job: Job | ConnectorJob, now: datetime = NOW, **outcome: Any) -> None:
        said = Outcome(**({"epoch": job.epoch, "result": JobResult.COMPLETED} | outcome))
        with self.database.write() as connection:
            outcomes.finish(connection, now, self.node, job.job, self.incarnation, said)

    def restarted(self) -> "Worker":
        return Worker(self.database, self.node, uuid4(), self.sources)


def claim_with(connection: Connection, worker: Worker, now: datetime, **more: Any) -> Job | ConnectorJob | None:
    row = connection.execute(select(nodes).where(nodes.c.id == worker.node)).one()
    return claim(connection, now, row, worker.poll(**more), DESK, LEASES)


@dataclass
class World:
    """What is in the database, made and asked about."""

    database: Database

    def site(self, name: str = SITE, limit: Limit = NO_LIMIT) -> None:
        values = {"name": name, "limit": limit.model_dump(mode="json"), "created_at": NOW}
        self._insert(sites, **values)

    def node(self, node: str, role: Role, site: str = SITE) -> Worker:
        self._insert(
            nodes, id=node, site=site, role=role, public_key=b"", version="1.0", enrolled_at=NOW, seen_at=NOW
        )  # fmt: skip
        return Worker(self.database, node)

    def appliance(self, letter: str = "a", site: str = SITE) -> Worker:
        return self.node(letter * 64, Role.APPLIANCE, site)

    def plan(self, groups_count: int = 1, **more: Any) -> list[UUID]:
        """Its groups."""
        plan = uuid4()
        values: dict[str, Any] = {
            "id": plan, "name": f"plan {plan}", "site": SITE, "connector": CONNECTOR, "source": SOURCE,
            "target": "staging", "rpo_s": 300, "codec": "lz4", "group_mode": "machine", "created_at": NOW,
            "retain": [tier.model_dump(mode="json") for tier in DEFAULT_TIERS],
            "limit": NO_LIMIT.model_dump(mode="json"),
        }  # fmt: skip
        self._insert(plans, **(values | more))
        made = [uuid4() for _ in range(groups_count)]
        for group in made:
            self._insert(groups, id=group, plan=plan, machines=[f"vm {group}"], created_at=NOW, next_start=NOW)
        return made

    def enqueue(self, group: UUID, now: datetime = NOW, resync: str | None = None) -> UUID | None:
        with self.database.write() as connection:
            return queue.enqueue_cycles(connection, now, [group], due_at=now, resync=resync).get(group)

    def enqueued(self, group: UUID, now: datetime = NOW) -> UUID:
        job = self.enqueue(group, now)
        assert job is not None
        return job

    def work(self, kind: JobKind, now: datetime = NOW, **more: Any) -> UUID:
        with self.database.write() as connection:
            return queue.enqueue_work(connection, now, CONNECTOR, kind, **more)

    def cancel(self, job: UUID, now: datetime = NOW) -> None:
        with self.database.write() as connection:
            outcomes.cancel(connection, now, job)

    def reap(self, now: datetime) -> int:
        with self.database.write() as connection:
            return leases.reap(connection, now)

    def waiting(self, now: datetime = NOW) -> set[queue.QueueKey]:
        with self.database.read() as connection:
            return queue.waiting(connection, now)

    def job(self, job: UUID) -> Row[Any]:
        return self._row(jobs, job)

    def group(self, group: UUID) -> Row[Any]:
        return self._row(groups, group)

    def states(self) -> list[str]:
        with self.database.read() as connection:
            return sorted(connection.execute(select(jobs.c.state)).scalars())

    def events(self) -> list[str]:
        with self.database.read() as connection:
            return list(connection.execute(select(events.c.kind).order_by(events.c.number)).scalars())

    def count(self, table: Any) -> int:
        with self.database.read() as connection:
            return int(connection.execute(select(func.count()).select_from(table)).scalar_one())

    def change(self, table: Any, key: Any, **values: Any) -> None:
        with self.database.write() as connection:
            connection.execute(update(table).where(table.c.id == key).values(**values))

    def _insert(self, table: Any, **values: Any) -> None:
        with self.database.write() as connection:
            connection.execute(insert(table).values(**values))

    def _row(self, table: Any, key: UUID) -> Row[Any]:
        with self.database.read() as connection:
            return connection.execute(select(table).where(table.c.id == key)).one()


def new_world(database: Database) -> World:
    """A site with a connector; the appliances are the test's."""
    world = World(database)
    world.site()
    world.node(CONNECTOR, Role.CONNECTOR)
    return world


def problem(code: str = "connection.lost", *, permanent: bool = False) -> Problem:
    return Problem(code=code, permanent=permanent, correlation="0" * 32)


def failed(code: str = "connection.lost", *, permanent: bool = False, **more: Any) -> dict[str, Any]:
    return {"result": JobResult.FAILED, "problem": problem(code, permanent=permanent), **more}


def with_point(source_time: datetime, done_bytes: int = 0) -> dict[str, Any]:
    progress = Progress(stage=Stage.DONE, done_bytes=done_bytes)
    return {"point": PointId(uuid4()), "source_time": source_time, "progress": progress}
