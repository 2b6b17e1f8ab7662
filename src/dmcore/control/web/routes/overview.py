"""What is going on, what has happened, and who did what."""

from uuid import UUID

from fastapi import APIRouter

from dmcore.api.operators import AuditReply, EventsReply
from dmcore.api.plans import Status
from dmcore.control.access import audit
from dmcore.control.reports import events, status
from dmcore.control.web.routes.access import REFUSALS, Admin, PlaneOf, Viewer
from dmcore.control.web.routes.queries import Limit, NodeQuery, Number

router = APIRouter(prefix="/v1", tags=["overview"], responses=REFUSALS)


@router.get("/status")
def get_status(
    plane: PlaneOf, _: Viewer, limit: Limit = 500, plans_after: UUID | None = None, nodes_after: NodeQuery = None
) -> Status:
    """One screen: plans by name and nodes by site; `..._after` are the last ones of the page before."""
    with plane.database.read() as connection:
        now = plane.database.now(connection)
        return status.status(connection, now, limit=limit, plans_after=plans_after, nodes_after=nodes_after)


@router.get("/events")
def list_events(plane: PlaneOf, _: Viewer, limit: Limit = 100, before: Number = None) -> EventsReply:
    """What operators should know of, newest first."""
    with plane.database.read() as connection:
        return events.list_events(connection, limit=limit, before=before)


@router.get("/audit")
def list_audit(plane: PlaneOf, _: Admin, limit: Limit = 100, before: Number = None) -> AuditReply:
    """Who did what to what, newest first. Needs admin."""
    with plane.database.read() as connection:
        return audit.list_entries(connection, limit=limit, before=before)
