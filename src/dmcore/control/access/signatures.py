"""Nodes' signed requests: rightly signed, for this very request, just now, and never before."""

import threading
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key
from sqlalchemy import Connection, Row, bindparam, select

from dmcore.api.errors import RequestForged
from dmcore.api.signing import LIFE_S, MAX_SKEW_S, RequestClaims, claimed_issuer, verify_request
from dmcore.control.errors import ClockSkewed, NodeRevoked, RoleMissing, SignatureRefused
from dmcore.control.serving_errors import RequestFlood
from dmcore.control.store.tables import nodes
from dmcore.model.enums import Role
from dmcore.model.ids import NodeId

REMEMBERED_S = LIFE_S + MAX_SKEW_S
"""A signature is accepted for no longer than this, so it is remembered for no longer."""
MAX_REMEMBERED = 8192
"""Of one node: far more than it can need in that time."""
FORGED = "it is not this node's signature of this request"
"""All that a refused sender is told: what a header holds is not repeated in an answer or a log."""
_NODE = select(nodes).where(nodes.c.id == bindparam("node"))


@dataclass(frozen=True)
class SignedRequest:
    """What a signature is about."""

    authorization: str
    method: str
    path: str
    """As it was sent, with its query."""
    body: bytes = field(repr=False)


@dataclass
class _Seen:
    """The signatures of one node, in the order in which they came."""

    order: deque[tuple[float, str]] = field(default_factory=deque)
    ids: set[str] = field(default_factory=set)

    def forget(self, before: float) -> None:
        while self.order and self.order[0][0] < before:
            self.ids.discard(self.order.popleft()[1])


class SignatureBook:
    """Which signatures have been used. Of one process: each replica accepts a request once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[str, _Seen] = {}

    def use(self, claims: RequestClaims, now: datetime) -> None:
        """Use it up.

        Raises:
            SignatureRefused: it was used before.
            RequestFlood: this node has used too many.
        """
        at = now.timestamp()
        with self._lock:
            seen = self._seen.setdefault(claims.iss, _Seen())
            seen.forget(at - REMEMBERED_S)
            if claims.jti in seen.ids:
                raise SignatureRefused(problem="it was used before")
            if len(seen.ids) >= MAX_REMEMBERED:
                raise RequestFlood(node=claims.iss, count=MAX_REMEMBERED, seconds=REMEMBERED_S)
            seen.ids.add(claims.jti)
            seen.order.append((at, claims.jti))


class KeyRing:
    """The public keys of nodes that were enrolled once. A node's id is its key's hash: it never gets another key.

    Thread-safe. Whether a node is enrolled still, a key does not say: that is read in the transaction of what it asks.
    """

    def __init__(self) -> None:
        self._keys: dict[str, EllipticCurvePublicKey] = {}

    def __contains__(self, node: str) -> bool:
        return node in self._keys

    def __getitem__(self, node: str) -> EllipticCurvePublicKey:
        return self._keys[node]

    def look_up(self, connection: Connection, node: str) -> None:
        """Know its key from now on. Raises NodeRevoked: it is not enrolled."""
        self._keys[node] = load_public_key(enrolled(connection, node).public_key)


def claimed_sender(request: SignedRequest) -> NodeId:
    """The node that a request says it is from. Nothing is verified yet. Raises SignatureRefused: it cannot be read."""
    try:
        return claimed_issuer(request.authorization)
    except RequestForged as forged:
        raise SignatureRefused(problem=FORGED) from forged


def enrolled(connection: Connection, node: str, needed: Role | None = None) -> Row[Any]:
    """The row of `nodes` of a node, now.

    Raises:
        NodeRevoked: no such node is enrolled here (any more).
        RoleMissing: it is one of the other role.
    """
    row = connection.execute(_NODE, {"node": node}).one_or_none()
    if row is None or row.revoked_at is not None:
        raise NodeRevoked(node=node)
    if needed is not None and row.role != needed:
        raise RoleMissing(needed=needed, held=row.role)
    return row


def verify(public_key: EllipticCurvePublicKey, control: UUID, request: SignedRequest, now: datetime) -> RequestClaims:
    """What a request of this key claims, signed just now.

    Raises:
        SignatureRefused: another key signed it, or for another control plane or request, or too long ago.
        ClockSkewed: it is rightly signed, by a clock that is off.
    """
    try:
        claims = verify_request(
            public_key, request.authorization, control, request.method, request.path, request.body
        )  # fmt: skip
    except RequestForged as forged:
        raise SignatureRefused(problem=FORGED) from forged
    skew_s = claims.skew_s(now)
    if abs(skew_s) > MAX_SKEW_S:
        raise ClockSkewed(skew_s=skew_s)
    if claims.exp <= now.timestamp():
        raise SignatureRefused(problem="it has expired")
    return claims


def load_public_key(der: bytes) -> EllipticCurvePublicKey:
    """A node's key (SubjectPublicKeyInfo). Raises SignatureRefused: not a P-256 key."""
    try:
        key = load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm) as problem:
        raise SignatureRefused(problem="the public key cannot be read") from problem
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise SignatureRefused(problem="the public key is not a P-256 key")
    return key
