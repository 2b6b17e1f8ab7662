"""Which points a plan's tiers let go, and asking their connectors to. A connector's own retention overrules."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import CompoundSelect, Connection, bindparam, func, select, update

from dmcore.api.jobs import MAX_EXPIRING
from dmcore.api.plans import Tier
from dmcore.control.queue.queue import enqueue_work
from dmcore.control.schedule.passing import one_by_one, put_off_group
from dmcore.control.store.tables import HELD, NOT_EXPIRED, QUEUED_WORK, groups, jobs, nodes, plans, points
from dmcore.model.jobs import JobKind
from dmcore.model.points import GOOD, PointState

LOOK_BATCH = 50
"""Groups whose points one tick looks through."""
ROUND_S = 60
"""New points are looked at on the round minute, so that a connector gets one job for many."""
LOOK_AGAIN_S = 3600
"""A group's points are looked through after so long, also if it gets no new one."""
CANDIDATES = frozenset({PointState.AVAILABLE, PointState.DEGRADED})
"""Tiers choose among these, a good one before a damaged one."""


@dataclass(frozen=True)
class Held:
    """A point that its connector has, as far as is known."""

    id: UUID
    source_time: datetime
    state: PointState = PointState.AVAILABLE
    preserved: bool = False
    ask_after: datetime | None = None
    """The connector kept it lately: not to be asked of before this time."""


def to_expire(held: Iterable[Held], tiers: Sequence[Tier], now: datetime) -> list[Held]:
    """Those points of one group that its connector should be asked to let go, oldest first.

    Each tier keeps the oldest point of every period that has one. Never let go: the newest good point, what is
    preserved, and what is still being made. A failed point holds nothing, and goes.
    """
    known = sorted(held, key=lambda point: (point.source_time, point.id.bytes))
    candidates = [point for point in known if point.state in CANDIDATES]
    kept = {point.id for tier in tiers for point in _kept_by(tier, candidates, now)}
    kept |= {point.id for point in [each for each in candidates if each.state == GOOD][-1:]}
    kept |= {point.id for point in known if point.preserved}
    going = [point for point in known if point.state in CANDIDATES | {PointState.FAILED} and point.id not in kept]
    return [point for point in going if point.ask_after is None or point.ask_after <= now]


def _kept_by(tier: Tier, candidates: list[Held], now: datetime) -> Iterable[Held]:
    periods: dict[int, Held] = {}
    for point in candidates:
        if now - point.source_time < timedelta(seconds=tier.for_s):
            period = int(point.source_time.timestamp()) // tier.every_s
            chosen = periods.setdefault(period, point)
            if chosen.state != GOOD and point.state == GOOD:
                periods[period] = point
    return periods.values()


def next_round(now: datetime) -> datetime:
    """When the points of a group that got a new one are looked through."""
    return now + timedelta(seconds=ROUND_S - now.timestamp() % ROUND_S)


def ask_expiry(connection: Connection, now: datetime) -> int:
    """Ask connectors to let points go, by the tiers of their plans. Returns how many points.

    A connector has one such job at a time, so that a slow one is not drowned in them. Nothing of a paused plan is
    asked: no new points come that could take the old ones' place. Of a deleted plan neither: that is for its
    connector's operator. A connector that was revoked is not asked.
    """
    due = _groups_due(connection, now)
    return one_by_one(connection, due, partial(_ask, connection, now), put_off_group(connection, now, "retain_at"))


def _ask(connection: Connection, now: datetime, ids: Sequence[UUID]) -> int:
    told = select(groups.c.id, plans.c.connector, plans.c.retain).join(plans, plans.c.id == groups.c.plan)
    due = connection.execute(told.where(groups.c.id.in_(ids)).order_by(groups.c.retain_at, groups.c.id)).all()
    idle = _lock(connection, {row.connector for row in due})
    held = _points_of(connection, now, [row.id for row in due if row.connector in idle])
    asked: dict[str, list[UUID]] = defaultdict(list)
    looked: list[UUID] = []
    for group in due:
        if group.connector not in idle or len(asked[group.connector]) == MAX_EXPIRING:
            continue  # looked through when the connector is done with its job
        tiers = [Tier.model_validate(tier) for tier in group.retain]
        going = to_expire(held[group.id], tiers, now)
        room = MAX_EXPIRING - len(asked[group.connector])
        asked[group.connector] += [point.id for point in going[:room]]
        if len(going) <= room:
            looked.append(group.id)
    _look_again(connection, now, looked)
    for connector, chosen in asked.items():
        if chosen:
            enqueue_work(connection, now, connector, JobKind.EXPIRE, points=chosen)
    return sum(map(len, asked.values()))


def _groups_due(connection: Connection, now: datetime) -> Sequence[UUID]:
    """In this replica's hand. No more of them is read: it may be unreadable."""
    living = (groups.c.deleted_at.is_(None), plans.c.deleted_at.is_(None), plans.c.paused.is_(False))
    due = select(groups.c.id).join(plans, plans.c.id == groups.c.plan)
    due = due.join(nodes, nodes.c.id == plans.c.connector).where(nodes.c.revoked_at.is_(None))
    due = due.where(groups.c.retain_at <= now, *living, plans.c.connector.not_in(_asked_already()))
    due = due.order_by(groups.c.retain_at, plans.c.connector, groups.c.id).limit(LOOK_BATCH)
    return connection.execute(due.with_for_update(of=groups, skip_locked=True)).scalars().all()


def _lock(connection: Connection, connectors: set[str]) -> set[str]:
    """Those that no other replica asks now, and that it did not ask a moment ago."""
    mine = select(nodes.c.id).where(nodes.c.id.in_(connectors)).with_for_update(key_share=True, skip_locked=True)
    locked = set(connection.execute(mine).scalars())
    return locked - set(connection.execute(_asked_already()).scalars())


def _points_of(connection: Connection, now: datetime, group_ids: list[UUID]) -> dict[UUID, list[Held]]:
    """Without those that may not be asked of now: connectors keep hundreds of points for a day that no tier wants.

    Nor those that an operator has a job about: one that is to be recovered or preserved must not be gone before.
    """
    may_be = points.c.expire_after.is_(None) | (points.c.expire_after <= now)
    told = (points.c.id, points.c.source_time, points.c.state, points.c.preserved, points.c.expire_after)
    asked = select(points.c.group, *told).join(groups, groups.c.id == points.c.group)
    asked = asked.join(plans, (plans.c.id == groups.c.plan) & (plans.c.connector == points.c.connector))
    asked = asked.where(points.c.group.in_(group_ids), NOT_EXPIRED, may_be, points.c.id.not_in(_in_use()))
    held: dict[UUID, list[Held]] = defaultdict(list)
    for group, *values in connection.execute(asked):
        held[group].append(Held(*values))
    return held


def _look_again(connection: Connection, now: datetime, looked: list[UUID]) -> None:
    """In an hour, or when a point that its connector kept may be asked of again."""
    kept = select(points.c.group, func.min(points.c.expire_after).label("at")).where(
        points.c.group.in_(looked), NOT_EXPIRED
    )
    kept = kept.where(points.c.expire_after > now).group_by(points.c.group)
    sooner = {row.group: row.at for row in connection.execute(kept)} if looked else {}
    hour = now + timedelta(seconds=LOOK_AGAIN_S)
    rows = [{"looked": group, "at": min(sooner.get(group, hour), hour)} for group in looked]
    if rows:
        again = update(groups).where(groups.c.id == bindparam("looked")).values(retain_at=bindparam("at"))
        connection.execute(again, rows)


def _asked_already() -> CompoundSelect[Any]:
    """Connectors that have a job to expire points; apart, so that each half has its index."""
    asked = select(jobs.c.connector).where(jobs.c.kind == JobKind.EXPIRE)
    return asked.where(QUEUED_WORK).union_all(asked.where(HELD))


def _in_use() -> CompoundSelect[Any]:
    """Points that a job is about; apart, so that each half has its index."""
    about = select(jobs.c.point).where(jobs.c.point.is_not(None))
    return about.where(QUEUED_WORK).union_all(about.where(HELD))
