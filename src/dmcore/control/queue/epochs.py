"""A group's epoch only grows: also when the database was restored from a copy that is behind its connector."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, select, update

from dmcore.api.operators import EventKind
from dmcore.control.reports import events
from dmcore.control.store.tables import groups

MAX_EPOCH = 1 << 48
"""No group gets there by leases; a node that says it has is not believed."""


def raise_epoch(connection: Connection, now: datetime, group: UUID, floor: int, *, node: str) -> None:
    """Go on above `floor`, if a connector has seen that epoch."""
    if floor >= MAX_EPOCH:
        return
    behind = select(groups).where(groups.c.id == group, groups.c.epoch < floor).with_for_update()
    row = connection.execute(behind).one_or_none()
    if row is not None:
        connection.execute(update(groups).where(groups.c.id == group).values(epoch=floor))
        value = floor - row.epoch
        events.record(connection, now, EventKind.EPOCH_BEHIND, plan=row.plan, group=group, node=node, value=value)
