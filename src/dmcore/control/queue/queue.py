"""What waits: jobs that are put into the queue, and which queues have one to claim."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, Connection, Row, Select, bindparam, insert, select, update

from dmcore.control.store.tables import IN_FLIGHT, QUEUED_CYCLES, QUEUED_WORK, groups, jobs, plans
from dmcore.model.enums import Role
from dmcore.model.jobs import JobKind, JobState

AGAINST_SOURCE = {"against_source": True}
"""The arguments of a cycle that verifies."""


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


def enqueue_cycles(
    connection: Connection,
    now: datetime,
    group_ids: Sequence[UUID],
    *,
    due_at: datetime,
    resync: str | None = None,
    against_source: bool = False,
) -> dict[UUID, UUID]:
    """A cycle of each of these groups, claimable at once. Left out are deleted ones, and those with one in flight."""
    # The groups' locks keep two of these apart: a unique index that refuses would end the whole transaction.
    living = (groups.c.id.in_(group_ids), groups.c.deleted_at.is_(None), plans.c.deleted_at.is_(None))
    told: Select[Any] = select(groups.c.id.label("group"), plans.c.id, plans.c.site, plans.c.source, plans.c.connector)
    chosen = told.join(plans, plans.c.id == groups.c.plan).where(*living).order_by(groups.c.id)
    rows = connection.execute(chosen.with_for_update(of=groups)).all()
    theirs = [row.group for row in rows]
    connection.execute(update(groups).where(groups.c.id.in_(theirs)).values(next_start=None))
    busy = set(connection.execute(select(jobs.c.group).where(IN_FLIGHT, jobs.c.group.in_(theirs))).scalars())
    asked = {"resync": resync, "arguments": AGAINST_SOURCE if against_source else {}}
    made = [cycle_of(now, row, row.group, due_at) | asked for row in rows if row.group not in busy]
    if made:
        connection.execute(insert(jobs), made)
    return {job["group"]: job["id"] for job in made}


def cycle_of(now: datetime, plan: Row[Any], group: UUID, due_at: datetime) -> dict[str, Any]:
    """The row of a new cycle of a group, claimable at once. `plan` has its id, site, source and connector."""
    return {
        "id": uuid4(), "kind": JobKind.CYCLE, "state": JobState.QUEUED, "plan": plan.id, "group": group,
        "cycle": uuid4(), "site": plan.site, "source": plan.source, "connector": plan.connector,
        "due_at": due_at, "not_before": now,
    }  # fmt: skip


def enqueue_work(
    connection: Connection,
    now: datetime,
    connector: str,
    kind: JobKind,
    *,
    points: Iterable[UUID] = (),
    to: str | None = None,
    preserved: bool | None = None,
    sample_percent: float | None = None,
    plan: UUID | None = None,
) -> UUID:
    """A job for a connector, claimable at once."""
    about, job = [*points], uuid4()
    asked: dict[str, Any] = {"points": [str(point) for point in about], "to": to, "preserved": preserved}
    if sample_percent is not None:  # a connector of an older version knows no samples: it is not told of none
        asked["sample_percent"] = sample_percent
    values = {
        "id": job, "kind": kind, "state": JobState.QUEUED, "plan": plan, "connector": connector, "due_at": now,
        "not_before": now, "point": about[0] if len(about) == 1 else None,
        "arguments": asked,
    }  # fmt: skip
    connection.execute(insert(jobs).values(**values))
    return job


def waiting(connection: Connection, now: datetime) -> set[QueueKey]:
    """The queues that have something to claim. Whoever asks regularly reaps before."""
    due = jobs.c.not_before <= now
    cycles = select(jobs.c.site, jobs.c.source).distinct().join(plans, plans.c.id == jobs.c.plan)
    work = select(jobs.c.connector).distinct().where(QUEUED_WORK, due)
    found = {QueueKey.cycles(*row) for row in connection.execute(cycles.where(QUEUED_CYCLES, due, *runnable()))}
    return found | {QueueKey.work(connector) for connector in connection.execute(work).scalars()}


def has_cycle(connection: Connection, now: datetime, site: str, source: str) -> bool:
    """Whether there is one more to claim of this source."""
    asked = {"site": site, "source": source, "now": now}
    return connection.execute(_ONE_CYCLE, asked).first() is not None


def keys_of(node: Row[Any], sources: Iterable[str]) -> set[QueueKey]:
    """The queues that a node of the table `nodes` may claim from, with the sources that it told of."""
    if node.role == Role.APPLIANCE:
        return {QueueKey.cycles(node.site, source) for source in sources}
    return {QueueKey.work(node.id)}


def runnable() -> tuple[ColumnElement[bool], ...]:
    """What must hold of a plan for its cycles to be claimed."""
    return plans.c.paused.is_(False), plans.c.deleted_at.is_(None)


_ONE_CYCLE = (
    select(jobs.c.id)
    .join(plans, plans.c.id == jobs.c.plan)
    .where(QUEUED_CYCLES, jobs.c.site == bindparam("site"), jobs.c.source == bindparam("source"))
    .where(jobs.c.not_before <= bindparam("now"), *runnable())
    .limit(1)
)
