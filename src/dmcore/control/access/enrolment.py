"""Nodes: join tokens, enrolment, revocation, and which process of a node is the one that counts."""

import base64
import binascii
import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, Row, bindparam, insert, or_, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from dmcore.api.join import JoinToken
from dmcore.api.nodes import EnrollRequest, NodesReply, NodeView, PollRequest
from dmcore.api.operators import Action, EventKind, JoinSpec, NewJoin
from dmcore.control.access import audit
from dmcore.control.errors import JoinRefused, NodeRevoked, NotFound, StateConflict
from dmcore.control.queue import attempts
from dmcore.control.queue.shares import is_live
from dmcore.control.reports import events
from dmcore.control.store.tables import HELD, QUEUED_WORK, jobs, joins, nodes, sites
from dmcore.model.enums import Role
from dmcore.model.ids import NodeId
from dmcore.model.jobs import JobKind, JobState
from dmcore.model.names import node_id_of

JOIN_LIFE = timedelta(hours=1)
SECRET_BYTES = 32
NOTED_EVERY = timedelta(seconds=10)
"""When a node was last heard of is kept to this precision."""
MAX_SUPERSEDED = 64
"""Earlier processes that are remembered of a node."""
MAX_URLS = 8
MAX_LISTED = 500
_NODE = select(nodes).where(nodes.c.id == bindparam("node")).with_for_update(key_share=True)


@dataclass(frozen=True)
class Invitation:
    """What every join token tells of the control plane."""

    urls: tuple[str, ...]
    control: UUID
    tls: str | None
    """The pinned certificate's fingerprint; None: a CA vouches for it."""
    ticket_key: str


def create_join(connection: Connection, now: datetime, spec: JoinSpec, about: Invitation, actor: str) -> NewJoin:
    """A join token, good once, for an hour.

    Raises:
        NotFound: no such site.
    """
    if connection.execute(select(sites.c.name).where(sites.c.name == spec.site)).first() is None:
        raise NotFound(noun="site", name=spec.site)
    secret, expires_at, join = secrets.token_urlsafe(SECRET_BYTES), now + JOIN_LIFE, uuid4()
    kept = {"id": join, "site": spec.site, "role": spec.role, "expires_at": expires_at}
    connection.execute(insert(joins).values(**kept, secret_sha256=_digest(secret)))
    audit.append(connection, now, actor, Action.JOIN_CREATED, join, site=spec.site, role=spec.role)
    token = JoinToken(
        urls=about.urls[:MAX_URLS], control=about.control, secret=secret, site=spec.site, role=spec.role,
        tls=about.tls, ticket_key=about.ticket_key,
    )  # fmt: skip
    return NewJoin(token=token.encode(), expires_at=expires_at)


def public_key_of(request: EnrollRequest) -> bytes:
    """The key that a node brings, DER. Raises JoinRefused: not base64."""
    try:
        return base64.b64decode(request.public_key, validate=True)
    except binascii.Error as problem:
        raise JoinRefused from problem


def enroll(connection: Connection, now: datetime, request: EnrollRequest, public_key: bytes) -> NodeId:
    """Make a node known; that the sender has the key was verified. Repeating it with the same token changes nothing.

    Raises:
        JoinRefused: the token is not good, or not for this node, site and role.
        StateConflict: the same key is enrolled in another role.
    """
    node = node_id_of(public_key)
    join = _use_join(connection, now, request, node)
    fresh = {"site": request.site, "version": request.version, "enrolled_at": now, "revoked_at": None}
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    new = dialect.insert(nodes).values(id=node, role=request.role, public_key=public_key, **fresh)
    connection.execute(new.on_conflict_do_nothing())  # the same key may come with two tokens at once
    known = connection.execute(select(nodes).where(nodes.c.id == node).with_for_update(key_share=True)).one()
    if known.role != request.role:
        raise StateConflict(noun="node", name=node, state=known.role, problem="make a new key for another role")
    connection.execute(update(nodes).where(nodes.c.id == node).values(**fresh))
    if join.used_at is None:
        audit.append(
            connection, now, f"node {node}", Action.NODE_ENROLLED, node, site=request.site, role=request.role,
            join=join.id,
        )  # fmt: skip
    return node


def revoke(connection: Connection, now: datetime, node: str, actor: str) -> None:
    """Nothing it signs is accepted any more. Repeatable.

    Cycles that it holds are taken back as its leases end; what only it, as a connector, could do is cancelled.

    Raises:
        NotFound: no such node was ever enrolled.
    """
    work = select(jobs).where(or_(QUEUED_WORK, HELD), jobs.c.kind != JobKind.CYCLE, jobs.c.connector == node)
    orphaned = connection.execute(work.order_by(jobs.c.id).with_for_update()).all()  # jobs before nodes, as outcomes do
    row = connection.execute(select(nodes).where(nodes.c.id == node).with_for_update(key_share=True)).one_or_none()
    if row is None:
        raise NotFound(noun="node", name=node)
    if row.revoked_at is None:
        for job in orphaned:
            attempts.end(connection, now, job, JobState.CANCELLED)
        connection.execute(update(nodes).where(nodes.c.id == node).values(revoked_at=now))
        unused = (joins.c.node == node, joins.c.expires_at > now)
        connection.execute(update(joins).where(*unused).values(expires_at=now))  # an answer lost is no way back in
        audit.append(connection, now, actor, Action.NODE_REVOKED, node, site=row.site, role=row.role)


def seen(connection: Connection, now: datetime, node: str, poll: PollRequest) -> Row[Any] | None:
    """A node asks for work: keep what it tells of itself. None: a later process of it has polled before.

    Raises:
        NodeRevoked: it is not enrolled (any more).
    """
    row = connection.execute(_NODE, {"node": node}).one_or_none()
    if row is None or row.revoked_at is not None:
        raise NodeRevoked(node=node)
    if str(poll.incarnation) in row.superseded:
        _report_clone(connection, now, row, poll.incarnation)
        return None
    told: dict[str, Any] = {"version": poll.version}
    told |= {name: list(getattr(poll, name)) for name in ("sources", "targets", "recoveries")}
    if row.incarnation != poll.incarnation:
        told["incarnation"] = poll.incarnation
        if row.incarnation is not None:
            told["superseded"] = [*row.superseded, str(row.incarnation)][-MAX_SUPERSEDED:]
    changed = any(getattr(row, name) != value for name, value in told.items())
    if changed or row.seen_at is None or now - row.seen_at >= NOTED_EVERY:
        connection.execute(update(nodes).where(nodes.c.id == node).values(**told, seen_at=now))
    return row


def list_nodes(
    connection: Connection, now: datetime, *, limit: int = MAX_LISTED, after: str | None = None
) -> NodesReply:
    """The revoked ones too, by site and role; `after` is the last one of the page before.

    Raises:
        NotFound: there never was such a node to list those after it.
    """
    place, size = (nodes.c.site, nodes.c.role, nodes.c.id), max(1, min(limit, MAX_LISTED))
    asked = select(nodes).order_by(*place).limit(size + 1)
    if after is not None:
        last = connection.execute(select(*place).where(nodes.c.id == after)).one_or_none()
        if last is None:
            raise NotFound(noun="node", name=after)
        asked = asked.where(tuple_(*place) > tuple_(*last))
    rows = connection.execute(asked).all()
    return NodesReply(nodes=tuple(_view(now, row) for row in rows[:size]), more=len(rows) > size)


def require_connector(connection: Connection, node: str) -> None:
    """That there is such a connector. Raises NotFound: no, or not any more."""
    good = (nodes.c.id == node, nodes.c.role == Role.CONNECTOR, nodes.c.revoked_at.is_(None))
    if connection.execute(select(nodes.c.id).where(*good)).first() is None:
        raise NotFound(noun="connector", name=node)


def _use_join(connection: Connection, now: datetime, request: EnrollRequest, node: NodeId) -> Row[Any]:
    """Spend the token, as it was before: of two who race, the other one's update finds it spent."""
    good = (
        joins.c.secret_sha256 == _digest(request.secret), joins.c.site == request.site,
        joins.c.role == request.role, joins.c.expires_at > now, or_(joins.c.used_at.is_(None), joins.c.node == node),
    )  # fmt: skip
    row = connection.execute(select(joins).where(*good).with_for_update(key_share=True)).one_or_none()
    if row is None:
        raise JoinRefused
    if row.used_at is None:
        connection.execute(update(joins).where(joins.c.id == row.id).values(used_at=now, node=node))
    return row


def _report_clone(connection: Connection, now: datetime, row: Row[Any], incarnation: UUID) -> None:
    """Once for each process that speaks although it was superseded."""
    told = f"{incarnation} told"
    if told not in row.superseded:
        remembered = [*row.superseded, told][-MAX_SUPERSEDED:]
        connection.execute(update(nodes).where(nodes.c.id == row.id).values(superseded=remembered))
        events.record(connection, now, EventKind.NODE_CLONED, node=row.id)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _view(now: datetime, row: Row[Any]) -> NodeView:
    return NodeView(
        node=row.id, site=row.site, role=Role(row.role), version=row.version, enrolled_at=row.enrolled_at,
        seen_at=row.seen_at, live=row.revoked_at is None and is_live(now, row.seen_at),
        revoked=row.revoked_at is not None, sources=tuple(row.sources), targets=tuple(row.targets),
        recoveries=tuple(row.recoveries),
    )  # fmt: skip
