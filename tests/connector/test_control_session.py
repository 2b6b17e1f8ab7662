"""What `begin`, `state` and `commit` refuse, each with its code, and what a refusal leaves behind: nothing."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dmcore.api.tickets import Ticket, sign_ticket
from dmcore.connector.control_session import state_reply
from dmcore.lab.layout import SITE_SOURCE, TARGET
from dmcore.model.ids import CycleId, GroupId, NodeId, PlanId, point_id, successor_cycle
from dmcore.model.phase import ANSWERED, Phase
from dmcore.node.settings import TargetKind, TargetSettings
from dmcore.shadow.admission import Answer
from dmcore.shadow.group import GroupShadow
from dmcore.shadow.state import GroupState
from dmcore.wire.messages import BeginAnswer, CommitRequest, StateReply, StateRequest
from tests.connector.appliance import Appliance, Attempt
from tests.connector.kit import Disk, refusal
from tests.connector.rig import Rig, running
from tests.wire.peers import free_order

OTHER_NODE = NodeId("ab" * 32)

pytestmark = pytest.mark.usefixtures("house")


# Tickets


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("plan", PlanId(uuid4())),
        ("group", GroupId(uuid4())),
        ("cycle", CycleId(uuid4())),
        ("node", OTHER_NODE),
        ("connector", OTHER_NODE),
    ],
)
def test_ticket_of_another(rig: Rig, appliance: Appliance, disk: Disk, claim: str, value: Any) -> None:
    attempt = appliance.attempt(disk)
    ticket = rig.ticket(appliance, attempt.cycle, attempt.epoch, **{claim: value})
    refused = refusal(lambda: attempt.begin(ticket=ticket))
    assert refused.code == "ticket.other"
    assert f"for {claim} {value}" in str(refused)
    assert rig.nothing_was_made()


def test_ticket_expired_or_in_use(tmp_path: Path) -> None:
    """A lease is over in time for who has not presented it, and goes on for who has."""
    with running(tmp_path / "lab") as appliance:
        rig = appliance.rig
        used, unused = appliance.attempt(disk := Disk.make(rig.plan, "d0")), appliance.attempt(disk)
        tickets = [rig.ticket(appliance, each.cycle, each.epoch) for each in (used, unused)]
        used.begin(ticket=tickets[0])
        used.control.close()
        rig.clock.advance(seconds=601)
        used.control = appliance.control()
        assert used.begin(ticket=tickets[0]).answer is BeginAnswer.RECEIVING
        assert refusal(lambda: unused.begin(ticket=tickets[1])).code == "ticket.expired"
        assert appliance.state().epoch == used.epoch


def test_successors_of_a_lease(tmp_path: Path) -> None:
    """Without a control plane: the ticket of the first cycle, long expired, carries those that follow it."""
    with running(tmp_path / "lab") as appliance:
        rig, disk = appliance.rig, Disk.make(appliance.rig.plan, "d0")
        first = appliance.run(disk)
        ticket = rig.ticket(appliance, first.cycle, first.epoch)
        rig.clock.advance(hours=5)

        def begin(number: int, **changes: Any) -> Attempt:
            attempt = Attempt(appliance, (disk,), successor_cycle(first.cycle, number), first.epoch)
            rig.wait_until_finished()
            attempt.begin(ticket=ticket, successor=number, **changes)
            return attempt

        for number in (1, 2):
            attempt = begin(number)
            attempt.send(disk, [number])
            assert attempt.finish().point is not None
        assert refusal(lambda: begin(1)).code == "cycle.stale-epoch"
        assert refusal(lambda: begin(3, cycle=first.cycle)).code == "ticket.other"
        (shadow,) = rig.connector.groups.all()
        assert (shadow.state.epoch, shadow.state.successor) == (first.epoch, 2)
        rig.clock.advance(hours=-5)  # certificates are judged by the real time
        rig.restart()
        assert begin(3).reply
        fresh = rig.ticket(appliance, first.cycle, first.epoch + 1)
        with_fresh = Attempt(appliance, (disk,), successor_cycle(first.cycle, 4), first.epoch + 1)
        assert refusal(lambda: with_fresh.begin(ticket=fresh, successor=4)).code == "ticket.successor"
        rig.epoch = first.epoch
        assert appliance.run(disk, carry=[1]).reply
        assert refusal(lambda: begin(5)).code == "ticket.epoch"


def test_ticket_forged(rig: Rig, appliance: Appliance, disk: Disk) -> None:
    attempt = appliance.attempt(disk)
    now = int(rig.clock().timestamp())
    claims = Ticket(
        plan=rig.plan, group=rig.group, cycle=attempt.cycle, epoch=attempt.epoch, node=appliance.identity.node,
        connector=rig.connector.trust.identity.node, iat=now, exp=now + 60,
    )  # fmt: skip
    forged = sign_ticket(Ed25519PrivateKey.generate(), claims)
    assert refusal(lambda: attempt.begin(ticket=forged)).code == "ticket.forged"
    assert rig.nothing_was_made()


def test_ticket_that_is_none(rig: Rig, appliance: Appliance, disk: Disk) -> None:
    assert refusal(lambda: appliance.attempt(disk).begin(ticket="a.b.c")).code == "ticket.malformed"
    assert rig.nothing_was_made()


def test_ticket_of_another_epoch_than_the_begin(rig: Rig, appliance: Appliance, disk: Disk) -> None:
    attempt = appliance.attempt(disk)
    ticket = rig.ticket(appliance, attempt.cycle, 77)
    refused = refusal(lambda: attempt.begin(ticket=ticket))
    assert refused.code == "cycle.not-begun"
    assert "epoch 77" in str(refused)
    assert rig.nothing_was_made()


def test_stale_epoch_is_told_the_current_one(appliance: Appliance, disk: Disk) -> None:
    stale = appliance.attempt(disk)
    current = appliance.begin(disk)
    refused = refusal(stale.begin)
    assert refused.code == "ticket.epoch"
    assert f"epoch {current.epoch} was presented" in str(refused)


def test_a_fenced_attempt_cannot_commit(appliance: Appliance, disk: Disk) -> None:
    fenced = appliance.begin(disk)
    fenced.send(disk, disk.blocks)
    later = fenced.again()
    assert refusal(fenced.commit_once).code == "cycle.stale-epoch"
    later.carried = fenced.carried
    assert later.finish().point is not None


# Bindings


def test_another_site(rig: Rig, appliance: Appliance, disk: Disk) -> None:
    appliance.run(disk)
    elsewhere = rig.pair("elsewhere", "london")
    try:
        refused = refusal(elsewhere.state)
        assert refused.code == "plan.binding"
        assert f"bound to site {SITE_SOURCE}, but asks for london" in str(refused)
        attempt = elsewhere.attempt(disk)
        assert refusal(lambda: attempt.control.begin(attempt.request())).code == "plan.binding"
    finally:
        elsewhere.close()


def test_another_target(tmp_path: Path) -> None:
    roots = [tmp_path / "lab" / "target", tmp_path / "second"]
    roots[1].mkdir()
    targets = [TargetSettings(kind=TargetKind.FOLDER, path=root) for root in roots]
    changes = {"targets": {TARGET: targets[0], "second": targets[1]}, "allowed_roots": tuple(roots)}
    with running(tmp_path / "lab", **changes) as appliance:
        appliance.run(disk := Disk.make(appliance.rig.plan, "d0"))
        refused = refusal(lambda: appliance.begin(disk, target="second"))
        assert refused.code == "plan.binding"
        assert f"bound to target {TARGET}, but asks for second" in str(refused)


def test_another_machine(appliance: Appliance, disk: Disk, rig: Rig) -> None:
    appliance.run(disk)
    refused = refusal(lambda: appliance.begin(disk, Disk.make(rig.plan, "d1", "mail")))
    assert refused.code == "plan.binding"
    assert "bound to machines vm1, but asks for mail" in str(refused)


def test_a_second_group_of_the_plan_binds_its_own_machines(rig: Rig, appliance: Appliance, disk: Disk) -> None:
    appliance.run(disk)
    first_group, rig.group = rig.group, GroupId(uuid4())
    mail = Disk.make(rig.plan, "d0", "mail")
    seed = appliance.run(mail)
    assert rig.image_of(mail, seed.cycle) == bytes(mail.data)
    refused = refusal(lambda: appliance.begin(Disk.make(rig.plan, "d9")))
    assert f"vm1 in group {first_group}, but asks for vm1 in group {rig.group}" in str(refused)


def test_unknown_target_binds_nothing(rig: Rig, appliance: Appliance, disk: Disk) -> None:
    refused = refusal(lambda: appliance.begin(disk, target="nowhere"))
    assert refused.code == "alias.unknown"
    assert TARGET in str(refused)
    assert rig.nothing_was_made()
    assert appliance.begin(disk).reply


def test_target_outside_the_roots(tmp_path: Path) -> None:
    with running(tmp_path / "lab", allowed_roots=(tmp_path / "nowhere",)) as appliance:
        disk = Disk.make(appliance.rig.plan, "d0")
        assert refusal(lambda: appliance.begin(disk)).code == "path.outside-roots"
        assert appliance.rig.nothing_was_made()


def test_machines_that_are_no_names(rig: Rig, appliance: Appliance) -> None:
    odd = Disk.make(rig.plan, "d0", "../../etc")
    refused = refusal(lambda: appliance.begin(odd))
    assert refused.code == "plan.unfit"
    assert rig.nothing_was_made()


def test_group_of_another_plan(rig: Rig, appliance: Appliance, disk: Disk) -> None:
    appliance.run(disk)
    rig.plan = PlanId(uuid4())
    assert refusal(appliance.state).code == "cycle.unknown"
    attempt = appliance.attempt(Disk.make(rig.plan, "d0"))
    assert refusal(lambda: attempt.control.begin(attempt.request())).code == "cycle.unknown"


# Order


def test_commit_before_begin(rig: Rig, appliance: Appliance) -> None:
    control = appliance.control()
    free_order(control.connection)
    refused = refusal(lambda: control.commit(CommitRequest(cycle=CycleId(uuid4()), coverages=())))
    assert refused.code == "wire.protocol"


def test_commit_of_another_cycle(appliance: Appliance, disk: Disk) -> None:
    attempt = appliance.begin(disk)
    refused = refusal(lambda: attempt.control.commit(CommitRequest(cycle=CycleId(uuid4()), coverages=())))
    assert refused.code == "cycle.unknown"


def test_commit_of_too_little(appliance: Appliance, disk: Disk) -> None:
    attempt = appliance.begin(disk)
    attempt.send(disk, [0, 1])
    attempt.carried[disk.id] = {0}
    assert refusal(attempt.commit_once).code == "commit.coverage"


def test_commit_again_is_answered_the_same(appliance: Appliance, disk: Disk) -> None:
    attempt = appliance.begin(disk)
    attempt.send(disk, disk.blocks)
    first = attempt.commit()
    again = attempt.commit()
    assert again.point == first.point is not None
    assert again.done_bytes == again.total_bytes == first.total_bytes > 0


def test_a_new_attempt_at_a_committed_cycle_only_cleans_up(appliance: Appliance, disk: Disk) -> None:
    attempt = appliance.run(disk)
    attempt.epoch = appliance.rig.next_epoch()
    attempt.control = appliance.control()
    reply = attempt.begin()
    assert (reply.answer, reply.phase) == (BeginAnswer.COMMITTED, Phase.RECLAIMED)
    assert attempt.commit().point is not None


@pytest.mark.parametrize("later", ["finished", "receiving"])
def test_a_cycle_that_has_its_point_is_not_made_again_after_a_later_one(
    rig: Rig, appliance: Appliance, disk: Disk, later: str
) -> None:
    """Its outcome was lost. What is said is of the cycle that was asked for, and nothing of either is touched."""
    first = appliance.run(disk)
    before = rig.image_of(disk, first.cycle)
    disk.data[: len(disk.block(0))] = b"\x55" * len(disk.block(0))
    second = appliance.begin(disk)
    second.send(disk, [0])
    if later == "finished":
        second.finish()
    first.epoch = rig.next_epoch()
    for _ in range(2):  # also once more under the same lease, after a lost connection
        first.control = appliance.control()
        reply = first.begin()
        assert (reply.answer, reply.phase, reply.epoch) == (BeginAnswer.COMMITTED, Phase.RECLAIMED, first.epoch)
        answer = first.commit()
        assert (answer.phase, answer.point) == (Phase.RECLAIMED, point_id(first.cycle, rig.group))
        assert (answer.done_bytes, answer.total_bytes, answer.problem) == (0, 0, "")
    shadow = rig.connector.groups.get(rig.group)
    assert shadow.state.cycle is not None
    assert shadow.state.cycle.id == second.cycle
    assert rig.image_of(disk, first.cycle) == before
    if later == "receiving":
        carried, second = second.carried, second.again()
        second.carried = carried
        assert second.finish().point == point_id(second.cycle, rig.group)
    assert rig.image_of(disk, second.cycle) == bytes(disk.data)
    assert shadow.catalogue.count() == 2


def test_a_commit_speaks_of_its_own_cycle_when_a_later_one_begins_meanwhile(
    rig: Rig, appliance: Appliance, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = appliance.begin(disk)
    attempt.send(disk, disk.blocks)
    wait, begun = rig.connector.roller.wait, list[Answer]()

    def slowly(shadow: GroupShadow, timeout_s: float) -> Phase | None:
        phase, held = wait(shadow, timeout_s), shadow.state.cycle
        if not begun and phase in ANSWERED and held is not None:
            rig.wait_until_finished()
            new = {"id": CycleId(uuid4()), "epoch": rig.next_epoch(), "phase": Phase.RECEIVING, "disks": {}}
            begun.append(shadow.begin(held.model_copy(update=new)))
        return phase

    monkeypatch.setattr(rig.connector.roller, "wait", slowly)
    reply = attempt.commit()
    assert begun == [Answer.START]
    assert (reply.phase, reply.point) == (Phase.RECLAIMED, point_id(attempt.cycle, rig.group))


def test_a_cycle_given_up_is_not_gone_on_with(appliance: Appliance, disk: Disk) -> None:
    attempt = appliance.begin(disk)
    assert refusal(lambda: attempt.again(snapshot_identity="another")).code == "cycle.dropped"


def test_the_appliance_may_just_leave(rig: Rig, appliance: Appliance, disk: Disk) -> None:
    appliance.begin(disk).control.close()
    state = appliance.state()
    assert state.cycle is not None
    assert (state.cycle.phase, state.busy) == (Phase.RECEIVING, False)


def test_nothing_is_known_of_a_new_group(rig: Rig, appliance: Appliance) -> None:
    assert appliance.state() == StateReply(busy=False, epoch=0, cycle=None, disks=())
    reply = state_reply(GroupState(plan=rig.plan, group=rig.group, target=TARGET))
    assert reply.cycle is None


def test_asking_is_not_beginning(rig: Rig, appliance: Appliance) -> None:
    appliance.control().state(StateRequest(group=rig.group, plan=rig.plan))
    assert rig.nothing_was_made()
