"""What a node signs, and what passes for it."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from hypothesis import given
from hypothesis import strategies as st

from dmcore.api.errors import RequestForged
from dmcore.api.signing import (
    ALGORITHM,
    LIFE_S,
    MAX_JWT_CHARACTERS,
    TYPE,
    RequestClaims,
    claimed_issuer,
    sign_request,
    verify_request,
)
from dmcore.model.ids import NodeId
from dmcore.model.names import node_id_of
from dmcore.node.identity import public_der

KEY = generate_private_key(SECP256R1())
NODE = node_id_of(public_der(KEY))
CONTROL = uuid4()
NOW = datetime(2026, 3, 1, 12, 0, 0, 700_000, tzinfo=UTC)
POLL = ("POST", "/v1/nodes/poll?x=1", b"{}")


def signed(key: EllipticCurvePrivateKey = KEY, node: NodeId = NODE, control: UUID = CONTROL) -> str:
    return sign_request(key, node, control, *POLL, NOW)


def claims(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = jwt.decode(signed().split()[1], options={"verify_signature": False})
    return {**made, **changes}


def header_of(payload: dict[str, Any], key: Any = KEY, algorithm: str | None = ALGORITHM, typ: str = TYPE) -> str:
    return f"Node {jwt.encode(payload, key, algorithm=algorithm, headers={'typ': typ})}"


def test_there_and_back() -> None:
    header = signed()
    assert claimed_issuer(header) == NODE
    found = verify_request(KEY.public_key(), header, CONTROL, *POLL)
    assert (found.iss, found.aud, found.htm, found.htu) == (NODE, CONTROL, "POST", "/v1/nodes/poll?x=1")
    assert found.exp - found.iat == LIFE_S
    assert found.skew_s(NOW) == 0
    assert found.skew_s(NOW - timedelta(minutes=10)) == 600
    assert found.skew_s(NOW + timedelta(minutes=10)) == -600


def test_no_two_are_the_same() -> None:
    assert claims()["jti"] != claims()["jti"]


@pytest.mark.parametrize(
    "asked",
    [
        ("GET", *POLL[1:]),
        (POLL[0], "/v1/nodes/poll", POLL[2]),
        (*POLL[:2], b"{ }"),
        (POLL[0], "/v1/nodes/plans", b"{}"),
    ],
    ids=["method", "query", "body", "path"],
)
def test_it_is_good_for_its_own_request_only(asked: tuple[str, str, bytes]) -> None:
    with pytest.raises(RequestForged, match="another request"):
        verify_request(KEY.public_key(), signed(), CONTROL, *asked)


def test_it_is_good_at_its_own_control_plane_only() -> None:
    with pytest.raises(RequestForged, match="another control plane"):
        verify_request(KEY.public_key(), signed(), uuid4(), *POLL)


@pytest.mark.parametrize(
    "forge",
    [
        lambda: signed(generate_private_key(SECP256R1())),
        lambda: header_of(claims(), typ="dmcore-ticket+jwt"),
        lambda: header_of(claims(), key=None, algorithm="none"),
        lambda: header_of(claims(), key="a" * 64, algorithm="HS256"),
        lambda: header_of(claims(exp=claims()["iat"] + LIFE_S + 1)),
        lambda: header_of(claims(exp=claims()["iat"])),
        lambda: header_of(claims(iss="../etc/passwd")),
        lambda: header_of(claims(jti="A" * 32)),
        lambda: header_of(claims(more=1)),
        lambda: header_of({}),
        lambda: signed().replace("Node ", "Bearer "),
        lambda: signed()[:-4],
        lambda: "Node",
        lambda: "",
        lambda: f"Node {'a' * (MAX_JWT_CHARACTERS + 1)}",
        lambda: "Node a.b.c",
    ],
)
def test_what_is_refused(forge: Callable[[], str]) -> None:
    with pytest.raises(RequestForged):
        verify_request(KEY.public_key(), forge(), CONTROL, *POLL)


def nested(depth: int) -> str:
    return base64.urlsafe_b64encode(b"[" * depth).decode().rstrip("=")


@pytest.mark.parametrize("part", [0, 1], ids=["header", "payload"])
def test_json_without_end_is_refused_before_anything_is_verified(part: int) -> None:
    parts = signed().removeprefix("Node ").split(".")
    parts[part] = nested(2700)
    for look in (claimed_issuer, lambda header: verify_request(KEY.public_key(), header, CONTROL, *POLL)):
        with pytest.raises(RequestForged):
            look(f"Node {'.'.join(parts)}")


@given(st.text(max_size=200))
def test_any_text_is_refused(text: str) -> None:
    for header in (text, f"Node {text}"):
        with pytest.raises(RequestForged):
            claimed_issuer(header)


def test_the_claims_are_all_there_is() -> None:
    assert set(claims()) == set(RequestClaims.model_fields)
    assert json.dumps(claims()).isascii()
