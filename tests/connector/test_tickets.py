from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dmcore.api.errors import TicketExpired, TicketForged
from dmcore.api.tickets import Ticket, sign_ticket
from dmcore.connector.tickets import MAX_LEAP, Presented, TicketGate, load_ticket_key
from dmcore.connector.trust_errors import EpochLeap, EpochStale, SuccessorRefused, TicketForOther
from dmcore.host.errors import FileBroken
from dmcore.model.ids import CycleId, GroupId, NodeId, PlanId, successor_cycle

KEY = Ed25519PrivateKey.generate()
NODE, CONNECTOR, OTHER_NODE = NodeId("aa" * 32), NodeId("cc" * 32), NodeId("bb" * 32)
PLAN, GROUP, CYCLE = PlanId(uuid4()), GroupId(uuid4()), CycleId(uuid4())
NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATE = NOW + timedelta(hours=1)
GATE = TicketGate(KEY.public_key(), CONNECTOR)


def ticket(epoch: int = 5) -> str:
    return sign_ticket(
        KEY,
        Ticket(
            plan=PLAN,
            group=GROUP,
            cycle=CYCLE,
            epoch=epoch,
            node=NODE,
            connector=CONNECTOR,
            iat=int(NOW.timestamp()),
            exp=int(NOW.timestamp()) + 60,
        ),
    )


def check(text: str, *, now: datetime = NOW, highest: Presented = Presented(), **changed: Any) -> Ticket:  # noqa: B008 - frozen
    used: dict[str, Any] = {"node": NODE, "plan": PLAN, "group": GROUP, "cycle": CYCLE, **changed}
    return GATE.check(text, highest=highest, now=now, **used)


def test_first_presented() -> None:
    assert check(ticket()).epoch == 5
    assert check(ticket(), highest=Presented(4, OTHER_NODE)).epoch == 5


@pytest.mark.parametrize("highest", [Presented(), Presented(4, NODE)])
def test_too_late_to_be_presented(highest: Presented) -> None:
    with pytest.raises(TicketExpired):
        check(ticket(), highest=highest, now=LATE)


@pytest.mark.parametrize("highest", [Presented(5, NODE), Presented(5)])
def test_goes_on_under_its_epoch_after_the_lease(highest: Presented) -> None:
    assert check(ticket(), highest=highest, now=LATE).epoch == 5


def test_epoch_that_another_node_presented() -> None:
    with pytest.raises(TicketForOther, match="epoch 5 of node"):
        check(ticket(), highest=Presented(5, OTHER_NODE))


def test_lower_epoch_is_told_the_current_one() -> None:
    with pytest.raises(EpochStale, match=f"epoch 5 of group {GROUP} is over: epoch 9") as refused:
        check(ticket(), highest=Presented(9, NODE))
    assert (refused.value.code, refused.value.current) == ("ticket.epoch", 9)


@pytest.mark.parametrize("highest", [0, 5, 1 << 40])
def test_leap_that_would_leave_no_epoch_for_others(highest: int) -> None:
    presented = Presented(highest, NODE)
    assert check(ticket(highest + MAX_LEAP), highest=presented).epoch == highest + MAX_LEAP
    for epoch in (highest + MAX_LEAP + 1, (1 << 63) - 1):
        with pytest.raises(EpochLeap, match=f"epoch {epoch} of group {GROUP} is too far ahead of {highest}") as refused:
            check(ticket(epoch), highest=presented)
        assert refused.value.code == "ticket.leap"


@pytest.mark.parametrize(
    ("what", "other"),
    [
        ("node", OTHER_NODE),
        ("plan", PlanId(uuid4())),
        ("group", GroupId(uuid4())),
        ("cycle", CycleId(uuid4())),
    ],
)
def test_used_for_another(what: str, other: Any) -> None:
    with pytest.raises(TicketForOther, match=f"for {what} .* used for {other}") as refused:
        check(ticket(), **{what: other})
    assert refused.value.code == "ticket.other"


def test_for_another_connector() -> None:
    with pytest.raises(TicketForOther, match="for connector"):
        TicketGate(KEY.public_key(), OTHER_NODE).check(
            ticket(), node=NODE, plan=PLAN, group=GROUP, cycle=CYCLE, highest=Presented(), now=NOW
        )


# Successors, without a control plane


def succeed(number: int, epoch: int = 5, cycle: CycleId | None = None, **changes: Any) -> Ticket:
    cycle = cycle or successor_cycle(CYCLE, number)
    highest = changes.pop("highest", Presented(5, NODE))
    return check(ticket(epoch), cycle=cycle, successor=number, highest=highest, **changes)


def test_successors_of_the_lease_that_was_presented() -> None:
    for number in (1, 2, 7, (1 << 32) - 1):
        assert succeed(number, now=LATE).epoch == 5


def test_successor_under_a_fresh_epoch() -> None:
    for highest in (Presented(), Presented(4, NODE), Presented(4)):
        with pytest.raises(SuccessorRefused, match=f"successor 1 of group {GROUP} under epoch 5") as refused:
            succeed(1, highest=highest)
        assert refused.value.code == "ticket.successor"


def test_successor_under_an_epoch_that_another_node_presented() -> None:
    for highest in (Presented(5, OTHER_NODE), Presented(5)):
        with pytest.raises(SuccessorRefused):
            succeed(1, highest=highest)


def test_successor_under_an_epoch_that_is_over() -> None:
    with pytest.raises(EpochStale):
        succeed(1, highest=Presented(6, NODE))


@pytest.mark.parametrize(
    ("number", "cycle"),
    [(1, CYCLE), (0, successor_cycle(CYCLE, 1)), (1, successor_cycle(CYCLE, 2)), (1, CycleId(uuid4()))],
    ids=["the-tickets-own", "not-said", "another-number", "made-up"],
)
def test_successor_that_is_not_the_one_it_says(number: int, cycle: CycleId) -> None:
    with pytest.raises(TicketForOther, match="for cycle"):
        succeed(number, cycle=cycle)


def test_successor_by_another_node_or_ticket() -> None:
    with pytest.raises(TicketForOther, match="for node"):
        succeed(1, node=OTHER_NODE)
    with pytest.raises(TicketForged):
        TicketGate(Ed25519PrivateKey.generate().public_key(), CONNECTOR).check(
            ticket(), node=NODE, plan=PLAN, group=GROUP, cycle=successor_cycle(CYCLE, 1), successor=1,
            highest=Presented(5, NODE), now=NOW,
        )  # fmt: skip


def test_forged() -> None:
    gate = TicketGate(Ed25519PrivateKey.generate().public_key(), CONNECTOR)
    with pytest.raises(TicketForged):
        gate.check(ticket(), node=NODE, plan=PLAN, group=GROUP, cycle=CYCLE, highest=Presented(), now=NOW)


def test_pinned_key(tmp_path: Path) -> None:
    path = tmp_path / "tickets.pem"
    path.write_bytes(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert load_ticket_key(path) == KEY.public_key()


def test_pinned_key_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "tickets.pem"
    public = generate_private_key(SECP256R1()).public_key()
    path.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(FileBroken, match="Ed25519"):
        load_ticket_key(path)


def test_no_pinned_key(tmp_path: Path) -> None:
    with pytest.raises(FileBroken, match="absent"):
        load_ticket_key(tmp_path / "absent")
    (tmp_path / "bad").write_text("x")
    with pytest.raises(FileBroken, match="not a public key"):
        load_ticket_key(tmp_path / "bad")
