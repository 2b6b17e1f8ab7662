"""Plans."""

from uuid import UUID

from fastapi import APIRouter

from dmcore.api.jobs import JobsReply
from dmcore.api.plans import PlanEdit, PlanSpec, PlansReply, PlanView, RunRequest
from dmcore.control.access.operators import Operator
from dmcore.control.plane import Plane
from dmcore.control.plans import plan_views, plans
from dmcore.control.queue import jobs
from dmcore.control.web.routes.access import REFUSALS, Admin, PlaneOf, Viewer, Worker
from dmcore.control.web.routes.queries import Limit

router = APIRouter(prefix="/v1/plans", tags=["plans"], responses=REFUSALS)


@router.get("")
def list_plans(plane: PlaneOf, _: Viewer, limit: Limit = 100, after: UUID | None = None) -> PlansReply:
    """Plans, with how their groups are doing, by name; `after` is the last one of the page before."""
    with plane.database.read() as connection:
        return plan_views.list_plans(connection, plane.database.now(connection), limit=limit, after=after)


@router.post("", status_code=201)
def create_plan(plane: PlaneOf, operator: Worker, spec: PlanSpec) -> PlanView:
    """What to protect, where to, how often. Needs operator."""
    with plane.database.write() as connection:
        now = plane.database.now(connection)
        return plan_views.view(connection, now, plans.create(connection, now, spec, operator.actor))


@router.get("/{plan}")
def get_plan(plane: PlaneOf, _: Viewer, plan: UUID) -> PlanView:
    """One plan."""
    with plane.database.read() as connection:
        return plan_views.view(connection, plane.database.now(connection), plan)


@router.patch("/{plan}")
def edit_plan(plane: PlaneOf, operator: Worker, plan: UUID, change: PlanEdit) -> PlanView:
    """What the edit leaves out stays. Needs operator."""
    with plane.database.write() as connection:
        now = plane.database.now(connection)
        plans.edit(connection, now, plan, change, operator.actor)
        return plan_views.view(connection, now, plan)


@router.delete("/{plan}", status_code=204)
def delete_plan(plane: PlaneOf, operator: Admin, plan: UUID) -> None:
    """No more cycles of it. Its recovery points stay. Needs admin."""
    with plane.database.write() as connection:
        plans.delete(connection, plane.database.now(connection), plan, operator.actor)


@router.post("/{plan}/run")
def run_plan(plane: PlaneOf, operator: Worker, plan: UUID, request: RunRequest) -> JobsReply:
    """Its cycles now: the jobs that this makes, and those that are in flight already. Needs operator."""
    with plane.database.write() as connection:
        now = plane.database.now(connection)
        key, made = plans.run(connection, now, plan, request, operator.actor)
        reply = JobsReply(jobs=jobs.views(connection, now, made), more=False)
    plane.waiters.wake([key])
    return reply


@router.post("/{plan}/pause")
def pause_plan(plane: PlaneOf, operator: Worker, plan: UUID) -> PlanView:
    """Begin no more cycles; the running ones wait. Needs operator."""
    return _pause(plane, operator, plan, paused=True)


@router.post("/{plan}/resume")
def resume_plan(plane: PlaneOf, operator: Worker, plan: UUID) -> PlanView:
    """Go on. Needs operator."""
    return _pause(plane, operator, plan, paused=False)


def _pause(plane: Plane, operator: Operator, plan: UUID, *, paused: bool) -> PlanView:
    with plane.database.write() as connection:
        now = plane.database.now(connection)
        plans.pause(connection, now, plan, operator.actor, paused=paused)
        return plan_views.view(connection, now, plan)
