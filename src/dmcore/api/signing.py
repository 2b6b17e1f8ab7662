"""How a node signs a request: a JWT (ES256) over who, to whom, when, and exactly what. Good once, for a minute."""

import hashlib
from datetime import datetime
from typing import Annotated, Any, Self
from uuid import UUID, uuid4

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from jwt.types import Options
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from dmcore.api.errors import RequestForged
from dmcore.api.labels import NodeIdText
from dmcore.model.ids import NodeId

ALGORITHM = "ES256"
TYPE = "dmcore-request+jwt"
"""Keeps another message that the same key signed from passing as a request."""
SCHEME = "Node"
"""Of the Authorization header: `Node <JWT>`."""
LIFE_S = 60
MAX_SKEW_S = 30
SKEWED = "clock.skewed"
"""The code of a refusal that a node answers by measuring."""
MAX_JWT_CHARACTERS = 4096

Seconds = Annotated[int, Field(strict=True, ge=0, lt=1 << 36)]
_ONLY_SIGNATURE: Options = {"verify_exp": False, "verify_iat": False, "verify_nbf": False, "verify_aud": False}


class RequestClaims(BaseModel):
    """What a request's signature says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    iss: NodeIdText
    aud: UUID
    """The control plane it is for."""
    iat: Seconds
    exp: Seconds
    jti: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
    htm: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3,7}$")]
    htu: Annotated[str, StringConstraints(max_length=2048)]
    """The path, with its query."""
    bod: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the body."""

    @model_validator(mode="after")
    def _short(self) -> Self:
        if not 0 < self.exp - self.iat <= LIFE_S:
            raise ValueError(f"it must last at most {LIFE_S} seconds")
        return self

    def skew_s(self, now: datetime) -> int:
        """How far the signer's clock is ahead of this one."""
        return self.iat - int(now.timestamp())


def sign_request(
    private_key: EllipticCurvePrivateKey, node: NodeId, audience: UUID, method: str, path: str, body: bytes,
    now: datetime,
) -> str:  # fmt: skip
    """The value of the Authorization header."""
    issued = int(now.timestamp())
    claims = RequestClaims(
        iss=node, aud=audience, iat=issued, exp=issued + LIFE_S, jti=uuid4().hex, htm=method, htu=path,
        bod=_digest(body),
    )  # fmt: skip
    token = jwt.encode(claims.model_dump(mode="json"), private_key, algorithm=ALGORITHM, headers={"typ": TYPE})
    return f"{SCHEME} {token}"


def claimed_issuer(authorization: str) -> NodeId:
    """Whose key to look up. Nothing is verified yet.

    Raises:
        RequestForged: the header is no node's signature.
    """
    payload = _decoded(_token_of(authorization), None)["payload"]
    return _claims(payload).iss


def verify_request(
    public_key: EllipticCurvePublicKey, authorization: str, audience: UUID, method: str, path: str, body: bytes
) -> RequestClaims:
    """What a rightly signed header of this very request claims. When, and whether before, is the caller's to judge.

    Raises:
        RequestForged: another key signed it, or for another control plane, method, path or body.
    """
    decoded = _decoded(_token_of(authorization), public_key)
    if decoded["header"].get("typ") != TYPE:
        raise RequestForged(problem=f"its type is not {TYPE}")
    claims = _claims(decoded["payload"])
    if claims.aud != audience:
        raise RequestForged(problem="it is for another control plane")
    if (claims.htm, claims.htu, claims.bod) != (method, path, _digest(body)):
        raise RequestForged(problem="it is for another request")
    return claims


def _token_of(authorization: str) -> str:
    scheme, _, token = authorization.partition(" ")
    if scheme != SCHEME or len(token) > MAX_JWT_CHARACTERS:
        raise RequestForged(problem=f"the Authorization header is not {SCHEME} and a JWT")
    return token


def _decoded(token: str, public_key: EllipticCurvePublicKey | None) -> dict[str, Any]:
    try:
        if public_key is None:
            return jwt.decode_complete(token, options={"verify_signature": False})
        return jwt.decode_complete(token, public_key, algorithms=[ALGORITHM], options=_ONLY_SIGNATURE)
    except (jwt.InvalidTokenError, RecursionError) as problem:  # JSON nested without end is the latter
        raise RequestForged(problem=str(problem)) from problem


def _claims(payload: Any) -> RequestClaims:
    try:
        return RequestClaims.model_validate(payload)
    except ValidationError as refused:
        first = refused.errors(include_input=False, include_url=False)[0]
        raise RequestForged(problem=f"{'.'.join(map(str, first['loc'])) or 'claims'}: {first['msg']}") from refused


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
