import base64
import json
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import ValidationError

from dmcore.api.errors import TicketExpired, TicketForged, TicketMalformed
from dmcore.api.tickets import TYPE, Ticket, sign_ticket, verify_ticket
from dmcore.model.ids import CycleId, GroupId, NodeId, PlanId

KEY = Ed25519PrivateKey.generate()
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TICKET = Ticket(
    plan=PlanId(uuid4()),
    group=GroupId(uuid4()),
    cycle=CycleId(uuid4()),
    epoch=7,
    node=NodeId("ab" * 32),
    connector=NodeId("cd" * 32),
    iat=int(NOW.timestamp()),
    exp=int((NOW + timedelta(minutes=5)).timestamp()),
)


def signed(claims: dict[str, object], typ: str = TYPE) -> str:
    return jwt.encode(claims, KEY, algorithm="EdDSA", headers={"typ": typ})


def test_there_and_back() -> None:
    assert verify_ticket(KEY.public_key(), sign_ticket(KEY, TICKET), NOW) == TICKET


def test_expiry_is_the_callers_to_judge() -> None:
    text = sign_ticket(KEY, TICKET)
    late = NOW + timedelta(minutes=5)
    assert verify_ticket(KEY.public_key(), text) == TICKET
    assert verify_ticket(KEY.public_key(), text, late - timedelta(seconds=1)) == TICKET
    with pytest.raises(
        TicketExpired, match=f"epoch 7 of group {TICKET.group} expired at 2026-01-02T03:09:05"
    ) as refused:
        verify_ticket(KEY.public_key(), text, late)
    assert refused.value.code == "ticket.expired"


def test_signed_by_another() -> None:
    with pytest.raises(TicketForged) as refused:
        verify_ticket(KEY.public_key(), sign_ticket(Ed25519PrivateKey.generate(), TICKET))
    assert refused.value.code == "ticket.forged"


def test_changed() -> None:
    head, _, tail = sign_ticket(KEY, TICKET).split(".")
    body = base64.urlsafe_b64encode(json.dumps({**TICKET.model_dump(mode="json"), "epoch": 8}).encode())
    with pytest.raises(TicketForged):
        verify_ticket(KEY.public_key(), f"{head}.{body.decode().rstrip('=')}.{tail}")


def test_only_the_pinned_algorithm() -> None:
    claims = TICKET.model_dump(mode="json")
    public = KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    others = [
        jwt.encode(claims, "", algorithm="none", headers={"typ": TYPE}),
        jwt.encode(claims, public, algorithm="HS256", headers={"typ": TYPE}),
        jwt.encode(claims, generate_private_key(SECP256R1()), algorithm="ES256", headers={"typ": TYPE}),
    ]
    for text in others:
        with pytest.raises(TicketForged):
            verify_ticket(KEY.public_key(), text)


def test_another_message_of_the_same_key_is_no_ticket() -> None:
    with pytest.raises(TicketMalformed, match="type"):
        verify_ticket(KEY.public_key(), signed(TICKET.model_dump(mode="json"), typ="JWT"))


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 0},
        {"epoch": True},
        {"epoch": "7"},
        {"epoch": 1 << 63},
        {"node": "../etc"},
        {"plan": "x"},
        {"exp": 1 << 60},
        {"exp": TICKET.iat},
        {"scope": "all"},
    ],
    ids=str,
)
def test_rightly_signed_nonsense(change: dict[str, object]) -> None:
    with pytest.raises(TicketMalformed, match=rf"{next(iter(change))}|expires before"):
        verify_ticket(KEY.public_key(), signed({**TICKET.model_dump(mode="json"), **change}))


@pytest.mark.parametrize("name", list(Ticket.model_fields))
def test_every_claim_is_needed(name: str) -> None:
    claims = TICKET.model_dump(mode="json")
    del claims[name]
    with pytest.raises(TicketMalformed, match=name):
        verify_ticket(KEY.public_key(), signed(claims))


@pytest.mark.parametrize("text", ["", "a.b.c", "x" * 5000], ids=["empty", "dots", "long"])
def test_no_jwt_at_all(text: str) -> None:
    with pytest.raises(TicketMalformed):
        verify_ticket(KEY.public_key(), text)


def test_claims_are_fixed_when_made() -> None:
    with pytest.raises(ValidationError):
        Ticket.model_validate({**TICKET.model_dump(), "node": "short"})


def test_a_header_nested_without_end() -> None:
    nested = base64.urlsafe_b64encode(b'{"a":' + b"[" * 2000).decode().rstrip("=")
    with pytest.raises(TicketMalformed):
        verify_ticket(Ed25519PrivateKey.generate().public_key(), f"{nested}.e30.AA")
