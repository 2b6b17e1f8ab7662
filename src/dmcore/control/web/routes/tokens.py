"""Operators' tokens."""

from uuid import UUID

from fastapi import APIRouter

from dmcore.api.operators import NewToken, TokenSpec, TokensReply
from dmcore.control.access import operators
from dmcore.control.web.routes.access import REFUSALS, Admin, PlaneOf
from dmcore.control.web.routes.queries import Limit

router = APIRouter(prefix="/v1/tokens", tags=["tokens"], responses=REFUSALS)


@router.get("")
def list_tokens(plane: PlaneOf, _: Admin, limit: Limit = 500, after: UUID | None = None) -> TokensReply:
    """Tokens, without their secrets, oldest first; `after` is the last one of the page before. Needs admin."""
    with plane.database.read() as connection:
        return operators.list_tokens(connection, limit=limit, after=after)


@router.post("", status_code=201)
def create_token(plane: PlaneOf, operator: Admin, spec: TokenSpec) -> NewToken:
    """A token for a person or a script; its secret is in this answer only. Needs admin."""
    with plane.database.write() as connection:
        return operators.create(connection, plane.database.now(connection), spec, operator.actor)


@router.delete("/{token}", status_code=204)
def revoke_token(plane: PlaneOf, operator: Admin, token: UUID) -> None:
    """Nobody gets in with it any more. Needs admin."""
    with plane.database.write() as connection:
        operators.revoke(connection, plane.database.now(connection), token, operator.actor)
