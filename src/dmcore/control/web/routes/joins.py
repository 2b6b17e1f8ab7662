"""Join tokens."""

from fastapi import APIRouter

from dmcore.api.operators import JoinSpec, NewJoin
from dmcore.control.access import enrolment
from dmcore.control.web.routes.access import REFUSALS, Admin, PlaneOf

router = APIRouter(prefix="/v1/joins", tags=["nodes"], responses=REFUSALS)


@router.post("", status_code=201)
def create_join(plane: PlaneOf, operator: Admin, spec: JoinSpec) -> NewJoin:
    """A token that enrols one node: good once, for an hour. Needs admin."""
    with plane.database.write() as connection:
        now = plane.database.now(connection)
        return enrolment.create_join(connection, now, spec, plane.invitation, operator.actor)
