"""Plans as operators see them."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, select

from dmcore.api.jobs import Codec
from dmcore.api.limits import Limit
from dmcore.api.plans import GroupMode, GroupView, PlansReply, PlanView, Tier
from dmcore.control.errors import NotFound
from dmcore.control.reports.status import group_views
from dmcore.control.store.tables import plans


def view(connection: Connection, now: datetime, plan: UUID) -> PlanView:
    """One.

    Raises:
        NotFound: there is no such plan (any more).
    """
    found = list_plans(connection, now, plan).plans
    if not found:
        raise NotFound(noun="plan", name=str(plan))
    return found[0]


def list_plans(connection: Connection, now: datetime, plan: UUID | None = None) -> PlansReply:
    """All, by name, or the one, if it is there."""
    asked = select(plans).where(plans.c.deleted_at.is_(None)).order_by(plans.c.name)
    rows = connection.execute(asked if plan is None else asked.where(plans.c.id == plan)).all()
    groups = group_views(connection, now, [row.id for row in rows])
    return PlansReply(plans=tuple(_view(row, groups[row.id]) for row in rows))


def _view(row: Row[Any], groups: tuple[GroupView, ...]) -> PlanView:
    """Its machines in the order of its groups."""
    return PlanView(
        id=row.id, name=row.name, source=row.source, target=row.target, rpo_s=row.rpo_s, site=row.site,
        machines=tuple(machine for group in groups for machine in group.machines), connector=row.connector,
        codec=Codec(row.codec), group_mode=GroupMode(row.group_mode),
        retain=tuple(Tier.model_validate(tier) for tier in row.retain), limit=Limit.model_validate(row.limit),
        paused=row.paused, created_at=row.created_at, groups=groups,
    )  # fmt: skip
