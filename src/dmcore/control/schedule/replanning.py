"""What a change of a plan means to when its groups' cycles start: all of them at once, however many there are."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, Select, bindparam, exists, select, update

from dmcore.control.schedule import pace
from dmcore.control.store.tables import IN_FLIGHT, groups, jobs, plans


def replan(connection: Connection, now: datetime, group_ids: Sequence[UUID]) -> None:
    """Set their next starts and breach times from what is known now, as `pace.reschedule` does for one.

    To be called when their plan is made, edited, paused, resumed or deleted, by who holds its lock. Their pace stays
    as it is: no cycle has ended.
    """
    mine = groups.c.id.in_(group_ids)
    connection.execute(select(groups.c.id).where(mine).order_by(groups.c.id).with_for_update()).all()
    rows = connection.execute(_told().where(mine)).all()  # apart: a lock that was waited for sees what changed
    told = [(row, pace.breach_values(now, row)) for row in rows]
    values = [{"changed": row.id, "next_start": _next_start(now, row), **breach} for row, breach in told]
    if values:
        connection.execute(update(groups).where(groups.c.id == bindparam("changed")), values)
    pace.tell_kept(connection, now, told)


def _told() -> Select[Any]:
    gone = groups.c.deleted_at.is_not(None) | plans.c.deleted_at.is_not(None)
    flying = exists().where(IN_FLIGHT, jobs.c.group == groups.c.id)
    ended = (jobs.c.group == groups.c.id, jobs.c.ended_at.is_not(None))
    state, ended_at = (
        select(column).where(*ended).order_by(jobs.c.ended_at.desc(), jobs.c.id).limit(1).scalar_subquery()
        for column in (jobs.c.state, jobs.c.ended_at)
    )
    more = (gone.label("gone"), flying.label("flying"), state.label("last_state"), ended_at.label("last_ended_at"))
    return select(groups, plans.c.rpo_s, plans.c.paused, *more).join(plans, plans.c.id == groups.c.plan)


def _next_start(now: datetime, group: Row[Any]) -> datetime | None:
    if group.gone or group.paused or group.flying:
        return None
    rest_s = pace.rest_s(group.last_state, group.failures, group.rpo_s)
    earliest = group.last_ended_at and group.last_ended_at + timedelta(seconds=rest_s)
    return pace.next_start(now, group.rpo_s, group.last_point_time, group.p90_s, earliest)
