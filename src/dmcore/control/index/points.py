"""The index of recovery points: a copy of what connectors state of their own, and what operators ask of it."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Connection, Row, Select, or_, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from dmcore.api.operators import EventKind
from dmcore.api.points import PointFact, PointsReply, PointView
from dmcore.control.errors import NotFound, StateConflict
from dmcore.control.index import newest
from dmcore.control.index.settling import settle
from dmcore.control.reports import events
from dmcore.control.store.tables import groups, nodes, plans, points
from dmcore.model.points import PointState

__all__ = ["USABLE", "list_points", "point_row", "require_point", "settle", "state_points", "view_of"]

log = structlog.get_logger()

MAX_LISTED = 500
_KNOWN = select(points, nodes.c.revoked_at.is_not(None).label("orphaned"))
_KNOWN = _KNOWN.outerjoin(nodes, nodes.c.id == points.c.connector)
USABLE = frozenset({PointState.AVAILABLE, PointState.DEGRADED})
"""Something is there that can be read; what of it is damaged, its connector knows."""


def state_points(connection: Connection, now: datetime, connector: str, facts: Sequence[PointFact]) -> tuple[UUID, ...]:
    """Keep what a connector says of its points. Saying it again changes nothing, an older revision neither.

    Returns the points that another connector has stated before, or whose plan or group is another's: of those nothing
    is kept, lest they pass for that group's newest. What a revoked connector had is its successor's, who states it.
    """
    statement = _next_statement(connection, connector)  # of two revisions of a new point the later must stay
    latest = {fact.id: fact for fact in sorted(facts, key=lambda fact: fact.revision)}
    known = {row.id: row for row in connection.execute(_KNOWN.where(points.c.id.in_(latest)))}
    foreign = _foreign(connection, connector, latest.values())
    refused = tuple(
        fact.id for fact in latest.values()
        if {fact.plan, fact.group} & foreign or _is_anothers(known.get(fact.id), connector)
    )  # fmt: skip
    if refused:
        log.warning("points of another connector", connector=connector, points=[str(point) for point in refused])
    mine = [fact for fact in latest.values() if fact.id not in refused]
    taken = {fact.id for fact in mine if fact.id in known and known[fact.id].connector != connector}
    if taken:
        log.warning("points of a revoked connector are this one's now", connector=connector, count=len(taken))
    changed = [fact for fact in mine if fact.id in taken or _says_more(known.get(fact.id), fact)]
    said = {"connector": connector, "stated_at": now, "statement": statement}
    _insert(connection, [fact for fact in changed if fact.id not in known], said)
    _replace(connection, [fact for fact in changed if fact.id in known])
    _touch(connection, [fact.id for fact in mine if fact.id in known], said)
    _tell_damage(connection, now, connector, known, changed)
    newest.renew(connection, now, connector, {(fact.plan, fact.group) for fact in changed})
    return refused


def _next_statement(connection: Connection, connector: str) -> int:
    """Its number, which only grows, whatever clocks say; and the lock of `lock_connector`."""
    counted = update(nodes).where(nodes.c.id == connector).values(statement=nodes.c.statement + 1)
    number: int = connection.execute(counted.returning(nodes.c.statement)).scalar_one()
    return number


def _is_anothers(row: Row[Any] | None, connector: str) -> bool:
    return row is not None and row.connector != connector and not row.orphaned


def _foreign(connection: Connection, connector: str, facts: Iterable[PointFact]) -> set[UUID]:
    """Of their plans and groups, those that are known here as those of another connector, one that is enrolled."""
    told = list(facts)
    named = or_(groups.c.plan.in_({fact.plan for fact in told}), groups.c.id.in_({fact.group for fact in told}))
    asked = select(groups.c.plan, groups.c.id).join(plans, plans.c.id == groups.c.plan)
    asked = asked.join(nodes, nodes.c.id == plans.c.connector).where(nodes.c.revoked_at.is_(None))
    rows = connection.execute(asked.where(named, plans.c.connector != connector))
    return {found for row in rows for found in row}


def list_points(
    connection: Connection,
    *,
    plan: UUID | None = None,
    group: UUID | None = None,
    limit: int = 100,
    before: UUID | None = None,
) -> PointsReply:
    """Points that are there, newest first; `before` is the last one of the page before.

    Raises:
        NotFound: there is no such point to list those before it.
    """
    asked: Select[Any] = select(points).where(points.c.state != PointState.EXPIRED)
    for column, value in ((points.c.plan, plan), (points.c.group, group)):
        asked = asked if value is None else asked.where(column == value)
    if before is not None:
        last = point_row(connection, before)  # several may have its time: ids order those
        asked = asked.where(tuple_(points.c.source_time, points.c.id) < tuple_(last.source_time, last.id))
    size = max(1, min(limit, MAX_LISTED))
    rows = connection.execute(asked.order_by(points.c.source_time.desc(), points.c.id.desc()).limit(size + 1)).all()
    return PointsReply(points=tuple(view_of(row) for row in rows[:size]), more=len(rows) > size)


def require_point(connection: Connection, point: UUID, allowed: Iterable[PointState] = USABLE) -> Row[Any]:
    """The row of a point that something is to be done with.

    Raises:
        NotFound: no connector has stated it.
        StateConflict: it is in none of these states.
    """
    row = point_row(connection, point)
    if row.state not in set(allowed):
        raise StateConflict(noun="point", name=str(point), state=row.state, problem="this cannot be done with it")
    return row


def point_row(connection: Connection, point: UUID) -> Row[Any]:
    """One, whatever its state. Raises NotFound: no connector has stated it."""
    row = connection.execute(select(points).where(points.c.id == point)).one_or_none()
    if row is None:
        raise NotFound(noun="point", name=str(point))
    return row


def view_of(row: Row[Any]) -> PointView:
    """As operators see it."""
    return PointView(**{name: getattr(row, name) for name in PointView.model_fields})


def _says_more(row: Row[Any] | None, fact: PointFact) -> bool:
    """At an equal revision only this side can have changed something by itself, and the connector knows better."""
    if row is None or fact.revision > row.revision:
        return True
    return bool(fact.revision == row.revision and fact.state != row.state)


def _values(fact: PointFact) -> dict[str, Any]:
    return fact.model_dump() | {"rungs": list(fact.rungs)}


def _insert(connection: Connection, facts: list[PointFact], said: dict[str, Any]) -> None:
    if facts:
        dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
        # Another connector may state the same id just now: the first one has it.
        connection.execute(dialect.insert(points).on_conflict_do_nothing(), [_values(fact) | said for fact in facts])


def _replace(connection: Connection, facts: list[PointFact]) -> None:
    for fact in facts:
        changing = {"state", "preserved", "verified_at", "revision", "lacking", "consistency"}
        connection.execute(update(points).where(points.c.id == fact.id).values(**fact.model_dump(include=changing)))


def _touch(connection: Connection, stated: list[UUID], said: dict[str, Any]) -> None:
    if stated:
        connection.execute(update(points).where(points.c.id.in_(stated)).values(**said))


def _tell_damage(
    connection: Connection, now: datetime, connector: str, known: dict[UUID, Row[Any]], changed: list[PointFact]
) -> None:
    damaged = [fact for fact in changed if fact.state == PointState.DEGRADED]
    news = [fact for fact in damaged if fact.id not in known or known[fact.id].state != PointState.DEGRADED]
    rows = [{"plan": fact.plan, "group": fact.group, "node": connector} for fact in news]
    events.record_all(connection, now, EventKind.POINT_DAMAGED, rows)
