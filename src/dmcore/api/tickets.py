"""Tickets: a lease in the control plane's own hand (a JWT, Ed25519), for the connector to check."""

from datetime import UTC, datetime
from typing import Annotated, Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from jwt.types import Options
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dmcore.api.errors import TicketExpired, TicketForged, TicketMalformed
from dmcore.api.labels import Epoch, NodeIdText
from dmcore.model.ids import CycleId, GroupId, PlanId

ALGORITHM = "EdDSA"
TYPE = "dmcore-ticket+jwt"
"""Keeps another message that the same key signed from passing as a ticket."""
MAX_TICKET_CHARACTERS = 4096

Seconds = Annotated[int, Field(strict=True, ge=0, lt=1 << 36)]
"""Since 1970; the bound keeps it inside what `datetime` can hold."""


class Ticket(BaseModel):
    """What a ticket claims."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan: PlanId
    group: GroupId
    cycle: CycleId
    epoch: Epoch
    node: NodeIdText
    connector: NodeIdText
    iat: Seconds
    exp: Seconds

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.exp <= self.iat:
            raise ValueError("it expires before it was issued")
        return self

    @property
    def expires(self) -> datetime:
        """When the lease it stands for is over, unless it was presented before."""
        return datetime.fromtimestamp(self.exp, UTC)

    def require_fresh(self, now: datetime) -> None:
        """Called when its epoch is presented for the first time.

        Raises:
            TicketExpired: too late.
        """
        if now >= self.expires:
            raise TicketExpired(epoch=self.epoch, group=str(self.group), expired=self.expires.isoformat())


def sign_ticket(private_key: Ed25519PrivateKey, claims: Ticket) -> str:
    """The ticket as text, to travel in a job."""
    return jwt.encode(claims.model_dump(mode="json"), private_key, algorithm=ALGORITHM, headers={"typ": TYPE})


def verify_ticket(public_key: Ed25519PublicKey, token: str, now: datetime | None = None) -> Ticket:
    """What a rightly signed ticket claims. Without `now` its expiry is left to the caller to judge.

    Raises:
        TicketForged: another key or algorithm signed it, or it was changed.
        TicketMalformed: it is no ticket.
        TicketExpired: `now` is given, and past its expiry.
    """
    decoded = _decode(public_key, token)
    if decoded["header"].get("typ") != TYPE:
        raise TicketMalformed(problem=f"its type is not {TYPE}")
    try:
        ticket = Ticket.model_validate(decoded["payload"])
    except ValidationError as refused:
        raise TicketMalformed(problem=_first_problem(refused)) from refused
    if now is not None:
        ticket.require_fresh(now)
    return ticket


def _decode(public_key: Ed25519PublicKey, token: str) -> dict[str, Any]:
    if len(token) > MAX_TICKET_CHARACTERS:
        raise TicketMalformed(problem=f"longer than {MAX_TICKET_CHARACTERS} characters")
    only_signature: Options = {"verify_exp": False, "verify_iat": False, "verify_nbf": False}
    try:
        return jwt.decode_complete(token, public_key, algorithms=[ALGORITHM], options=only_signature)
    except (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError) as forged:
        raise TicketForged from forged
    except jwt.InvalidTokenError as malformed:
        raise TicketMalformed(problem=str(malformed)) from malformed


def _first_problem(refused: ValidationError) -> str:
    first = refused.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'claims'}: {first['msg']}"
