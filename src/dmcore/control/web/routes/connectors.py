"""What is asked of a connector as a whole."""

from fastapi import APIRouter

from dmcore.api.jobs import JobView
from dmcore.control.queue import work
from dmcore.control.web.routes.access import REFUSALS, Admin, PlaneOf
from dmcore.control.web.routes.queries import NodePath

router = APIRouter(prefix="/v1/connectors", tags=["points"], responses=REFUSALS)


@router.post("/{node}/rebuild", status_code=202)
def rebuild_index(plane: PlaneOf, operator: Admin, node: NodePath) -> JobView:
    """Have a connector state all its points again. Needs admin."""
    return work.ask_index(plane, operator, node)
