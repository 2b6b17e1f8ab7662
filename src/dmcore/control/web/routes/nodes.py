"""Nodes as operators see them."""

from fastapi import APIRouter

from dmcore.api.nodes import NodesReply
from dmcore.control.access import enrolment
from dmcore.control.web.routes.access import REFUSALS, Admin, PlaneOf, Viewer
from dmcore.control.web.routes.queries import Limit, NodePath, NodeQuery

router = APIRouter(prefix="/v1/nodes", tags=["nodes"], responses=REFUSALS)


@router.get("")
def list_nodes(plane: PlaneOf, _: Viewer, limit: Limit = 500, after: NodeQuery = None) -> NodesReply:
    """Nodes, the revoked ones too, by site and role; `after` is the last one of the page before."""
    with plane.database.read() as connection:
        return enrolment.list_nodes(connection, plane.database.now(connection), limit=limit, after=after)


@router.delete("/{node}", status_code=204)
def revoke_node(plane: PlaneOf, operator: Admin, node: NodePath) -> None:
    """Nothing that it signs is accepted any more. Needs admin."""
    with plane.database.write() as connection:
        enrolment.revoke(connection, plane.database.now(connection), node, operator.actor)
