"""What nodes say: that they are there, what became of their jobs, which points they have."""

from uuid import UUID

from fastapi import APIRouter

from dmcore.api.nodes import (
    AssignedPlans,
    EnrollReply,
    EnrollRequest,
    HeartbeatReply,
    HeartbeatRequest,
    OfflineReport,
    OutcomeRequest,
)
from dmcore.api.points import PointsReport
from dmcore.control.access import enrolment, signatures
from dmcore.control.index import points
from dmcore.control.plans import assigned
from dmcore.control.queue import leases, offline, outcomes
from dmcore.control.web.routes.access import REFUSALS, Appliance, Node, PlaneOf, Sender, Signed
from dmcore.control.web.routes.signed import SignedRoute
from dmcore.model.enums import Role

router = APIRouter(prefix="/v1/nodes", tags=["for nodes"], responses=REFUSALS)
often = APIRouter(prefix="/v1/nodes", tags=["for nodes"], responses=REFUSALS, route_class=SignedRoute)


@router.post("/enroll")
def enroll(plane: PlaneOf, signed: Signed, request: EnrollRequest) -> EnrollReply:
    """Make a node known, with a join token. Signed with the key that it brings."""
    key = enrolment.public_key_of(request)
    signatures.verify(signatures.load_public_key(key), plane.control, signed, plane.clock())
    with plane.database.write() as connection:
        node = enrolment.enroll(connection, plane.database.now(connection), request, key)
    return EnrollReply(control=plane.control, node=node, ticket_key=plane.tickets.public_pem)


@router.get("/plans")
def get_assigned_plans(plane: PlaneOf, node: Node) -> AssignedPlans:
    """What an appliance may run while it cannot ask. A connector's are none."""
    with plane.database.read() as connection:
        return assigned.assigned_plans(connection, plane.database.now(connection), node, node.sources)


@often.post("/jobs/{job}/heartbeat")
def heartbeat(plane: PlaneOf, node: Sender, job: UUID, request: HeartbeatRequest) -> HeartbeatReply:
    """A node still has a job; the answer holds directives."""
    with plane.database.write() as connection:
        now = plane.database.now(connection)
        return leases.heartbeat(connection, now, node, job, request, plane.settings.leases)


@often.post("/jobs/{job}/outcome", status_code=204)
def outcome(plane: PlaneOf, node: Sender, job: UUID, request: OutcomeRequest) -> None:
    """An attempt is over. Saying it again changes nothing."""
    with plane.database.write() as connection:
        now = plane.database.now(connection)
        outcomes.finish(connection, now, node, job, request.incarnation, request.outcome)


@often.post("/points", status_code=204)
def state_points(plane: PlaneOf, node: Sender, request: PointsReport) -> None:
    """A connector states its points. Saying it again changes nothing."""
    with plane.database.write() as connection:
        signatures.enrolled(connection, node, Role.CONNECTOR)
        points.state_points(connection, plane.database.now(connection), node, request.points)


@router.post("/offline", status_code=204)
def report_offline(plane: PlaneOf, node: Appliance, request: OfflineReport) -> None:
    """Cycles that an appliance ran on its own clock. Saying it again changes nothing."""
    with plane.database.write() as connection:
        offline.record_offline(connection, plane.database.now(connection), node.id, request)
