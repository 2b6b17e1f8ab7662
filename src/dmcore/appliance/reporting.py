"""From what a cycle knows to what may cross to a control plane: totals, enums, ids and times, and nothing else."""

import re
from uuid import uuid4

from pydantic import TypeAdapter, ValidationError

from dmcore.api.base import ErrorCode, Problem
from dmcore.api.jobs import MAX_DISKS, DiskTotals, Job, JobResult, Outcome, Progress
from dmcore.appliance.errors import CycleFailed, EpochBehind
from dmcore.appliance.progress import CycleProgress, CycleReport, DiskStats
from dmcore.errors import DmcoreError

DROPPED = "cycle.dropped"
"""The code for: this cycle can never be gone on with; begin another one."""
FENCED = frozenset({EpochBehind.code, "cycle.stale-epoch"})
"""The codes for: a later lease of the group is known. What is wrong with a ticket begins with `ticket.`."""
UNNAMED = "peer.refused"
"""Stands for a code that a peer has made up."""
MOST = (1 << 53) - 1
"""The largest number that may cross: what a connector claims may be larger."""
CORRELATION = re.compile(r"[0-9a-f]{32}")

ERROR_CODE: TypeAdapter[str] = TypeAdapter(ErrorCode)


def progress_of(live: CycleProgress) -> Progress:
    """How far a cycle is. May be called from any thread while it runs."""
    disks = list(live.disks.values())
    return Progress(
        stage=live.stage,
        counter=min(sum(map(_work_of, disks)) + live.applied_bytes + live.answers, MOST),
        done_bytes=sum(disk.read_bytes for disk in disks),
        total_bytes=sum(max(disk.to_read_bytes, disk.read_bytes) for disk in disks),
        disks=tuple(map(_totals, disks[:MAX_DISKS])),
        applied_bytes=min(live.applied_bytes, MOST),
        to_apply_bytes=min(live.to_apply_bytes, MOST),
    )


def completed(job: Job, live: CycleProgress, report: CycleReport) -> Outcome:
    """A cycle has its recovery point."""
    return Outcome(
        epoch=job.epoch, result=JobResult.COMPLETED, point=report.point, source_time=report.source_time,
        progress=progress_of(live), seconds=dict(report.seconds),
    )  # fmt: skip


def cancelled(job: Job, live: CycleProgress) -> Outcome:
    """A cycle was stopped from outside."""
    return Outcome(
        epoch=job.epoch, result=JobResult.CANCELLED, progress=progress_of(live), seconds=dict(live.seconds)
    )  # fmt: skip


def failed(job: Job, live: CycleProgress, problem: Problem, error: Exception) -> Outcome:
    """A cycle has no recovery point."""
    return Outcome(
        epoch=job.epoch, result=JobResult.FAILED, problem=problem, progress=progress_of(live),
        seconds=dict(live.seconds), epoch_floor=min(error.current, MOST) if isinstance(error, EpochBehind) else 0,
    )  # fmt: skip


def problem_of(error: Exception, correlation: str) -> Problem:
    """An error by its code. Its words stay in this node's log, under the correlation id."""
    if not isinstance(error, DmcoreError):  # a fault of ours, or of this machine: a full disk, say
        permanent = not isinstance(error, OSError)
        return Problem(code=DmcoreError.code, permanent=permanent, correlation=correlation)
    # Another attempt of the same cycle would hear the same from the connector; another cycle need not.
    permanent = error.permanent or isinstance(error, CycleFailed)
    told = error.correlation if CORRELATION.fullmatch(error.correlation) else correlation
    return Problem(code=_code(error.code), permanent=permanent, correlation=told)


def overtaken(job: Job) -> Outcome:
    """The job's cycle is older than one that this node has begun since: it must not be begun again."""
    problem = Problem(code=DROPPED, permanent=True, correlation=uuid4().hex)
    return Outcome(epoch=job.epoch, result=JobResult.FAILED, problem=problem)


def _code(code: str) -> str:
    try:
        return ERROR_CODE.validate_python(code)
    except ValidationError:
        return UNNAMED


def _work_of(disk: DiskStats) -> int:
    return disk.read_bytes + disk.zero_bytes + disk.sealed_bytes + disk.moved_bytes


def _totals(disk: DiskStats) -> DiskTotals:
    return DiskTotals(
        disk=disk.disk, rung=disk.rung, reason=disk.reason, to_read_bytes=disk.to_read_bytes,
        read_bytes=disk.read_bytes, changed_bytes=disk.changed_bytes, zero_bytes=disk.zero_bytes,
        sealed_bytes=disk.sealed_bytes, wire_bytes=disk.moved_bytes, resumed_bytes=disk.resumed_bytes,
        untracked_bytes=disk.untracked_bytes,
    )  # fmt: skip
