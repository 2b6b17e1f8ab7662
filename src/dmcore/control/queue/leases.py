"""Keeping a lease, and taking it back. A lease follows what is got done, not whether its node still speaks."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, bindparam, select

from dmcore.api.limits import NO_LIMIT, Limit
from dmcore.api.nodes import HeartbeatReply, HeartbeatRequest
from dmcore.api.operators import EventKind
from dmcore.control.errors import LeaseLost
from dmcore.control.queue import attempts
from dmcore.control.queue.shares import site_share
from dmcore.control.reports import events
from dmcore.control.schedule.passing import one_by_one, put_off_job
from dmcore.control.settings import LeaseSettings
from dmcore.control.store.tables import HELD, jobs, plans
from dmcore.model.enums import Stage
from dmcore.model.jobs import JobState

REAP_BATCH = 500
STALL_LIMIT_S = {Stage.SNAPSHOT: 1800, Stage.TRANSFER: 600, Stage.COMMIT: 3600}
OTHER_STALL_LIMIT_S = 600
_OVER = select(jobs.c.id).where(HELD, jobs.c.lease_until <= bindparam("now")).order_by(jobs.c.lease_until)
_OVER = _OVER.limit(REAP_BATCH).with_for_update(skip_locked=True)
_PLAN = select(plans.c.paused, plans.c.limit).where(plans.c.id == bindparam("plan"))


def heartbeat(
    connection: Connection,
    now: datetime,
    node_id: str,
    job_id: UUID,
    request: HeartbeatRequest,
    settings: LeaseSettings,
) -> HeartbeatReply:
    """A node still has a job. Renews the lease, also one that ran out, as long as nobody else has the job.

    Raises:
        LeaseLost: somebody else has it, or it is over.
        NodeSuperseded: a later process of the same node has spoken since.
    """
    job = attempts.locked_for(connection, node_id, request.incarnation, job_id, request.epoch)
    if attempts.is_settled(job):
        raise LeaseLost(job=str(job_id), epoch=request.epoch)
    plan = connection.execute(_PLAN, {"plan": job.plan}).one_or_none()
    paused = plan is not None and plan.paused
    stalled = _is_stalled(now, job, request, paused=paused)
    if stalled and job.state == JobState.QUEUED:
        raise LeaseLost(job=str(job_id), epoch=request.epoch)
    _note(connection, now, job, request, settings, stalled=stalled, paused=paused)
    return HeartbeatReply(
        cancel=job.cancelling or stalled,
        pause=paused,
        limit=NO_LIMIT if plan is None else Limit.model_validate(plan.limit),
        site_limit=NO_LIMIT if job.site is None else site_share(connection, now, job.site),
        lease_s=settings.lease_s,
        heartbeat_s=settings.heartbeat_s,
    )


def reap(connection: Connection, now: datetime) -> int:
    """Take back the leases that ran out, a batch at most. Returns how many there were."""
    over = select(jobs.c.id).where(HELD, jobs.c.lease_until <= now).order_by(jobs.c.lease_until).limit(REAP_BATCH)
    found = connection.execute(over.with_for_update(skip_locked=True)).scalars().all()
    return one_by_one(connection, found, partial(_take_back, connection, now), put_off_job(connection, now))


def _take_back(connection: Connection, now: datetime, ids: Sequence[UUID]) -> int:
    rows = connection.execute(select(jobs).where(jobs.c.id.in_(ids))).all()
    for job in sorted(rows, key=lambda each: str(each.group)):  # groups are locked by their ids, here as everywhere
        attempts.lost(connection, now, job)
    return len(rows)


def _is_stalled(now: datetime, job: Row[Any], request: HeartbeatRequest, *, paused: bool) -> bool:
    if paused or _has_moved(job, request):
        return False
    limit_s = STALL_LIMIT_S.get(request.progress.stage or Stage.DONE, OTHER_STALL_LIMIT_S)
    return bool(now - job.counter_at > timedelta(seconds=limit_s))


def _has_moved(job: Row[Any], request: HeartbeatRequest) -> bool:
    return bool(request.progress.counter > job.counter or request.progress.stage != job.stage)


def _note(
    connection: Connection,
    now: datetime,
    job: Row[Any],
    request: HeartbeatRequest,
    settings: LeaseSettings,
    *,
    stalled: bool,
    paused: bool,
) -> None:
    values: dict[str, Any] = {"stalled": stalled, "progress": request.progress.model_dump(mode="json")}
    if not stalled:
        values |= {"state": JobState.RUNNING, "started_at": job.started_at or now}
        values["lease_until"] = now + timedelta(seconds=settings.lease_s)
    elif not job.stalled:
        value = int((now - job.counter_at).total_seconds())
        ids = {"plan": job.plan, "group": job.group, "node": job.node, "job": job.id}
        events.record(connection, now, EventKind.JOB_STALLED, **ids, value=value)
    if paused or _has_moved(job, request):
        values |= {"counter": request.progress.counter, "stage": request.progress.stage, "counter_at": now}
    attempts.change(connection, job.id, values)
