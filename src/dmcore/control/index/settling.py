"""What the end of a connector's job means to the index. Its facts come by themselves, and overrule all of this."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, bindparam, select, update

from dmcore.api.jobs import JobResult, Outcome, PointOutcome, PointVerdict
from dmcore.control.index import newest
from dmcore.control.store.tables import groups, nodes, points
from dmcore.model.jobs import JobKind
from dmcore.model.points import PointState

ASK_AGAIN_S, ASK_LATEST_S = 3600, 30 * 86_400
"""After a connector kept a point until some time: not sooner and not later, whatever it says."""
ASK_DAILY_S = 86_400
"""After it kept one until nobody knows when: a flag, or too few newer ones."""
BUSY_AGAIN_S = 300
"""After a connector was asked to let a point go that it recovers or verifies just now."""


def settle(connection: Connection, now: datetime, job: Row[Any], outcome: Outcome) -> None:
    """Take what a connector's job came to into the index. Only points that the job was about change."""
    lock_connector(connection, job.connector)
    if job.kind == JobKind.INDEX:
        if outcome.result == JobResult.COMPLETED and job.stated_before is not None:  # an older version's lease has none
            _expire(connection, now, job.connector, [points.c.statement <= job.stated_before])
        return
    asked = {UUID(point) for point in job.arguments.get("points", ())}
    said = {verdict: [each.point for each in outcome.points if each.verdict == verdict and each.point in asked]
            for verdict in PointVerdict}  # fmt: skip
    _expire(connection, now, job.connector, [points.c.id.in_(said[PointVerdict.UNKNOWN])])
    if job.kind == JobKind.EXPIRE:
        _expire(connection, now, job.connector, [points.c.id.in_(said[PointVerdict.DONE])])
        kept = [each for each in outcome.points if each.verdict == PointVerdict.KEPT and each.point in asked]
        _ask_later(connection, now, job.connector, kept)
        _set(connection, job.connector, said[PointVerdict.BUSY], expire_after=now + timedelta(seconds=BUSY_AGAIN_S))
    elif job.kind == JobKind.VERIFY:
        if job.arguments.get("sample_percent") is None:
            _set(connection, job.connector, said[PointVerdict.DONE], verified_at=now)
        else:
            _note_sample(connection, now, job.connector, said[PointVerdict.DONE])
    elif job.kind == JobKind.PRESERVE:
        _set(connection, job.connector, said[PointVerdict.DONE], preserved=bool(job.arguments.get("preserved")))


def lock_connector(connection: Connection, connector: str) -> None:
    """One word of a connector about its points at a time, until the transaction ends."""
    connection.execute(select(nodes.c.id).where(nodes.c.id == connector).with_for_update(key_share=True))


def _set(connection: Connection, connector: str, chosen: list[Any], **values: Any) -> None:
    if chosen:
        mine = (points.c.connector == connector, points.c.id.in_(chosen))
        connection.execute(update(points).where(*mine).values(**values))


def _note_sample(connection: Connection, now: datetime, connector: str, chosen: list[Any]) -> None:
    """A sample was found good: that verifies no point, and its group is looked after."""
    mine = select(points.c.group).where(points.c.connector == connector, points.c.id.in_(chosen))
    connection.execute(update(groups).where(groups.c.id.in_(mine)).values(sampled_at=now))


def _ask_later(connection: Connection, now: datetime, connector: str, kept: list[PointOutcome]) -> None:
    """When their connector lets them go, as it says; its clock, or its word, may be wrong."""
    soonest, latest = now + timedelta(seconds=ASK_AGAIN_S), now + timedelta(seconds=ASK_LATEST_S)
    unknown = now + timedelta(seconds=ASK_DAILY_S)
    rows = [
        {"kept": each.point, "again": min(max(each.kept_until, soonest), latest) if each.kept_until else unknown}
        for each in kept
    ]
    if rows:
        mine = update(points).where(points.c.connector == connector, points.c.id == bindparam("kept"))
        connection.execute(mine.values(expire_after=bindparam("again")), rows)


def _expire(connection: Connection, now: datetime, connector: str, chosen: Iterable[ColumnElement[bool]]) -> None:
    mine = (points.c.connector == connector, points.c.state != PointState.EXPIRED, *chosen)
    gone = update(points).where(*mine).values(state=PointState.EXPIRED).returning(points.c.plan, points.c.group)
    newest.renew(connection, now, connector, {(plan, group) for plan, group in connection.execute(gone).all()})
