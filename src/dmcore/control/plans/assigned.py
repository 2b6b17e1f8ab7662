"""What an appliance may run while it cannot ask: the groups of the plans of its site whose source it has."""

import hashlib
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, select

from dmcore.api.limits import NO_LIMIT, Limit
from dmcore.api.nodes import AssignedGroup, AssignedPlans
from dmcore.control.queue.shares import site_share
from dmcore.control.store.tables import groups, plans
from dmcore.model.enums import Role

NOTHING = AssignedPlans(version=0, site_limit=NO_LIMIT, groups=())
"""A connector's."""
VERSION_BITS = 52


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
    mine = select(plans.c.id, plans.c.version).where(*_of(node, sources)).order_by(plans.c.id)
    told = [site_share(connection, now, node.site).model_dump_json()]
    told += [f"{plan.id} {plan.version}" for plan in connection.execute(mine)]
    digest = hashlib.sha256("\n".join(told).encode()).digest()
    return int.from_bytes(digest) % (1 << VERSION_BITS) + 1


def _of(node: Row[Any], sources: Iterable[str]) -> tuple[ColumnElement[bool], ...]:
    return plans.c.site == node.site, plans.c.source.in_(list(sources)), plans.c.deleted_at.is_(None)


def _group(row: Row[Any]) -> AssignedGroup:
    return AssignedGroup(
        plan=row.plan, group=row.id, machines=tuple(row.machines), rpo_s=row.rpo_s, paused=row.paused,
        limit=Limit.model_validate(row.limit),
    )  # fmt: skip
