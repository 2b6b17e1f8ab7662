"""What a moment brings: cycles that are due, and groups whose newest point has become too old. Each row once."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Column, Connection, Row, Select, insert, select, update

from dmcore.api.operators import EventKind
from dmcore.control.queue.queue import cycle_of
from dmcore.control.reports import events
from dmcore.control.schedule.passing import one_by_one, put_off_group
from dmcore.control.store.tables import IN_FLIGHT, groups, jobs, plans

BATCH = 250
"""Rows that one tick takes of each: more than nodes take in its second. The rest is left to the next."""
_OF_PLAN = (plans.c.id, plans.c.site, plans.c.source, plans.c.connector)


def enqueue_due(connection: Connection, now: datetime) -> int:
    """A job for each group that is due: one, however late it is. What was missed is not caught up one by one."""
    due = locked(connection, now, groups.c.next_start)
    return one_by_one(connection, due, partial(_enqueue, connection, now), put_off_group(connection, now, "next_start"))


def find_breaches(connection: Connection, now: datetime) -> int:
    """An event for each group that has no point younger than its RPO since; one until it has."""
    late = locked(connection, now, groups.c.breach_at)
    return one_by_one(connection, late, partial(_tell, connection, now), put_off_group(connection, now, "breach_at"))


def locked(connection: Connection, now: datetime, time: Column[Any]) -> Sequence[UUID]:
    """The groups whose time has come, in this replica's hand. No more of them is read: it may be unreadable."""
    chosen = select(groups.c.id).where(time <= now).order_by(time, groups.c.id).limit(BATCH)
    return connection.execute(chosen.with_for_update(skip_locked=True)).scalars().all()


def _enqueue(connection: Connection, now: datetime, ids: Sequence[UUID]) -> int:
    rows = connection.execute(_groups().where(groups.c.id.in_(ids))).all()
    connection.execute(update(groups).where(groups.c.id.in_(ids)).values(next_start=None))
    busy = set(connection.execute(select(jobs.c.group).where(IN_FLIGHT, jobs.c.group.in_(ids))).scalars())
    due = [cycle_of(now, row, row.group, row.next_start) for row in rows if row.runs and row.group not in busy]
    if due:
        connection.execute(insert(jobs), due)
    return len(due)


def _tell(connection: Connection, now: datetime, ids: Sequence[UUID]) -> int:
    rows = connection.execute(_groups().where(groups.c.id.in_(ids)).order_by(groups.c.breach_at, groups.c.id)).all()
    _mark(connection, [row for row in rows if row.living], breached=True)
    _mark(connection, [row for row in rows if not row.living], breached=False)
    told = [{"plan": row.id, "group": row.group, "value": _lag_s(now, row)} for row in rows if row.living]
    events.record_all(connection, now, EventKind.RPO_BREACHED, told)
    return len(told)


def _groups() -> Select[Any]:
    living = groups.c.deleted_at.is_(None) & plans.c.deleted_at.is_(None)
    told = (groups.c.id.label("group"), groups.c.next_start, groups.c.last_point_time, groups.c.created_at)
    runs = living & plans.c.paused.is_(False)
    joined = select(*told, *_OF_PLAN, living.label("living"), runs.label("runs"))
    return joined.join(plans, plans.c.id == groups.c.plan)


def _mark(connection: Connection, rows: Sequence[Row[Any]], *, breached: bool) -> None:
    if rows:
        chosen = groups.c.id.in_([row.group for row in rows])
        connection.execute(update(groups).where(chosen).values(breached=breached, breach_at=None))


def _lag_s(now: datetime, group: Row[Any]) -> int:
    return int((now - (group.last_point_time or group.created_at)).total_seconds())
