"""Who asks, and whether they may: one of these is in the signature of every route but health and enrolment."""

from contextlib import suppress
from datetime import timedelta
from typing import Annotated, Any

import structlog
from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import Row

from dmcore.api.base import ErrorBody
from dmcore.api.operators import Action, EventKind, OperatorRole
from dmcore.control.access import audit, operators, signatures
from dmcore.control.access.operators import Operator
from dmcore.control.access.signatures import SignedRequest
from dmcore.control.errors import ClockSkewed, NotAuthenticated, RoleMissing, StoreBusy, StoreFull
from dmcore.control.plane import Plane
from dmcore.control.reports import events
from dmcore.model.enums import Role
from dmcore.model.ids import NodeId

log = structlog.get_logger()

SKEW_TOLD_EVERY = timedelta(hours=1)
"""A node whose clock is off is told of in the events this often, however often it signs."""
BEARER = HTTPBearer(
    scheme_name="operator", bearerFormat="dmo_...", auto_error=False, description="A token of `dmctl token create`."
)
SIGNATURE = APIKeyHeader(
    name="Authorization", scheme_name="node", auto_error=False,
    description="`Node <JWT>`: ES256 by the node's key, over method, path and body; at most 60 s old, good once.",
)  # fmt: skip

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": said}
    for status, said in {
        400: "Not a request of this API",
        401: "No valid token or signature",
        403: "The role is missing, or the join token is not good",
        404: "There is no such object",
        408: "The body did not come",
        409: "The object's state, or another object, is in the way",
        413: "The body is too long",
        422: "A field is missing, unknown or wrong",
        426: "Another version of the API",
        429: "Too many requests",
        500: "A fault of dmcore",
        503: "The database does not answer; nothing was changed",
        507: "The database cannot be written; nothing was changed",
    }.items()
}
"""What every route may answer beside its own."""


def plane_of(request: Request) -> Plane:
    """The control plane whose application this is."""
    plane: Plane = request.app.state.plane
    return plane


PlaneOf = Annotated[Plane, Depends(plane_of)]


class OperatorAccess:
    """A dependency: an operator whose role is enough."""

    def __init__(self, needed: OperatorRole) -> None:
        self.needed = needed

    def __call__(
        self, request: Request, plane: PlaneOf, given: Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)]
    ) -> Operator:
        """Raises NotAuthenticated, or RoleMissing, which goes into the log and, by `Refusals`, into the audit log."""
        if given is None:
            raise NotAuthenticated
        with plane.database.read() as connection:
            operator = operators.recognise(connection, plane.database.now(connection), given.credentials)
        if operator.note_use:
            _note_use(plane, operator)
        if not operator.may(self.needed):
            _note_refusal(plane, operator, request.method, request.scope["route"].path)
            raise RoleMissing(needed=self.needed, held=operator.role)
        return operator


Viewer = Annotated[Operator, Depends(OperatorAccess(OperatorRole.VIEWER))]
Worker = Annotated[Operator, Depends(OperatorAccess(OperatorRole.OPERATOR))]
Admin = Annotated[Operator, Depends(OperatorAccess(OperatorRole.ADMIN))]


async def signed_request(request: Request, given: Annotated[str | None, Security(SIGNATURE)]) -> SignedRequest:
    """What a node's signature must be about: this request, as it was sent. Raises NotAuthenticated: there is none."""
    if not given:
        raise NotAuthenticated
    path: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    query: bytes = request.scope["query_string"]
    whole = path + b"?" + query if query else path
    return SignedRequest(given, request.method, whole.decode("latin-1"), await request.body())


Signed = Annotated[SignedRequest, Depends(signed_request)]


def require_signed(plane: Plane, signed: SignedRequest, node: NodeId) -> None:
    """That this node, whose key is known, has rightly signed this request, and never before.

    Raises:
        SignatureRefused, ClockSkewed, RequestFlood.
    """
    now = plane.clock()
    plane.signatures.use(signatures.verify(plane.keys[node], plane.control, signed, now), now)


def look_up(plane: Plane, node: NodeId) -> None:
    """Know its key from now on. Raises NodeRevoked."""
    with plane.database.read() as connection:
        plane.keys.look_up(connection, node)


def sender(plane: PlaneOf, signed: Signed) -> NodeId:
    """The node whose request this is. Whether it is enrolled still is read in the transaction of what it asks.

    Raises:
        SignatureRefused, NodeRevoked, ClockSkewed, RequestFlood.
    """
    node = signatures.claimed_sender(signed)
    if node not in plane.keys:
        look_up(plane, node)
    try:
        require_signed(plane, signed, node)
    except ClockSkewed as skewed:
        note_skew(plane, node, skewed.skew_s)
        raise
    return node


Sender = Annotated[NodeId, Depends(sender)]


def sending_node(plane: PlaneOf, node: Sender) -> Row[Any]:
    """Its row, as it is now. Raises NodeRevoked."""
    with plane.database.read() as connection:
        return signatures.enrolled(connection, node)


Node = Annotated[Row[Any], Depends(sending_node)]


class NodeAccess:
    """A dependency: a node of one role."""

    def __init__(self, needed: Role) -> None:
        self.needed = needed

    def __call__(self, node: Node) -> Row[Any]:
        """Raises RoleMissing."""
        if node.role != self.needed:
            raise RoleMissing(needed=self.needed, held=node.role)
        return node


Appliance = Annotated[Row[Any], Depends(NodeAccess(Role.APPLIANCE))]
Connector = Annotated[Row[Any], Depends(NodeAccess(Role.CONNECTOR))]


def _note_use(plane: Plane, operator: Operator) -> None:
    with suppress(StoreBusy, StoreFull), plane.database.write() as connection:  # nobody is kept from looking by this
        operators.note_use(connection, plane.database.now(connection), operator.token)


def _note_refusal(plane: Plane, operator: Operator, method: str, path: str) -> None:
    what = f"{method} {path}"
    log.warning("refused by role", token=str(operator.token), role=operator.role, what=what)
    if not plane.refusals.is_audited(operator.token, method, plane.clock()):
        return
    with plane.database.write() as connection:
        now = plane.database.now(connection)
        audit.append(connection, now, operator.actor, Action.REFUSED, what, id=operator.token, role=operator.role)


def note_skew(plane: Plane, node: str, skew_s: int) -> None:
    """Tell of a node whose clock is off, now and then."""
    now, last = plane.clock(), plane.skews.get(node)
    if last is not None and now - last < SKEW_TOLD_EVERY:
        return
    plane.skews[node] = now
    with suppress(StoreBusy, StoreFull), plane.database.write() as connection:
        at = plane.database.now(connection)
        events.record(connection, at, EventKind.CLOCK_SKEWED, node=node, value=abs(skew_s))
