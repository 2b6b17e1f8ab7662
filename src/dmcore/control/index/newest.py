"""A group's newest good point, after connectors have stated or lost some: its lag and schedule go by it."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, Select, bindparam, select, update

from dmcore.control.index.retention import next_round
from dmcore.control.schedule import pace
from dmcore.control.store.tables import groups, jobs, plans, points
from dmcore.model.points import GOOD

_RENEWED = update(groups).where(groups.c.id == bindparam("renewed"))
_OURS: Select[Any] = (
    select(groups.c.id, groups.c.plan, groups.c.retain_at, groups.c.last_point, groups.c.last_point_time)
    .join(plans, plans.c.id == groups.c.plan)
    .where(plans.c.connector == bindparam("connector"), groups.c.id.in_(bindparam("groups", expanding=True)))
    .order_by(groups.c.id)
    .with_for_update(of=groups)
)
_NEWEST_GOOD = (
    select(points.c.id, points.c.source_time, jobs.c.due_at)
    .outerjoin(jobs, jobs.c.cycle == points.c.cycle)
    .where(points.c.group == bindparam("group"), points.c.state == GOOD)
    .order_by(points.c.source_time.desc())
    .limit(1)
)


def renew(connection: Connection, now: datetime, connector: str, changed: Iterable[tuple[UUID, UUID]]) -> None:
    """Look at these (plan, group) again. Those that are not this connector's, or not known here, are left out."""
    pairs = set(changed)
    asked = {"connector": connector, "groups": [group for _, group in pairs]}
    for group in connection.execute(_OURS, asked).all():
        if (group.plan, group.id) in pairs:
            _renew(connection, now, group)


def _renew(connection: Connection, now: datetime, group: Row[Any]) -> None:
    look_at = next_round(now)
    values: dict[str, Any] = {"retain_at": min(group.retain_at or look_at, look_at)}
    found = _newest_good(connection, now, group.id)
    is_other = _is_other(connection, group, found)
    if is_other:
        values["last_point"], values["last_point_time"] = found or (None, None)
    connection.execute(_RENEWED, {"renewed": group.id, **values})
    if is_other:
        pace.reschedule(connection, now, group.id)


def _is_other(connection: Connection, group: Row[Any], found: tuple[UUID, datetime] | None) -> bool:
    """Whether the group has another newest point than it had. One that was not stated yet may well be there."""
    if found and (group.last_point_time is None or found[1] > group.last_point_time):
        return True
    return not (found and found[0] == group.last_point) and _is_gone(connection, group)


def _newest_good(connection: Connection, now: datetime, group: UUID) -> tuple[UUID, datetime] | None:
    row = connection.execute(_NEWEST_GOOD, {"group": group}).one_or_none()
    return row and (row.id, pace.believed(row.source_time, row.due_at, now))


def _is_gone(connection: Connection, group: Row[Any]) -> bool:
    """Whether what was the newest point is known to be no good any more. One that was not stated yet is not."""
    state = connection.execute(select(points.c.state).where(points.c.id == group.last_point)).scalar_one_or_none()
    return state is not None and state != GOOD
