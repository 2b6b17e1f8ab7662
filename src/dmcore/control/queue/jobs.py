"""Jobs as operators see them: what is kept of each, and the rate and ETA that follow from it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, Select, select, tuple_

from dmcore.api.jobs import JobsReply, JobView, Outcome, Progress
from dmcore.control.errors import NotFound
from dmcore.control.store.tables import groups, jobs, plans
from dmcore.model.jobs import JobKind, JobState

MAX_LISTED = 200
MAX_DURATION = float((1 << 36) - 1)
"""What `api.base.Duration` holds: a node's totals are its own, and may be nonsense."""


def view(connection: Connection, now: datetime, job_id: UUID) -> JobView:
    """One job.

    Raises:
        NotFound: there is no such job.
    """
    found = views(connection, now, [job_id])
    if not found:
        raise NotFound(noun="job", name=str(job_id))
    return found[0]


def views(connection: Connection, now: datetime, job_ids: Sequence[UUID]) -> tuple[JobView, ...]:
    """Those of these jobs that are there, in this order."""
    found = {row.id: row for row in connection.execute(_told().where(jobs.c.id.in_(job_ids)))}
    return tuple(_view(now, found[job]) for job in job_ids if job in found)


def list_jobs(
    connection: Connection,
    now: datetime,
    *,
    plan: UUID | None = None,
    state: JobState | None = None,
    kind: JobKind | None = None,
    limit: int = 50,
    before: UUID | None = None,
) -> JobsReply:
    """Jobs by when they were due, newest first; `before` is the last job of the page before.

    Raises:
        NotFound: there is no such job to list those before it.
    """
    asked = _told()
    for column, value in ((jobs.c.plan, plan), (jobs.c.state, state), (jobs.c.kind, kind)):
        asked = asked if value is None else asked.where(column == value)
    if before is not None:
        asked = asked.where(tuple_(jobs.c.due_at, jobs.c.id) < _place_of(connection, before))
    size = max(1, min(limit, MAX_LISTED))
    rows = connection.execute(asked.order_by(jobs.c.due_at.desc(), jobs.c.id.desc()).limit(size + 1)).all()
    return JobsReply(jobs=tuple(_in_list(_view(now, row)) for row in rows[:size]), more=len(rows) > size)


def rate_bytes_s(now: datetime, job: Row[Any], progress: Progress) -> float | None:
    """Mean of this attempt so far, or of the whole of one that is over; None: it has not begun."""
    if job.started_at is None:
        return None
    taken_s = ((job.ended_at or now) - job.started_at).total_seconds()
    return min(progress.done_bytes / taken_s, MAX_DURATION) if taken_s > 0 else None


def eta_s(now: datetime, job: Row[Any], progress: Progress) -> float | None:
    """Until everything is read, at the rate so far; None: nothing runs, or nothing is known yet."""
    rate = rate_bytes_s(now, job, progress)
    if job.state != JobState.RUNNING or not rate or not progress.total_bytes:
        return None
    return min(max(progress.total_bytes - progress.done_bytes, 0) / rate, MAX_DURATION)


def _in_list(job: JobView) -> JobView:
    """Without what there may be a thousand of: a list of jobs has no end of its own."""
    return job.model_copy(update={"progress": job.progress.model_copy(update={"disks": ()})})


def _told() -> Select[Any]:
    named = select(jobs, plans.c.name.label("plan_name"), groups.c.machines)
    return named.outerjoin(plans, plans.c.id == jobs.c.plan).outerjoin(groups, groups.c.id == jobs.c.group)


def _place_of(connection: Connection, job_id: UUID) -> Any:
    row = connection.execute(select(jobs.c.due_at, jobs.c.id).where(jobs.c.id == job_id)).one_or_none()
    if row is None:
        raise NotFound(noun="job", name=str(job_id))
    return tuple_(*row)


def _view(now: datetime, job: Row[Any]) -> JobView:
    progress = Progress.model_validate(job.progress)
    outcome = Outcome.model_validate(job.outcome) if job.outcome else None
    return JobView(
        id=job.id, kind=JobKind(job.kind), state=JobState(job.state), plan=job.plan, plan_name=job.plan_name,
        group=job.group, machines=tuple(job.machines or ()), cycle=job.cycle, node=job.node, epoch=job.epoch,
        attempts=job.attempts, offline=job.offline, due_at=job.due_at, started_at=job.started_at,
        ended_at=job.ended_at, cancelling=job.cancelling, progress=progress,
        against_source=bool(job.arguments.get("against_source")),
        sample_percent=job.arguments.get("sample_percent"),
        rate_bytes_s=rate_bytes_s(now, job, progress), eta_s=eta_s(now, job, progress),
        problem=outcome.problem if outcome else None, point=job.point, to=job.arguments.get("to"),
        source_time=job.source_time,
        seconds=outcome.seconds if outcome else {}, points=outcome.points if outcome else (),
    )  # fmt: skip
