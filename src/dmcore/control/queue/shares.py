"""What a site's bandwidth limit leaves to each of its appliances."""

from datetime import datetime, timedelta

from sqlalchemy import Connection, bindparam, func, select

from dmcore.api.limits import MIN_RATE_BYTES_S, Limit
from dmcore.control.store.tables import nodes, sites
from dmcore.model.enums import Role

LIVE_S = 90
"""A node that has not asked for this long is not counted on: three times the longest poll."""
_LIVING = (nodes.c.site == bindparam("site"), nodes.c.role == Role.APPLIANCE, nodes.c.revoked_at.is_(None))
LIVE_APPLIANCES = select(func.count()).select_from(nodes).where(*_LIVING, nodes.c.seen_at > bindparam("live_since"))
_SHARE = select(sites.c.limit, LIVE_APPLIANCES.scalar_subquery().label("live")).where(sites.c.name == bindparam("site"))


def is_live(now: datetime, seen_at: datetime | None) -> bool:
    """Whether a node was heard of lately."""
    return seen_at is not None and now - seen_at < timedelta(seconds=LIVE_S)


def site_share(connection: Connection, now: datetime, site: str) -> Limit:
    """The site's limit, divided by its live appliances."""
    row = connection.execute(_SHARE, {"site": site, "live_since": live_since(now)}).one()
    return divided(Limit.model_validate(row.limit), max(row.live, 1))


def live_since(now: datetime) -> datetime:
    """Who was seen after this is live."""
    return now - timedelta(seconds=LIVE_S)


def divided(limit: Limit, parts: int) -> Limit:
    """One of so many equal parts of a limit; what has no limit keeps none."""
    windows = tuple(window.model_copy(update={"bytes_s": _part(window.bytes_s, parts)}) for window in limit.windows)
    return limit.model_copy(update={"bytes_s": _part(limit.bytes_s, parts), "windows": windows})


def _part(bytes_s: int | None, parts: int) -> int | None:
    return None if bytes_s is None else max(bytes_s // parts, MIN_RATE_BYTES_S)
