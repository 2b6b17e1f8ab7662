"""What has been told long enough: finished jobs, events, points that are no more. The audit log is kept."""

from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, select

from dmcore.control.store.tables import EXPIRED, events, jobs, points

JOBS_DAYS = 30
EVENTS_DAYS = 90
POINTS_DAYS = 30
"""After a point has expired."""
BATCH = 500
"""Rows of each that go at once: a tick stays short, and there are more ticks than rows."""


def prune(connection: Connection, now: datetime) -> int:
    """Delete some of what is old. Returns how many rows."""
    ended = select(jobs.c.id).where(jobs.c.ended_at < now - timedelta(days=JOBS_DAYS)).order_by(jobs.c.ended_at)
    told = select(events.c.number).where(events.c.at < now - timedelta(days=EVENTS_DAYS)).order_by(events.c.at)
    gone = select(points.c.id).where(EXPIRED, points.c.stated_at < now - timedelta(days=POINTS_DAYS))
    found = 0
    for column, old in ((jobs.c.id, ended), (events.c.number, told), (points.c.id, gone.order_by(points.c.stated_at))):
        batch = connection.execute(old.limit(BATCH).with_for_update(skip_locked=True)).scalars().all()
        if batch:
            connection.execute(delete(column.table).where(column.in_(batch)))
        found += len(batch)
    return found
