"""Jobs."""

from uuid import UUID

from fastapi import APIRouter

from dmcore.api.jobs import JobsReply, JobView
from dmcore.api.operators import Action
from dmcore.control.access import audit
from dmcore.control.queue import jobs, outcomes
from dmcore.control.web.routes.access import REFUSALS, PlaneOf, Viewer, Worker
from dmcore.control.web.routes.queries import Limit
from dmcore.model.jobs import JobKind, JobState

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], responses=REFUSALS)


@router.get("")
def list_jobs(
    plane: PlaneOf, _: Viewer, plan: UUID | None = None, state: JobState | None = None, kind: JobKind | None = None,
    limit: Limit = 50, before: UUID | None = None,
) -> JobsReply:  # fmt: skip
    """Jobs, newest first; `before` is the last one of the page before."""
    with plane.database.read() as connection:
        now = plane.database.now(connection)
        return jobs.list_jobs(connection, now, plan=plan, state=state, kind=kind, limit=limit, before=before)


@router.get("/{job}")
def get_job(plane: PlaneOf, _: Viewer, job: UUID) -> JobView:
    """One job."""
    with plane.database.read() as connection:
        return jobs.view(connection, plane.database.now(connection), job)


@router.post("/{job}/cancel")
def cancel_job(plane: PlaneOf, operator: Worker, job: UUID) -> JobView:
    """At once if nobody has it; else its node is told with its next heartbeat. Needs operator."""
    with plane.database.write() as connection:
        now = plane.database.now(connection)
        outcomes.cancel(connection, now, job)
        audit.append(connection, now, operator.actor, Action.JOB_CANCELLED, job)
        return jobs.view(connection, now, job)
