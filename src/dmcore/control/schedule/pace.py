"""When a group's next cycle starts, when its newest point is too old, and what it could keep up with."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, bindparam, select, update

from dmcore.api.operators import EventKind
from dmcore.control.reports import events
from dmcore.control.store.tables import IN_FLIGHT, groups, jobs, plans
from dmcore.model.jobs import JobKind, JobState

RECENT = 20
"""Completed cycles that the pace is judged by."""
FEW = 3
"""With fewer, nobody is told what could be kept up with."""
FIRST_REST_S, LONGEST_REST_S = 5.0, 900.0

# Made once: SQLAlchemy takes longer to put these together than PostgreSQL to answer them.
_OF_GROUP = jobs.c.group == bindparam("group")
_GONE = groups.c.deleted_at.is_not(None) | plans.c.deleted_at.is_not(None)
_GROUP_AND_PLAN = (
    select(
        groups.c.id, groups.c.plan, groups.c.created_at, groups.c.last_point_time, groups.c.failures, groups.c.breached,
        plans.c.rpo_s, plans.c.paused, _GONE.label("gone"),
    )
    .join(plans, plans.c.id == groups.c.plan)
    .where(groups.c.id == bindparam("group"))
    .with_for_update(of=groups)
)  # fmt: skip
_ENDED = (_OF_GROUP, jobs.c.ended_at.is_not(None))
_COMPLETED = select(jobs.c.due_at, jobs.c.ended_at, jobs.c.source_time).where(
    *_ENDED, jobs.c.kind == JobKind.CYCLE, jobs.c.state == JobState.COMPLETED
).order_by(jobs.c.ended_at.desc()).limit(RECENT)  # fmt: skip
_LAST_ENDED = select(jobs.c.state, jobs.c.ended_at).where(*_ENDED).order_by(jobs.c.ended_at.desc()).limit(1)
_FLYING = select(jobs.c.id).where(IN_FLIGHT, _OF_GROUP)
_RESCHEDULED = update(groups).where(groups.c.id == bindparam("changed"))


@dataclass(frozen=True)
class Pace:
    """What the recent cycles of a group took. None: there are none, or too few."""

    duration_s: float | None
    """p90 from due to ended."""
    achievable_rpo_s: float | None

    @classmethod
    def of(cls, durations_s: Sequence[float], tails_s: Sequence[float]) -> "Pace":
        """From durations, and the times from snapshot to end."""
        enough = min(len(durations_s), len(tails_s)) >= FEW
        return cls(p90(durations_s), achievable_rpo_s(durations_s, tails_s) if enough else None)


def p90(values: Sequence[float]) -> float | None:
    """The smallest of them that nine in ten do not exceed."""
    return sorted(values)[math.ceil(0.9 * len(values)) - 1] if values else None


def achievable_rpo_s(durations_s: Sequence[float], tails_s: Sequence[float]) -> float | None:
    """Cycle after cycle without a rest, a point is at most so old before the next one is there."""
    duration, tail = p90(durations_s), p90(tails_s)
    return None if duration is None or tail is None else duration + tail


def next_start(
    now: datetime, rpo_s: float, last_point_time: datetime | None, duration_s: float | None, earliest: datetime | None
) -> datetime:
    """So early that the new point is there before the last one is too old; without a point at once."""
    wanted = now if last_point_time is None else last_point_time + timedelta(seconds=rpo_s - (duration_s or 0.0))
    return wanted if earliest is None else max(wanted, earliest)


def rest_s(state: JobState, failures: int, rpo_s: float) -> float:
    """How long a group rests after a job's end: twice as long after each failure, at most an RPO."""
    longest = min(rpo_s, LONGEST_REST_S)
    if state == JobState.CANCELLED:  # somebody did not want it to run now
        return longest
    if state == JobState.FAILED:
        return min(FIRST_REST_S * 2.0 ** min(max(failures - 1, 0), 16), longest)
    return 0.0


def breach_time(rpo_s: float, created_at: datetime, last_point_time: datetime | None) -> datetime:
    """From then on the group has no point that is young enough."""
    return (last_point_time or created_at) + timedelta(seconds=rpo_s)


def believed(source_time: datetime, due_at: datetime | None, now: datetime) -> datetime:
    """A point's time, as far as this clock can know: a cycle's snapshot is not older than its job, nor in the future.

    So a source whose clock is off neither hides that its points are old nor runs without a rest.
    """
    return min(max(source_time, due_at or source_time), now)


def reschedule(connection: Connection, now: datetime, group_id: UUID) -> None:
    """Set a group's next start, its breach time and its pace from what is known now.

    To be called after the end of a job and after a new point; what a change of a plan means to all of its groups is in
    `replanning`. There is no next start while a job is in flight, or the plan is paused or deleted.
    """
    row = connection.execute(_GROUP_AND_PLAN, {"group": group_id}).one_or_none()
    if row is None:
        return
    pace = _pace(connection, group_id)
    values: dict[str, Any] = {
        "p90_s": pace.duration_s,
        "achievable_rpo_s": pace.achievable_rpo_s,
        "next_start": _next_start(connection, now, row, pace),
    }
    breach = breach_values(now, row)
    connection.execute(_RESCHEDULED, {"changed": group_id, **values, **breach})
    tell_kept(connection, now, [(row, breach)])


def _pace(connection: Connection, group: UUID) -> Pace:
    rows = connection.execute(_COMPLETED, {"group": group}).all()
    durations = [_seconds(row.due_at, row.ended_at) for row in rows]
    tails = [_seconds(believed(row.source_time, row.due_at, row.ended_at), row.ended_at)
             for row in rows if row.source_time is not None]  # fmt: skip
    return Pace.of(durations, tails)


def _next_start(connection: Connection, now: datetime, group: Row[Any], pace: Pace) -> datetime | None:
    if group.gone or group.paused or _in_flight(connection, group.id):
        return None
    last = connection.execute(_LAST_ENDED, {"group": group.id}).one_or_none()
    earliest = last and last.ended_at + timedelta(seconds=rest_s(last.state, group.failures, group.rpo_s))
    return next_start(now, group.rpo_s, group.last_point_time, pace.duration_s, earliest)


def _in_flight(connection: Connection, group: UUID) -> bool:
    return connection.execute(_FLYING, {"group": group}).first() is not None


def breach_values(now: datetime, group: Row[Any]) -> dict[str, Any]:
    """What a group's row should say: a breach is told of once, by the tick that finds its time past."""
    at = breach_time(group.rpo_s, group.created_at, group.last_point_time)
    if group.gone:
        return {"breach_at": None, "breached": False}
    if group.breached and (at <= now or group.last_point_time is None):
        return {"breach_at": None, "breached": True}
    return {"breach_at": at, "breached": False}


def tell_kept(connection: Connection, now: datetime, told: Sequence[tuple[Row[Any], dict[str, Any]]]) -> None:
    """And once that it is over: of groups as they were, and what their rows say now."""
    kept = [
        {"plan": group.plan, "group": group.id, "value": int(_seconds(group.last_point_time, now))}
        for group, values in told
        if group.breached and not group.gone and not values["breached"]
    ]
    events.record_all(connection, now, EventKind.RPO_KEPT, kept)


def _seconds(begin: datetime, end: datetime) -> float:
    return max((end - begin).total_seconds(), 0.0)
