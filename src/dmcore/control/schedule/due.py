"""What a moment brings: cycles that are due, and groups whose newest point has become too old. Each row once."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, Row, Select, insert, select, update

from dmcore.api.operators import EventKind
from dmcore.control.reports import events
from dmcore.control.store.tables import IN_FLIGHT, groups, jobs, plans
from dmcore.model.jobs import JobKind, JobState

BATCH = 250
"""Rows that one tick takes of each: more than nodes take in its second. The rest is left to the next."""


def enqueue_due(connection: Connection, now: datetime) -> int:
    """A job for each group that is due: one, however late it is. What was missed is not caught up one by one."""
    chosen = _groups().where(groups.c.next_start <= now).order_by(groups.c.next_start, groups.c.id).limit(BATCH)
    rows = connection.execute(chosen.with_for_update(of=groups, skip_locked=True)).all()
    if not rows:
        return 0
    ids = [row.id for row in rows]
    connection.execute(update(groups).where(groups.c.id.in_(ids)).values(next_start=None))
    busy = set(connection.execute(select(jobs.c.group).where(IN_FLIGHT, jobs.c.group.in_(ids))).scalars())
    due = [_job(now, row) for row in rows if row.runs and row.id not in busy]
    if due:
        connection.execute(insert(jobs), due)
    return len(due)


def find_breaches(connection: Connection, now: datetime) -> int:
    """An event for each group that has no point younger than its RPO since; one until it has."""
    chosen = _groups().where(groups.c.breach_at <= now).order_by(groups.c.breach_at, groups.c.id).limit(BATCH)
    rows = connection.execute(chosen.with_for_update(of=groups, skip_locked=True)).all()
    _mark(connection, [row for row in rows if row.living], breached=True)
    _mark(connection, [row for row in rows if not row.living], breached=False)
    told = [{"plan": row.plan, "group": row.id, "value": _lag_s(now, row)} for row in rows if row.living]
    events.record_all(connection, now, EventKind.RPO_BREACHED, told)
    return len(told)


def _groups() -> Select[Any]:
    living = groups.c.deleted_at.is_(None) & plans.c.deleted_at.is_(None)
    told = (groups.c.id, groups.c.plan, groups.c.next_start, groups.c.last_point_time, groups.c.created_at)
    where = (plans.c.site, plans.c.source, plans.c.connector)
    runs = living & plans.c.paused.is_(False)
    joined = select(*told, *where, living.label("living"), runs.label("runs"))
    return joined.join(plans, plans.c.id == groups.c.plan)


def _job(now: datetime, group: Row[Any]) -> dict[str, Any]:
    return {
        "id": uuid4(), "kind": JobKind.CYCLE, "state": JobState.QUEUED, "plan": group.plan, "group": group.id,
        "cycle": uuid4(), "site": group.site, "source": group.source, "connector": group.connector,
        "due_at": group.next_start, "not_before": now,
    }  # fmt: skip


def _mark(connection: Connection, rows: Sequence[Row[Any]], *, breached: bool) -> None:
    if rows:
        chosen = groups.c.id.in_([row.id for row in rows])
        connection.execute(update(groups).where(chosen).values(breached=breached, breach_at=None))


def _lag_s(now: datetime, group: Row[Any]) -> int:
    return int((now - (group.last_point_time or group.created_at)).total_seconds())
