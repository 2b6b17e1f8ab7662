"""What became of an attempt, as its node says, and what an operator's cancel does."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, update

from dmcore.api.jobs import JobResult, Outcome
from dmcore.api.operators import EventKind
from dmcore.control.errors import NotFound, StateConflict
from dmcore.control.index import points
from dmcore.control.queue import attempts, epochs
from dmcore.control.reports import events
from dmcore.control.store.tables import jobs
from dmcore.model.jobs import IN_FLIGHT, JobKind, JobState


def finish(
    connection: Connection, now: datetime, node_id: str, job_id: UUID, incarnation: UUID, outcome: Outcome
) -> None:
    """The end of an attempt, also of one whose lease ran out, if nobody has the job. Repeating it changes nothing.

    Raises:
        LeaseLost: another lease has begun since, or there is no such job.
        NodeSuperseded: a later process of the same node has spoken since.
    """
    job = attempts.locked_for(connection, node_id, incarnation, job_id, outcome.epoch)
    if attempts.is_settled(job):
        return
    behind = job.kind == JobKind.CYCLE and outcome.epoch_floor >= outcome.epoch
    if behind:
        epochs.raise_epoch(connection, now, job.group, outcome.epoch_floor, node=node_id)
    state = _state_after(job, outcome, behind=behind)
    if state == JobState.QUEUED:
        stopped = outcome.result == JobResult.CANCELLED and not job.stalled
        delay_s = 0.0 if behind or stopped else attempts.backoff_s(job.attempts)
        attempts.requeue(connection, now, job, delay_s, outcome)
        return
    attempts.end(connection, now, job, state, outcome)
    if job.kind != JobKind.CYCLE:
        points.settle(connection, now, job, outcome)
    elif missed := sum(disk.untracked_bytes or 0 for disk in outcome.progress.disks):
        told = {"plan": job.plan, "group": job.group, "node": node_id, "job": job.id}
        events.record(connection, now, EventKind.TRACKING_LIED, **told, value=missed)


def cancel(connection: Connection, now: datetime, job_id: UUID) -> None:
    """A job that waits is over at once; a node that has it is told by its next heartbeat.

    Raises:
        NotFound: no such job.
        StateConflict: it is over, and was not cancelled.
    """
    job = attempts.lock(connection, job_id)
    if job is None:
        raise NotFound(noun="job", name=str(job_id))
    if job.state == JobState.QUEUED:
        attempts.end(connection, now, job, JobState.CANCELLED)
    elif job.state in IN_FLIGHT:
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(cancelling=True))
    elif job.state != JobState.CANCELLED:
        raise StateConflict(noun="job", name=str(job_id), state=job.state, problem="there is nothing to cancel")


def _state_after(job: Row[Any], outcome: Outcome, *, behind: bool) -> JobState:
    if outcome.result == JobResult.COMPLETED:
        return JobState.COMPLETED
    if job.cancelling:
        return JobState.CANCELLED
    if job.attempts >= attempts.MAX_ATTEMPTS:
        return JobState.FAILED
    if outcome.result == JobResult.CANCELLED or behind:
        return JobState.QUEUED  # its process stops, or its lease was overtaken: nothing is wrong with the job
    problem = outcome.problem
    hopeless = problem is None or problem.permanent or problem.code == attempts.DROPPED
    return JobState.FAILED if hopeless else JobState.QUEUED
