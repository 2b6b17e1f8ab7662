"""Plans as operators see them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, select

from dmcore.api.jobs import Codec
from dmcore.api.limits import Limit
from dmcore.api.plans import GroupMode, GroupView, PlansReply, PlanView, Tier, Verify
from dmcore.control.errors import NotFound
from dmcore.control.reports.status import group_views, page_of_plans
from dmcore.control.store.tables import plans

MAX_LISTED = 100
"""With all of their groups, of which each may have some hundreds."""


def view(connection: Connection, now: datetime, plan: UUID) -> PlanView:
    """One.

    Raises:
        NotFound: there is no such plan (any more).
    """
    found = connection.execute(select(plans).where(plans.c.id == plan, plans.c.deleted_at.is_(None))).all()
    if not found:
        raise NotFound(noun="plan", name=str(plan))
    return _views(connection, now, found)[0]


def list_plans(
    connection: Connection, now: datetime, *, limit: int = MAX_LISTED, after: UUID | None = None
) -> PlansReply:
    """By name; `after` is the last one of the page before.

    Raises:
        NotFound: there never was such a plan to list those after it.
    """
    size = max(1, min(limit, MAX_LISTED))
    rows = connection.execute(page_of_plans(connection, select(plans), after).limit(size + 1)).all()
    return PlansReply(plans=_views(connection, now, rows[:size]), more=len(rows) > size)


def _views(connection: Connection, now: datetime, rows: Sequence[Row[Any]]) -> tuple[PlanView, ...]:
    groups = group_views(connection, now, [row.id for row in rows])
    return tuple(_view(row, groups[row.id]) for row in rows)


def _view(row: Row[Any], groups: tuple[GroupView, ...]) -> PlanView:
    """Its machines in the order of its groups."""
    return PlanView(
        id=row.id, name=row.name, source=row.source, target=row.target, rpo_s=row.rpo_s, site=row.site,
        machines=tuple(machine for group in groups for machine in group.machines), connector=row.connector,
        codec=Codec(row.codec), group_mode=GroupMode(row.group_mode),
        retain=tuple(Tier.model_validate(tier) for tier in row.retain), limit=Limit.model_validate(row.limit),
        verify=Verify(percent_per_day=row.verify_percent), paused=row.paused, created_at=row.created_at, groups=groups,
    )  # fmt: skip
