"""Operators' tokens: made, recognised, revoked. Only their SHA-256 is kept."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, Row, insert, select, tuple_, update

from dmcore.api.operators import RANK, Action, NewToken, OperatorRole, TokenSpec, TokensReply, TokenView
from dmcore.control.access import audit
from dmcore.control.errors import NotAuthenticated, NotFound
from dmcore.control.store.tables import tokens

PREFIX = "dmo_"
SECRET_BYTES = 32
MAX_SECRET_CHARACTERS = 128
MAX_LISTED = 500
NOTED_EVERY = timedelta(minutes=1)
"""When a token was used last is kept to this precision: reading must not cost a write each time."""
LOCAL = "local"
"""The actor of what is done on the control plane's own machine."""


@dataclass(frozen=True)
class Operator:
    """Whose token a request carried."""

    token: UUID
    name: str
    role: OperatorRole
    note_use: bool = False
    """Whether the time of its use should be written down again."""

    @property
    def actor(self) -> str:
        """As the audit log names them."""
        return f"{self.name} {str(self.token)[:8]}"

    def may(self, needed: OperatorRole) -> bool:
        """Whether this role is enough."""
        return RANK[self.role] >= RANK[needed]


def create(connection: Connection, now: datetime, spec: TokenSpec, actor: str) -> NewToken:
    """A new token; its secret is in this answer only."""
    secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    values: dict[str, Any] = {
        "id": uuid4(), "name": spec.name, "role": spec.role, "created_at": now,
        "expires_at": now + timedelta(days=spec.days),
    }  # fmt: skip
    connection.execute(insert(tokens).values(**values, secret_sha256=_digest(secret)))
    audit.append(connection, now, actor, Action.TOKEN_CREATED, spec.name, id=values["id"], role=spec.role)
    return NewToken(**values, revoked=False, used_at=None, secret=secret)


def recognise(connection: Connection, now: datetime, secret: str) -> Operator:
    """Whose token this is.

    Raises:
        NotAuthenticated: nobody's, or it is revoked or expired.
    """
    if len(secret) > MAX_SECRET_CHARACTERS:
        raise NotAuthenticated
    # The look-up is by the digest of 256 random bits: how long it takes tells nothing of a secret.
    row = connection.execute(select(tokens).where(tokens.c.secret_sha256 == _digest(secret))).one_or_none()
    if row is None or row.revoked_at is not None or row.expires_at <= now:
        raise NotAuthenticated
    stale = row.used_at is None or now - row.used_at >= NOTED_EVERY
    return Operator(row.id, row.name, OperatorRole(row.role), note_use=stale)


def note_use(connection: Connection, now: datetime, token: UUID) -> None:
    """Keep when it was used."""
    connection.execute(update(tokens).where(tokens.c.id == token).values(used_at=now))


def list_tokens(connection: Connection, *, limit: int = MAX_LISTED, after: UUID | None = None) -> TokensReply:
    """Oldest first, the revoked and expired ones too; `after` is the last one of the page before.

    Raises:
        NotFound: there never was such a token to list those after it.
    """
    place, size = (tokens.c.created_at, tokens.c.id), max(1, min(limit, MAX_LISTED))
    asked = select(tokens).order_by(*place).limit(size + 1)
    if after is not None:
        last = connection.execute(select(*place).where(tokens.c.id == after)).one_or_none()
        if last is None:
            raise NotFound(noun="token", name=str(after))
        asked = asked.where(tuple_(*place) > tuple_(*last))
    rows = connection.execute(asked).all()
    return TokensReply(tokens=tuple(_view(row) for row in rows[:size]), more=len(rows) > size)


def revoke(connection: Connection, now: datetime, token: UUID, actor: str) -> None:
    """Nobody gets in with it any more. Repeating it changes nothing.

    Raises:
        NotFound: there is no such token.
    """
    row = connection.execute(select(tokens).where(tokens.c.id == token).with_for_update()).one_or_none()
    if row is None:
        raise NotFound(noun="token", name=str(token))
    if row.revoked_at is None:
        connection.execute(update(tokens).where(tokens.c.id == token).values(revoked_at=now))
        audit.append(connection, now, actor, Action.TOKEN_REVOKED, row.name, id=token)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _view(row: Row[Any]) -> TokenView:
    return TokenView(
        id=row.id, name=row.name, role=OperatorRole(row.role), created_at=row.created_at, expires_at=row.expires_at,
        revoked=row.revoked_at is not None, used_at=row.used_at,
    )  # fmt: skip
