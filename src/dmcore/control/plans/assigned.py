"""What an appliance may run while it cannot ask: the groups of the plans of its site whose source it has."""

import hashlib
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, bindparam, func, select

from dmcore.api.limits import NO_LIMIT, Limit
from dmcore.api.nodes import AssignedGroup, AssignedPlans
from dmcore.control.queue.shares import LIVE_APPLIANCES, live_since, site_share
from dmcore.control.store.tables import groups, plans, sites
from dmcore.model.enums import Role

NOTHING = AssignedPlans(version=0, site_limit=NO_LIMIT, groups=())
"""A connector's."""
VERSION_BITS = 52
_STATE = select(
    sites.c.limit, LIVE_APPLIANCES.scalar_subquery(), func.count(plans.c.id), func.sum(plans.c.version),
    func.max(plans.c.created_at),
).outerjoin(plans, and_(plans.c.site == sites.c.name, plans.c.source.in_(bindparam("sources", expanding=True)))).where(
    sites.c.name == bindparam("site")
).group_by(sites.c.name)  # fmt: skip
"""Plans that were deleted count, too: whatever happens to one makes the count or the sum of versions grow."""


def assigned_plans(connection: Connection, now: datetime, node: Row[Any], sources: Iterable[str]) -> AssignedPlans:
    """All that a node of the table `nodes` may run, with the sources that it told of."""
    if node.role != Role.APPLIANCE:
        return NOTHING
    asked = select(groups, plans.c.rpo_s, plans.c.paused, plans.c.limit).join(plans, plans.c.id == groups.c.plan)
    mine = asked.where(*_of(node, sources), groups.c.deleted_at.is_(None)).order_by(groups.c.id)
    version = assigned_version(connection, now, node, sources)  # first: what changes meanwhile is asked for again
    found = tuple(_group(row) for row in connection.execute(mine))
    return AssignedPlans(version=version, site_limit=site_share(connection, now, node.site), groups=found)


def assigned_version(connection: Connection, now: datetime, node: Row[Any], sources: Iterable[str]) -> int:
    """Another number for whatever is different; never 0, which means none. Every poll asks: it reads no group."""
    if node.role != Role.APPLIANCE:
        return NOTHING.version
    asked = {"site": node.site, "sources": list(sources), "live_since": live_since(now)}
    digest = hashlib.sha256(repr(connection.execute(_STATE, asked).one()).encode()).digest()
    return int.from_bytes(digest) % (1 << VERSION_BITS) + 1


def _of(node: Row[Any], sources: Iterable[str]) -> tuple[ColumnElement[bool], ...]:
    return plans.c.site == node.site, plans.c.source.in_(list(sources)), plans.c.deleted_at.is_(None)


def _group(row: Row[Any]) -> AssignedGroup:
    return AssignedGroup(
        plan=row.plan, group=row.id, machines=tuple(row.machines), rpo_s=row.rpo_s, paused=row.paused,
        limit=Limit.model_validate(row.limit),
    )  # fmt: skip
