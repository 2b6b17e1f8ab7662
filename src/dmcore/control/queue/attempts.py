"""How an attempt at a job ends: the job waits again, or is over. Each function is given a locked row of `jobs`."""

import random
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, Row, Select, bindparam, select, update

from dmcore.api.base import Problem
from dmcore.api.jobs import JobResult, Outcome
from dmcore.api.operators import EventKind
from dmcore.control.errors import LeaseLost, NodeRevoked, NodeSuperseded
from dmcore.control.reports import events
from dmcore.control.schedule import pace
from dmcore.control.store.tables import groups, jobs, nodes
from dmcore.model.jobs import JobKind, JobState

MAX_ATTEMPTS = 8
MAX_BACKOFF_S = 300.0
DROPPED = "cycle.dropped"
"""The connector's word for: this cycle can never be gone on with, begin another."""
_SENDER = select(nodes.c.revoked_at, nodes.c.superseded).where(nodes.c.id == bindparam("node"))
_CHANGED_JOB = update(jobs).where(jobs.c.id == bindparam("changed"))
_CHANGED_GROUP = update(groups).where(groups.c.id == bindparam("changed"))
_GROUP: Select[Any] = select(groups.c.id, groups.c.failures, groups.c.last_point_time)
_GROUP = _GROUP.where(groups.c.id == bindparam("group")).with_for_update()
_JOB = select(jobs).where(jobs.c.id == bindparam("job")).with_for_update()


def lock(connection: Connection, job: UUID) -> Row[Any] | None:
    """A job, until the transaction ends."""
    return connection.execute(_JOB, {"job": job}).one_or_none()


def locked_for(connection: Connection, node: str, incarnation: UUID, job: UUID, epoch: int) -> Row[Any]:
    """A job whose last lease was this node's, under this epoch.

    Raises:
        NodeRevoked: it is not enrolled (any more).
        LeaseLost: another lease has begun, or it was never this node's, or there is no such job.
        NodeSuperseded: a later process of the same node has spoken since.
    """
    sender = connection.execute(_SENDER, {"node": node}).one_or_none()
    if sender is None or sender.revoked_at is not None:
        raise NodeRevoked(node=node)
    if str(incarnation) in sender.superseded:
        raise NodeSuperseded(node=node)
    row = lock(connection, job)
    if row is None or (row.node, row.epoch) != (node, epoch):
        raise LeaseLost(job=str(job), epoch=epoch)
    return row


def is_settled(job: Row[Any]) -> bool:
    """Whether the outcome of the job's last lease is known: saying it again changes nothing."""
    return job.ended_at is not None or job.outcome.get("epoch") == job.epoch


def backoff_s(attempts: int) -> float:
    """How long a job waits after so many attempts: twice as long each time, a half of it by chance."""
    longest = min(2.0**attempts, MAX_BACKOFF_S)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads retries, keeps no secret


def lost(connection: Connection, now: datetime, job: Row[Any], *, at_once: bool = False) -> None:
    """The holder fell silent. It may still come back with its outcome, until somebody else has the job."""
    _record(connection, now, EventKind.LEASE_LOST, job)
    if job.cancelling:
        end(connection, now, job, JobState.CANCELLED)
    elif job.attempts >= MAX_ATTEMPTS:
        problem = Problem(code=LeaseLost.code, permanent=False, correlation=uuid4().hex)
        end(connection, now, job, JobState.FAILED, Outcome(epoch=job.epoch, result=JobResult.FAILED, problem=problem))
    else:
        requeue(connection, now, job, 0.0 if at_once else backoff_s(job.attempts))


def requeue(
    connection: Connection, now: datetime, job: Row[Any], delay_s: float, outcome: Outcome | None = None
) -> None:
    """The same job again, of a cycle the same cycle, after a while. Its last holder and epoch stay known."""
    values: dict[str, Any] = {} if outcome is None else {"outcome": outcome.model_dump(mode="json")}
    not_before = now + timedelta(seconds=delay_s)
    _set(connection, job.id, state=JobState.QUEUED, not_before=not_before, lease_until=None, **values)


def end(connection: Connection, now: datetime, job: Row[Any], state: JobState, outcome: Outcome | None = None) -> None:
    """The job is over. Of a cycle, the group's next one is planned."""
    values: dict[str, Any] = {"started_at": job.started_at or job.leased_at}
    if outcome is not None:
        values |= facts(outcome) | {"point": outcome.point or job.point}  # which it made, or was about
    _set(connection, job.id, state=state, ended_at=now, lease_until=None, **values)
    if state == JobState.FAILED:
        _record(connection, now, EventKind.JOB_FAILED, job)
    if job.kind == JobKind.CYCLE:
        settle_group(connection, now, job.group, state, outcome, job.due_at)


def facts(outcome: Outcome) -> dict[str, Any]:
    """What a job's row keeps of its outcome."""
    return {
        "outcome": outcome.model_dump(mode="json"),
        "progress": outcome.progress.model_dump(mode="json"),
        "stage": outcome.progress.stage,
        "point": outcome.point,
        "source_time": outcome.source_time,
    }


def settle_group(
    connection: Connection, now: datetime, group: UUID, state: JobState, outcome: Outcome | None, due_at: datetime
) -> None:
    """What a cycle's end means to its group: failures, the newest point, when the next one starts."""
    row = connection.execute(_GROUP, {"group": group}).one_or_none()
    if row is None:
        return
    code = outcome.problem.code if outcome and outcome.problem else None
    values: dict[str, Any] = {}
    if state == JobState.COMPLETED:
        values = {"failures": 0, "problem": None} | _newest(now, row, outcome, due_at)
    elif state == JobState.FAILED:
        values = {"failures": row.failures + (code != DROPPED), "problem": code or "internal"}
    if values:
        connection.execute(_CHANGED_GROUP, {"changed": group, **values})
    pace.reschedule(connection, now, group)
    if code == DROPPED:  # nothing was wrong with the group: only this cycle is of no use
        planned = groups.c.next_start.is_not(None)
        connection.execute(update(groups).where(groups.c.id == group, planned).values(next_start=now))


def _newest(now: datetime, group: Row[Any], outcome: Outcome | None, due_at: datetime) -> dict[str, Any]:
    """The connector states the point itself, perhaps much later; the schedule goes by it from now on."""
    if outcome is None or outcome.point is None or outcome.source_time is None:
        return {}
    taken_at = pace.believed(outcome.source_time, due_at, now)
    if group.last_point_time is not None and taken_at <= group.last_point_time:
        return {}
    return {"last_point": outcome.point, "last_point_time": taken_at}


def _record(connection: Connection, now: datetime, kind: EventKind, job: Row[Any]) -> None:
    events.record(connection, now, kind, plan=job.plan, group=job.group, node=job.node, job=job.id)


def change(connection: Connection, job: UUID, values: dict[str, Any]) -> None:
    """Set some columns of a job."""
    connection.execute(_CHANGED_JOB, {"changed": job, **values})


def _set(connection: Connection, job: UUID, **values: Any) -> None:
    change(connection, job, values)
