"""What waits: jobs that are put into the queue, and which queues have one to claim."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, Connection, Row, insert, select, update

from dmcore.control.store.tables import IN_FLIGHT, QUEUED_CYCLES, QUEUED_WORK, groups, jobs, plans
from dmcore.model.enums import Role
from dmcore.model.jobs import JobKind, JobState


@dataclass(frozen=True)
class QueueKey:
    """One queue: the cycles of a site's source, or a connector's work (`source` is None)."""

    owner: str
    source: str | None = None

    @classmethod
    def cycles(cls, site: str, source: str) -> Self:
        """Of the appliances of a site that have this source."""
        return cls(site, source)

    @classmethod
    def work(cls, connector: str) -> Self:
        """Of one connector."""
        return cls(connector)


def enqueue_cycle(
    connection: Connection, now: datetime, group: UUID, *, due_at: datetime, resync: str | None = None
) -> UUID | None:
    """A cycle of a group, claimable at once. None: one is in flight already (it will do), or the plan is deleted."""
    # The group's lock keeps two of these apart: a unique index that refuses would end the whole transaction.
    living = (groups.c.id == group, groups.c.deleted_at.is_(None), plans.c.deleted_at.is_(None))
    chosen = select(plans).join(groups, groups.c.plan == plans.c.id).where(*living).with_for_update(of=groups)
    plan = connection.execute(chosen).one_or_none()
    if plan is None:
        return None
    connection.execute(update(groups).where(groups.c.id == group).values(next_start=None))
    if connection.execute(select(jobs.c.id).where(IN_FLIGHT, jobs.c.group == group)).first():
        return None
    return _insert(
        connection, now, kind=JobKind.CYCLE, plan=plan.id, group=group, cycle=uuid4(), site=plan.site,
        source=plan.source, connector=plan.connector, due_at=due_at, resync=resync,
    )  # fmt: skip


def enqueue_work(
    connection: Connection,
    now: datetime,
    connector: str,
    kind: JobKind,
    *,
    points: Iterable[UUID] = (),
    to: str | None = None,
    preserved: bool | None = None,
    plan: UUID | None = None,
) -> UUID:
    """A job for a connector, claimable at once."""
    arguments = {"points": [str(point) for point in points], "to": to, "preserved": preserved}
    return _insert(connection, now, kind=kind, plan=plan, connector=connector, due_at=now, arguments=arguments)


def waiting(connection: Connection, now: datetime) -> set[QueueKey]:
    """The queues that have something to claim. Whoever asks regularly reaps before."""
    due = jobs.c.not_before <= now
    cycles = select(jobs.c.site, jobs.c.source).distinct().join(plans, plans.c.id == jobs.c.plan)
    work = select(jobs.c.connector).distinct().where(QUEUED_WORK, due)
    found = {QueueKey.cycles(*row) for row in connection.execute(cycles.where(QUEUED_CYCLES, due, *runnable()))}
    return found | {QueueKey.work(connector) for connector in connection.execute(work).scalars()}


def keys_of(node: Row[Any], sources: Iterable[str]) -> set[QueueKey]:
    """The queues that a node of the table `nodes` may claim from, with the sources that it told of."""
    if node.role == Role.APPLIANCE:
        return {QueueKey.cycles(node.site, source) for source in sources}
    return {QueueKey.work(node.id)}


def runnable() -> tuple[ColumnElement[bool], ...]:
    """What must hold of a plan for its cycles to be claimed."""
    return plans.c.paused.is_(False), plans.c.deleted_at.is_(None)


def _insert(connection: Connection, now: datetime, **values: Any) -> UUID:
    job = uuid4()
    connection.execute(insert(jobs).values(id=job, state=JobState.QUEUED, not_before=now, **values))
    return job
