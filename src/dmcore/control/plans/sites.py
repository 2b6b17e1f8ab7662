"""Sites: where nodes live, and what they may send together."""

from datetime import datetime

from sqlalchemy import Connection, case, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from dmcore.api.limits import Limit
from dmcore.api.operators import Action
from dmcore.api.plans import SiteEdit, SiteSpec, SitesReply, SiteView
from dmcore.control.access import audit
from dmcore.control.errors import NameTaken, NotFound
from dmcore.control.store.tables import nodes, sites
from dmcore.model.enums import Role


def create(connection: Connection, now: datetime, spec: SiteSpec, actor: str) -> SiteView:
    """A new site.

    Raises:
        NameTaken: there is one of this name.
    """
    limit = spec.limit.model_dump(mode="json")
    try:
        connection.execute(insert(sites).values(name=spec.name, limit=limit, created_at=now))
    except IntegrityError as taken:
        raise NameTaken(noun="site", name=spec.name) from taken
    audit.append(connection, now, actor, Action.SITE_CREATED, spec.name)
    return SiteView(name=spec.name, limit=spec.limit, appliances=0, connectors=0)


def edit(connection: Connection, now: datetime, name: str, change: SiteEdit, actor: str) -> SiteView:
    """Another limit; its appliances hear of it with their next heartbeats.

    Raises:
        NotFound: no such site.
    """
    changed = update(sites).where(sites.c.name == name).values(limit=change.limit.model_dump(mode="json"))
    if not connection.execute(changed).rowcount:
        raise NotFound(noun="site", name=name)
    audit.append(connection, now, actor, Action.SITE_EDITED, name)
    return _views(connection, name).sites[0]


def list_sites(connection: Connection) -> SitesReply:
    """All, by name."""
    return _views(connection)


def _views(connection: Connection, name: str | None = None) -> SitesReply:
    """With the nodes that are enrolled there and not revoked."""
    counts = [func.count(case((nodes.c.role == role, 1))) for role in (Role.APPLIANCE, Role.CONNECTOR)]
    there = sites.outerjoin(nodes, (nodes.c.site == sites.c.name) & nodes.c.revoked_at.is_(None))
    asked = select(sites.c.name, *counts).select_from(there).group_by(sites.c.name).order_by(sites.c.name)
    numbers = {row[0]: row[1:] for row in connection.execute(asked)}
    limits = select(sites).where(sites.c.name == name) if name else select(sites)
    return SitesReply(
        sites=tuple(
            SiteView(
                name=row.name, limit=Limit.model_validate(row.limit),
                appliances=numbers[row.name][0], connectors=numbers[row.name][1],
            )
            for row in connection.execute(limits.order_by(sites.c.name))
        )
    )  # fmt: skip
