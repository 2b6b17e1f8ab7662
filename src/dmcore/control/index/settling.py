"""What the end of a connector's job means to the index. Its facts come by themselves, and overrule all of this."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, select, update

from dmcore.api.jobs import JobResult, Outcome, PointVerdict
from dmcore.control.index import newest
from dmcore.control.index.retention import ASK_AGAIN_S
from dmcore.control.store.tables import nodes, points
from dmcore.model.jobs import JobKind
from dmcore.model.points import PointState

BUSY_AGAIN_S = 300
"""After a connector was asked to let a point go that it recovers or verifies just now."""


def settle(connection: Connection, now: datetime, job: Row[Any], outcome: Outcome) -> None:
    """Take what a connector's job came to into the index. Only points that the job was about change."""
    lock_connector(connection, job.connector)
    if job.kind == JobKind.INDEX:
        if outcome.result == JobResult.COMPLETED:
            _expire(connection, now, job.connector, [points.c.stated_at < job.leased_at])
        return
    asked = {UUID(point) for point in job.arguments.get("points", ())}
    said = {verdict: [each.point for each in outcome.points if each.verdict == verdict and each.point in asked]
            for verdict in PointVerdict}  # fmt: skip
    _expire(connection, now, job.connector, [points.c.id.in_(said[PointVerdict.UNKNOWN])])
    if job.kind == JobKind.EXPIRE:
        _expire(connection, now, job.connector, [points.c.id.in_(said[PointVerdict.DONE])])
        _set(connection, job.connector, said[PointVerdict.KEPT], expire_after=now + timedelta(seconds=ASK_AGAIN_S))
        _set(connection, job.connector, said[PointVerdict.BUSY], expire_after=now + timedelta(seconds=BUSY_AGAIN_S))
    elif job.kind == JobKind.VERIFY:
        _set(connection, job.connector, said[PointVerdict.DONE], verified_at=now)
    elif job.kind == JobKind.PRESERVE:
        _set(connection, job.connector, said[PointVerdict.DONE], preserved=bool(job.arguments.get("preserved")))


def lock_connector(connection: Connection, connector: str) -> None:
    """One word of a connector about its points at a time, until the transaction ends."""
    connection.execute(select(nodes.c.id).where(nodes.c.id == connector).with_for_update(key_share=True))


def _set(connection: Connection, connector: str, chosen: list[Any], **values: Any) -> None:
    if chosen:
        mine = (points.c.connector == connector, points.c.id.in_(chosen))
        connection.execute(update(points).where(*mine).values(**values))


def _expire(connection: Connection, now: datetime, connector: str, chosen: Iterable[ColumnElement[bool]]) -> None:
    mine = (points.c.connector == connector, points.c.state != PointState.EXPIRED, *chosen)
    gone = update(points).where(*mine).values(state=PointState.EXPIRED).returning(points.c.plan, points.c.group)
    newest.renew(connection, now, connector, {(plan, group) for plan, group in connection.execute(gone).all()})
