"""Verifying a share of each group's newest good point every day, in hourly parts: a sample each, of random blocks."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, bindparam, or_, select, update

from dmcore.control.queue.queue import enqueue_work
from dmcore.control.schedule.due import locked
from dmcore.control.schedule.passing import one_by_one, put_off_group
from dmcore.control.store.tables import HELD, QUEUED_WORK, groups, jobs, plans, points
from dmcore.model.jobs import JobKind
from dmcore.model.points import GOOD

PART = timedelta(hours=1)
BUSY = timedelta(minutes=5)
"""Until it is looked at again whether a group's point is still being verified."""
DAY = timedelta(days=1)
"""What was missed for longer is not made up for."""
MIN_PERCENT = 1e-6
_MOVED = update(groups).where(groups.c.id == bindparam("changed"))


def arrange(connection: Connection, now: datetime, plan: UUID) -> None:
    """To be called when a plan was made or edited: its groups that are not sampled yet are, if it says so."""
    said = select(plans.c.id).where(plans.c.id == plan, plans.c.verify_percent > 0)
    mine = (groups.c.plan.in_(said), groups.c.deleted_at.is_(None), groups.c.sample_at.is_(None))
    connection.execute(update(groups).where(*mine).values(sample_at=now + PART, sample_from=now))


def enqueue_samples(connection: Connection, now: datetime) -> int:
    """A job for each group whose next part is due, as large as the time since the last one makes it."""
    due = locked(connection, now, groups.c.sample_at)
    return one_by_one(connection, due, partial(_enqueue, connection, now), put_off_group(connection, now, "sample_at"))


def _enqueue(connection: Connection, now: datetime, ids: Sequence[UUID]) -> int:
    living = (groups.c.deleted_at.is_(None), plans.c.deleted_at.is_(None), plans.c.verify_percent > 0)
    told = select(groups, plans.c.verify_percent, points.c.id.label("newest"), points.c.connector)
    told = told.join(plans, plans.c.id == groups.c.plan)
    told = told.outerjoin(points, (points.c.id == groups.c.last_point) & (points.c.state == GOOD))
    rows = {row.id: row for row in connection.execute(told.where(groups.c.id.in_(ids), *living))}
    busy = _busy(connection)
    connection.execute(_MOVED, [{"changed": group, **_next(now, rows.get(group), busy)} for group in ids])
    sampled = [row for row in rows.values() if row.newest is not None and row.id not in busy]
    for row in sampled:
        share = (now - row.sample_from) / DAY
        percent = min(max(row.verify_percent * min(share, 1.0), MIN_PERCENT), 100.0)
        about = {"points": [row.newest], "plan": row.plan, "sample_percent": percent}
        enqueue_work(connection, now, row.connector, JobKind.VERIFY, **about)
    return len(sampled)


def _busy(connection: Connection) -> set[UUID]:
    """The groups of which a point is being verified, or is about to be."""
    about = select(jobs.c.point).where(jobs.c.kind == JobKind.VERIFY, or_(QUEUED_WORK, HELD))
    return set(connection.execute(select(points.c.group).where(points.c.id.in_(about))).scalars())


def _next(now: datetime, group: Row[Any] | None, busy: set[UUID]) -> dict[str, datetime | None]:
    """When a group is looked at again, and from when on it has not had its share."""
    if group is None:
        return {"sample_at": None, "sample_from": None}
    if group.newest is not None and group.id in busy:
        return {"sample_at": now + BUSY, "sample_from": group.sample_from}
    return {"sample_at": now + PART, "sample_from": now}
