"""The poll loop against a control plane that answers, is away, or says no."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import UUID

import pytest

from dmcore.api.client_errors import ControlDenied, ControlUnreachable
from dmcore.api.nodes import PollReply
from dmcore.node import worker as module
from dmcore.node.control_client import NodeClient
from dmcore.node.control_errors import NodeReplaced
from dmcore.node.lease import LeaseKeeper
from dmcore.node.offer import Offer
from dmcore.node.worker import Worker
from tests.api.fake_control import Asked, FakeControl, Fault, Refuse, Say
from tests.node.control_kit import (
    NO_PLANS,
    NOTHING,
    OFFLINE,
    PLANS,
    POLL,
    Node,
    TestDesk,
    completed,
    new_job,
    new_work,
    outcome_of,
    polled,
    quick,
)
from tests.node.test_control_client import offline_cycle

JOB = UUID(int=5)


@dataclass
class Rig:
    client: NodeClient
    keeper: LeaseKeeper
    desk: TestDesk
    worker: Worker


Make = Callable[..., Rig]


@pytest.fixture
def make(node: Node) -> Iterator[Make]:
    made: list[Rig] = []

    def build(*, with_plans: bool = False, offer: Offer | None = None) -> Rig:
        client, desk = node.client(), TestDesk(offered=offer or Offer())
        keeper = LeaseKeeper(client, node.state_dir)  # not started: what it has is delivered by the worker
        rig = Rig(client, keeper, desk, Worker(client, desk, keeper, with_plans=with_plans, backoff=quick()))
        made.append(rig)
        return rig

    yield build
    for rig in made:
        rig.worker.stop()
        rig.keeper.stop()
        rig.client.close()


def once(first: Say) -> Callable[[Asked], Say]:
    """This answer to the first poll; the others wait, as a long poll does."""
    waiting = [first]

    def say(_: Asked) -> Say:
        return waiting.pop() if waiting else Fault.SILENT

    return say


def test_jobs_of_both_kinds_are_handed_on(control: FakeControl, make: Make) -> None:
    job, work = new_job(), new_work()
    answers: list[Say] = [polled(work), polled(job)]
    control.answers[POLL] = lambda _: answers.pop() if answers else Fault.SILENT
    rig = make()
    rig.worker.start()
    rig.desk.wait_for(lambda: rig.desk.jobs == [job, work])
    assert rig.desk.told == ["reached", "start", "start"]
    assert rig.worker.reachable
    rig.worker.stop()
    assert rig.worker.error is None
    assert rig.desk.why_ended is None


def test_a_stop_cuts_the_open_poll(control: FakeControl, make: Make) -> None:
    control.answers[POLL] = Fault.SILENT
    rig = make()
    with rig.worker:
        control.wait_asked(POLL)
        began = time.monotonic()
    assert time.monotonic() - began < 2
    rig.worker.stop()
    assert rig.desk.told == []


def test_a_stop_before_the_start(make: Make) -> None:
    make().worker.stop()


class TestWaiting:
    @pytest.mark.parametrize(
        ("offer", "wait_s"),
        [
            (Offer(), module.IDLE_WAIT_S),
            (Offer(busy=(new_job().group,)), module.BUSY_WAIT_S),
            (Offer(slots=0), 0),
        ],
        ids=["idle", "busy", "full"],
    )
    def test_a_poll_waits_as_long_as_its_offer_stays_true(
        self, control: FakeControl, make: Make, offer: Offer, wait_s: float
    ) -> None:
        """But the first one: whether anybody answers is known at once."""
        control.answers[POLL] = once(PollReply(plans_version=0, heartbeat_s=0))
        make(offer=offer).worker.start()
        assert [each.json["wait_s"] for each in control.wait_asked(POLL, 2)] == [0, wait_s]

    def test_after_a_lost_answer_one_wait_is_short(self, control: FakeControl, make: Make) -> None:
        """A job may have been in it: the control plane gives it once more, but not at once."""
        answered = PollReply(plans_version=0, heartbeat_s=0)
        control.answers[POLL] = lambda _: answered if len(control.of(POLL)) < 5 else Fault.SILENT
        control.faults = [Fault.HUNG_UP]
        make().worker.start()
        waits = [each.json["wait_s"] for each in control.wait_asked(POLL, 5)]
        assert waits == [0, 0, module.BUSY_WAIT_S, module.IDLE_WAIT_S, module.IDLE_WAIT_S]

    def test_a_free_slot_is_told_at_once(self, control: FakeControl, make: Make) -> None:
        control.answers[POLL] = NOTHING  # and says to come again in a quarter of a minute
        rig = make(offer=Offer(slots=0))
        rig.worker.start()
        control.wait_asked(POLL)
        rig.desk.wait_for(lambda: rig.desk.told == ["reached"])
        rig.desk.offered = Offer(slots=1)
        control.answers[POLL] = Fault.SILENT
        rig.worker.wake()
        assert control.wait_asked(POLL, 2)[1].json["slots"] == 1

    def test_a_full_node_says_that_it_lives(self, control: FakeControl, make: Make) -> None:
        control.answers[POLL] = PollReply(plans_version=0, heartbeat_s=0)
        make(offer=Offer(slots=0)).worker.start()
        first, second = control.wait_asked(POLL, 2)
        assert (first.json["slots"], second.json["slots"]) == (0, 0)

    def test_a_control_plane_that_never_waits_is_not_hurried(self, control: FakeControl, make: Make) -> None:
        control.answers[POLL] = NOTHING
        began = time.monotonic()
        make().worker.start()
        control.wait_asked(POLL, 4)
        assert time.monotonic() - began >= 2 * module.MIN_ROUND_S


class TestAway:
    def test_each_change_is_told_once(self, control: FakeControl, make: Make) -> None:
        control.answers[POLL] = once(NOTHING)
        control.faults = [Fault.HUNG_UP, Fault.PAGE_500, Refuse(503, "store.busy")]
        rig = make()
        rig.worker.start()
        rig.desk.wait_for(lambda: "reached" in rig.desk.told)
        assert rig.desk.told == ["unreachable", "reached"]
        assert isinstance(rig.desk.errors[0], ControlUnreachable)

    def test_it_comes_and_goes(self, control: FakeControl, make: Make) -> None:
        control.answers[POLL] = Fault.SILENT
        rig = make()
        control.stop()
        rig.worker.start()
        rig.desk.wait_for(lambda: rig.desk.told == ["unreachable"])
        control.answers[POLL] = once(polled(new_work()))
        control.start()
        rig.desk.wait_for(lambda: rig.desk.told == ["unreachable", "reached", "start"])
        control.stop()
        rig.desk.wait_for(lambda: rig.desk.told[3:] == ["unreachable"])
        assert not rig.worker.reachable
        control.start()

    def test_a_revoked_node_asks_on(self, control: FakeControl, make: Make) -> None:
        """It may be a database that was restored, and not yet all of it. The desk is told once."""
        control.answers[POLL] = Refuse(401, "node.unknown")
        rig = make()
        rig.worker.start()
        control.wait_asked(POLL, 3)
        assert rig.desk.told == ["unreachable"]
        assert isinstance(rig.desk.errors[0], ControlDenied)
        assert not rig.worker.reachable

    def test_a_no_after_an_outage_is_told_too(self, control: FakeControl, make: Make) -> None:
        """A node that was revoked while it could not hear of it."""
        control.faults = [Fault.HUNG_UP, Fault.PAGE_500]
        control.answers[POLL] = Refuse(401, "node.unknown")
        rig = make()
        rig.worker.start()
        control.wait_asked(POLL, 5)
        assert rig.desk.told == ["unreachable", "unreachable"]
        assert [type(each) for each in rig.desk.errors] == [ControlUnreachable, ControlDenied]
        control.faults = [Fault.HUNG_UP, Fault.HUNG_UP]
        rig.desk.wait_for(lambda: len(rig.desk.told) == 4)
        assert isinstance(rig.desk.errors[2], ControlUnreachable)
        assert isinstance(rig.desk.errors[3], ControlDenied)

    def test_a_stop_does_not_wait_for_the_next_try(self, control: FakeControl, make: Make) -> None:
        control.answers[POLL] = Refuse(503, "store.busy")
        rig = make()
        rig.worker._backoff.first_s = rig.worker._backoff.cap_s = 60
        rig.worker.start()
        rig.desk.wait_for(lambda: rig.desk.told == ["unreachable"])
        began = time.monotonic()
        rig.worker.stop()
        assert time.monotonic() - began < 2


def test_jobs_without_end_are_taken_with_pauses(
    control: FakeControl, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one that this node has already, or cannot do: nothing of its own would slow it down."""
    control.answers[POLL] = polled(new_job())
    rig = make()
    monkeypatch.setattr(rig.desk, "start", lambda *_: rig.worker.wake())  # over at once
    began = time.monotonic()
    rig.worker.start()
    control.wait_asked(POLL, 8)
    assert time.monotonic() - began >= 6 * module.BETWEEN_JOBS_S


class TestTellingFirst:
    def test_what_was_done_meanwhile_comes_before_the_poll(self, control: FakeControl, make: Make) -> None:
        control.answers = {POLL: Fault.SILENT, OFFLINE: None, outcome_of(JOB): None}
        rig = make()
        rig.keeper.finish(JOB, completed())
        rig.desk.first = lambda client: client.offline([offline_cycle()])
        rig.worker.start()
        control.wait_asked(POLL)
        assert control.routes() == [outcome_of(JOB), OFFLINE, POLL]

    def test_nothing_is_asked_for_before_it_was_taken(self, control: FakeControl, make: Make) -> None:
        control.answers = {POLL: Fault.SILENT, OFFLINE: Refuse(503, "store.busy")}
        rig = make()
        rig.desk.first = lambda client: client.offline([offline_cycle()])
        rig.worker.start()
        control.wait_asked(OFFLINE, 3)
        assert control.of(POLL) == []
        control.answers[OFFLINE] = None
        control.wait_asked(POLL)
        assert rig.desk.told == ["unreachable"]

    def test_an_outcome_that_is_refused_holds_nothing_up(self, control: FakeControl, make: Make) -> None:
        control.answers = {POLL: Fault.SILENT, outcome_of(JOB): Refuse(500, "internal")}
        rig = make()
        rig.keeper.finish(JOB, completed())
        rig.worker.start()
        control.wait_asked(POLL)
        assert rig.keeper.undelivered == 1


class TestPlans:
    def test_are_had_at_first_and_whenever_they_change(self, control: FakeControl, make: Make) -> None:
        version = [0]

        def poll(asked: Asked) -> Say:
            known = asked.json["plans_version"]
            return Fault.SILENT if known == 7 else PollReply(plans_version=version[0])

        control.answers[POLL] = poll
        control.answers[PLANS] = lambda _: NO_PLANS.model_copy(update={"version": version[0]})
        rig = make(with_plans=True)
        rig.worker.start()
        rig.desk.wait_for(lambda: len(rig.desk.assigned) == 1)
        version[0] = 7
        rig.desk.wait_for(lambda: len(rig.desk.assigned) == 2)
        assert [each.version for each in rig.desk.assigned] == [0, 7]

    def test_do_not_cost_the_job_that_came_with_them(self, control: FakeControl, make: Make) -> None:
        job = new_job()
        control.answers[POLL] = once(polled(job, plans_version=3))
        control.answers[PLANS] = Refuse(503, "store.busy")
        rig = make(with_plans=True)
        rig.worker.start()
        rig.desk.wait_for(lambda: "unreachable" in rig.desk.told)
        assert (rig.desk.jobs, rig.desk.assigned) == ([job], [])

    def test_are_for_who_wants_them(self, control: FakeControl, make: Make) -> None:
        control.answers[POLL] = once(polled(new_work(), plans_version=3))
        make().worker.start()
        polls = control.wait_asked(POLL, 2)
        assert control.of(PLANS) == []
        assert [each.json["plans_version"] for each in polls] == [0, 3]  # while it differs, polls do not wait


class TestEnd:
    def test_a_clone_stops_and_says_why(self, control: FakeControl, node: Node, make: Make) -> None:
        """The control plane lets the newest process of a node speak; the older one hears that at its next poll."""
        newest = [""]
        release = threading.Event()

        def poll(asked: Asked) -> Say:
            if asked.json["incarnation"] == newest[0]:
                return Fault.SILENT
            if newest[0]:
                return Refuse(409, "node.superseded")
            release.wait(10)
            return NOTHING

        control.answers[POLL] = poll
        original, clone = make(), make()
        original.worker.start()
        control.wait_asked(POLL)
        newest[0] = str(clone.client.incarnation)
        release.set()
        clone.worker.start()
        original.desk.wait_for(lambda: "ended" in original.desk.told)
        assert isinstance(original.desk.why_ended, NodeReplaced)
        assert original.worker.error is original.desk.why_ended
        assert original.desk.why_ended.node == node.identity.node
        assert "clone" in str(original.desk.why_ended)
        assert clone.desk.why_ended is None

    def test_a_clone_hears_it_by_its_outcome_too(self, control: FakeControl, make: Make) -> None:
        control.answers = {outcome_of(JOB): Refuse(409, "node.superseded")}
        rig = make()
        rig.keeper.finish(JOB, completed())
        rig.worker.start()
        rig.desk.wait_for(lambda: "ended" in rig.desk.told)
        assert isinstance(rig.desk.why_ended, NodeReplaced)

    def test_a_fault_of_the_desk_is_not_lost(self, control: FakeControl, make: Make) -> None:
        control.answers[POLL] = polled(new_job())
        rig = make()
        rig.desk.fault = ZeroDivisionError()
        rig.worker.start()
        rig.desk.wait_for(lambda: "ended" in rig.desk.told)
        assert rig.worker.error is rig.desk.why_ended is rig.desk.fault


class TestTooMuch:
    def test_a_job_that_was_not_asked_for_is_left_to_its_lease(self, control: FakeControl, make: Make) -> None:
        """They would wait here, without end."""
        jobs = [new_job(), new_job()]
        control.answers[POLL] = lambda _: polled(jobs[len(control.of(POLL)) > 1])
        rig = make(offer=Offer(slots=0))
        rig.worker.start()
        control.wait_asked(POLL)
        rig.desk.wait_for(lambda: "reached" in rig.desk.told)
        rig.desk.offered = Offer()
        rig.worker.wake()
        rig.desk.wait_for(lambda: len(rig.desk.jobs) > 0)
        assert rig.desk.jobs[0] == jobs[1]

    def test_outcomes_that_nobody_takes_end_the_taking_of_jobs(
        self, control: FakeControl, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "MAX_UNDELIVERED", 2)
        other = UUID(int=6)
        control.answers = {each: Refuse(500, "internal") for each in (outcome_of(JOB), outcome_of(other))}
        control.answers[POLL] = NOTHING
        rig = make(offer=Offer(slots=3))
        for job in (JOB, other):
            rig.keeper.finish(job, completed())
        rig.worker.start()
        assert control.wait_asked(POLL)[0].json["slots"] == 0
        control.answers |= {outcome_of(JOB): None, outcome_of(other): None, POLL: Fault.SILENT}
        rig.worker.wake()
        assert control.wait_asked(POLL, 2)[1].json["slots"] == 3

    def test_plans_that_cannot_be_had_are_asked_for_less_and_less(self, control: FakeControl, make: Make) -> None:
        control.answers = {POLL: PollReply(plans_version=3), PLANS: Refuse(503, "store.busy")}
        rig = make(with_plans=True)
        rig.worker.start()
        control.wait_asked(PLANS, 4)
        assert rig.worker._backoff.failures >= 3


def test_a_stop_does_not_wait_for_another_threads_delivery(control: FakeControl, make: Make) -> None:
    """It may take as long as an answer may, or many of them."""
    control.answers[POLL] = Fault.SILENT
    rig = make()
    rig.keeper.finish(JOB, completed())
    with rig.keeper._delivering:
        rig.worker.start()
        began = time.monotonic()
        rig.worker.stop()
        assert time.monotonic() - began < 2
    assert control.of(outcome_of(JOB)) == []
