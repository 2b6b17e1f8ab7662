"""What a site's bandwidth limit leaves to each of its appliances."""

from datetime import datetime, timedelta

from sqlalchemy import Connection, func, select

from dmcore.api.limits import MIN_RATE_BYTES_S, Limit
from dmcore.control.store.tables import nodes, sites
from dmcore.model.enums import Role

LIVE_S = 90
"""A node that has not asked for this long is not counted on: three times the longest poll."""


def is_live(now: datetime, seen_at: datetime | None) -> bool:
    """Whether a node was heard of lately."""
    return seen_at is not None and now - seen_at < timedelta(seconds=LIVE_S)


def site_share(connection: Connection, now: datetime, site: str) -> Limit:
    """The site's limit, divided by its live appliances."""
    limit = Limit.model_validate(connection.execute(select(sites.c.limit).where(sites.c.name == site)).scalar_one())
    living = (nodes.c.site == site, nodes.c.role == Role.APPLIANCE, nodes.c.revoked_at.is_(None))
    lately = nodes.c.seen_at > now - timedelta(seconds=LIVE_S)
    live = connection.execute(select(func.count()).select_from(nodes).where(*living, lately)).scalar_one()
    return divided(limit, max(live, 1))


def divided(limit: Limit, parts: int) -> Limit:
    """One of so many equal parts of a limit; what has no limit keeps none."""
    windows = tuple(window.model_copy(update={"bytes_s": _part(window.bytes_s, parts)}) for window in limit.windows)
    return limit.model_copy(update={"bytes_s": _part(limit.bytes_s, parts), "windows": windows})


def _part(bytes_s: int | None, parts: int) -> int | None:
    return None if bytes_s is None else max(bytes_s // parts, MIN_RATE_BYTES_S)
