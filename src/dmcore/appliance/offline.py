"""When a group is run without a control plane, and as what. No clock, no files, no threads: times are passed in."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from typing import Annotated

from pydantic import Field

from dmcore.api.base import Count, Duration, Message, Moment
from dmcore.api.jobs import Job, JobResult, Outcome
from dmcore.api.nodes import AssignedGroup
from dmcore.appliance.duty import is_final
from dmcore.appliance.reporting import FENCED
from dmcore.model.ids import CycleId, source_snapshot_name, successor_cycle

DURATIONS = 20
"""How many of the last cycles say how long the next one will take."""
APART = 0.5
"""Starts of a group are never closer than this part of its RPO, whatever a clock says."""


class GroupRecord(Message):
    """What is kept of a group: enough to go on with it after a restart."""

    job: Job
    """As it was leased: the ticket's own cycle."""
    successor: Count = 0
    """The last cycle that was begun: 0 is the ticket's own."""
    again: bool = True
    """It has no recovery point yet, and another attempt may make it."""
    presented: bool = False
    """The connector has taken the lease's epoch: only then does it take successors."""
    fenced: bool = False
    """The connector knows a later lease, or does not take this one's ticket: another attempt is in vain."""
    started_at: Moment
    point_time: Moment | None = None
    """When the newest point's snapshot was made, as far as this node knows."""
    ended_at: Moment | None = None
    seconds: Annotated[tuple[Duration, ...], Field(max_length=DURATIONS)] = ()
    """Of the last cycles that made a point."""
    snapshot_left: bool = True
    """The last attempt's source snapshot may still be there."""

    @property
    def cycle(self) -> CycleId:
        """The last one that was begun."""
        return successor_cycle(self.job.cycle, self.successor)

    @property
    def snapshot_name(self) -> str:
        """Its source snapshot's."""
        return source_snapshot_name(self.job.group, self.cycle)


@dataclass(frozen=True)
class Moments:
    """What the clocks say: the wall's, and seconds since the group's last start by one that never jumps."""

    now: datetime
    since_start_s: float


def leased(job: Job, now: datetime, before: GroupRecord | None) -> GroupRecord:
    """The record of a group when a job of it is taken. How its cycles went so far is still known."""
    if before is None:
        return GroupRecord(job=job, started_at=now)
    return GroupRecord(job=job, started_at=now, point_time=before.point_time, seconds=before.seconds)


def ended(record: GroupRecord, now: datetime, outcome: Outcome, seconds: float, *, begun: bool) -> GroupRecord:
    """The record when an attempt is over."""
    made = outcome.result is JobResult.COMPLETED
    times = (*record.seconds, seconds)[-DURATIONS:] if made else record.seconds
    return record.model_copy(
        update={
            "again": not is_final(outcome),
            "presented": record.presented or begun or made,
            "fenced": outcome.problem is not None and _is_fenced(outcome.problem.code),
            "ended_at": now,
            "point_time": outcome.source_time or record.point_time if made else record.point_time,
            "seconds": times,
            "snapshot_left": not made,
        }
    )


def overtakes(record: GroupRecord | None, job: Job) -> bool:
    """Whether this node has gone on from the job's very cycle to later ones: it is too late for that one."""
    return record is not None and record.successor > 0 and record.job.cycle == job.cycle


def next_start(record: GroupRecord, rpo_s: float) -> datetime:
    """When the next cycle should begin, so that its point is there before the newest one is too old."""
    earliest = record.ended_at or record.started_at
    if record.point_time is None:
        return earliest
    ahead_s = rpo_s - _ninth_decile(record.seconds)
    return max(record.point_time + timedelta(seconds=ahead_s), earliest)


def is_due(record: GroupRecord, group: AssignedGroup, at: Moments, grace_s: float) -> bool:
    """Whether this node should begin a cycle by itself.

    A clock that was set back must not keep a group waiting, one that was set forward must not make it run for ever.
    """
    if group.paused or record.fenced or at.since_start_s < group.rpo_s * APART:
        return False
    late = at.now >= next_start(record, group.rpo_s) + timedelta(seconds=grace_s)
    return late or at.since_start_s >= group.rpo_s + grace_s


def following(record: GroupRecord, group: AssignedGroup, now: datetime) -> GroupRecord:
    """The record with the cycle that is begun next: the same once more, or the next successor."""
    same = record.again or not record.presented
    number = record.successor if same else record.successor + 1
    job = record.job if same else record.job.model_copy(update={"machines": group.machines or record.job.machines})
    changes = {"job": job, "successor": number, "again": True, "started_at": now, "snapshot_left": True}
    return record.model_copy(update=changes)


def job_of(record: GroupRecord) -> Job:
    """What to run: under the lease's ticket and epoch, with the cycle's own id and number."""
    if not record.successor:
        return record.job
    changes = {"cycle": record.cycle, "successor": record.successor, "resync": None, "against_source": False}
    return record.job.model_copy(update=changes)


def since_start_s(record: GroupRecord, now: datetime) -> float:
    """How long ago the last start was, by the wall clock: all there is to go by after a restart."""
    return max((now - record.started_at).total_seconds(), 0.0)


def given_up(record: GroupRecord, *, snapshot_left: bool) -> GroupRecord:
    """The record when its cycle is not gone on with: it was reported as over, or its source snapshot is removed."""
    return record.model_copy(update={"again": False, "snapshot_left": snapshot_left})


def _is_fenced(code: str) -> bool:
    return code in FENCED or code.startswith("ticket.")


def _ninth_decile(seconds: tuple[float, ...]) -> float:
    if not seconds:
        return 0.0
    return sorted(seconds)[ceil(0.9 * len(seconds)) - 1]
