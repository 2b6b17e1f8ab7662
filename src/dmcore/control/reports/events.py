"""What operators should know of without asking: written in the transaction of what it tells of."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, insert, select

from dmcore.api.operators import Event, EventKind, EventsReply
from dmcore.control.store.tables import events

MAX_LISTED = 500


def record(
    connection: Connection,
    now: datetime,
    kind: EventKind,
    *,
    plan: UUID | None = None,
    group: UUID | None = None,
    node: str | None = None,
    job: UUID | None = None,
    value: int = 0,
) -> None:
    """One event. `value` is what its kind speaks of: seconds of lag, of skew, of a stall; epochs."""
    record_all(connection, now, kind, [{"plan": plan, "group": group, "node": node, "job": job, "value": value}])


def record_all(connection: Connection, now: datetime, kind: EventKind, rows: Iterable[dict[str, Any]]) -> None:
    """Many of a kind; each row has some of plan, group, node, job and value, and all rows the same ones."""
    values = [{"at": now, "kind": kind, "value": 0} | row | _positive(row) for row in rows]
    if values:
        connection.execute(insert(events), values)


def list_events(connection: Connection, *, limit: int = 100, before: int | None = None) -> EventsReply:
    """Newest first; `before` is the number of the last one of the page before."""
    asked = select(events) if before is None else select(events).where(events.c.number < before)
    size = max(1, min(limit, MAX_LISTED))
    rows = connection.execute(asked.order_by(events.c.number.desc()).limit(size + 1)).mappings().all()
    return EventsReply(events=tuple(Event(**row) for row in rows[:size]), more=len(rows) > size)


def _positive(row: dict[str, Any]) -> dict[str, int]:
    return {"value": max(row.get("value", 0), 0)}
