"""Recovery points, and what a connector is to do with them."""

from uuid import UUID

from fastapi import APIRouter

from dmcore.api.jobs import JobView
from dmcore.api.points import PointShown, PointsReply, PreserveRequest, RecoverRequest, VerifyRequest
from dmcore.control.index import points, shown
from dmcore.control.queue import work
from dmcore.control.web.routes.access import REFUSALS, Admin, PlaneOf, Viewer, Worker
from dmcore.control.web.routes.queries import Limit
from dmcore.model.jobs import JobKind

router = APIRouter(prefix="/v1/points", tags=["points"], responses=REFUSALS)


@router.get("")
def list_points(
    plane: PlaneOf, _: Viewer, plan: UUID | None = None, group: UUID | None = None, limit: Limit = 100,
    before: UUID | None = None,
) -> PointsReply:  # fmt: skip
    """Points, newest first; `before` is the last one of the page before."""
    with plane.database.read() as connection:
        return points.list_points(connection, plan=plan, group=group, limit=limit, before=before)


@router.get("/{point}")
def get_point(plane: PlaneOf, _: Viewer, point: UUID) -> PointShown:
    """One point, with the newest jobs about it."""
    with plane.database.read() as connection:
        return shown.get_point(connection, point)


@router.post("/{point}/verify", status_code=202)
def verify_point(
    plane: PlaneOf, operator: Worker, point: UUID, request: VerifyRequest | None = None
) -> JobView:  # fmt: skip
    """Have its connector read it whole, or a sample of it. Needs operator."""
    sample_percent = request.sample_percent if request else None
    return work.ask_of_point(plane, operator, JobKind.VERIFY, point, sample_percent=sample_percent)


@router.post("/{point}/recover", status_code=202)
def recover_point(plane: PlaneOf, operator: Worker, point: UUID, request: RecoverRequest) -> JobView:
    """Have its connector write it to one of its own recovery aliases. Needs operator."""
    return work.ask_of_point(plane, operator, JobKind.RECOVER, point, to=request.to)


@router.post("/{point}/preserve", status_code=202)
def preserve_point(plane: PlaneOf, operator: Worker, point: UUID, request: PreserveRequest) -> JobView:
    """Have its connector keep it whatever its age, or no more. Needs operator."""
    return work.ask_of_point(plane, operator, JobKind.PRESERVE, point, preserved=request.preserved)


@router.delete("/{point}", status_code=202)
def delete_point(plane: PlaneOf, operator: Admin, point: UUID) -> JobView:
    """Ask its connector to let it go; its own retention may keep it. Needs admin."""
    return work.ask_of_point(plane, operator, JobKind.EXPIRE, point)
