"""Heartbeats and outcomes of held jobs, over real TLS."""

import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from dmcore.api.client_errors import ControlBusy, ControlFailing, ControlRefused, ControlUnreachable
from dmcore.api.jobs import Progress
from dmcore.node import lease
from dmcore.node.lease import LeaseKeeper
from tests.api.fake_control import Asked, FakeControl, Fault, Refuse, Say
from tests.node.control_kit import GO_ON, Node, TestHolder, completed, heartbeat, outcome_of, quick

JOB = UUID(int=5)
FAST_S = 0.25


@pytest.fixture
def keeper(node: Node) -> Iterator[LeaseKeeper]:
    client = node.client()
    with LeaseKeeper(client, node.state_dir, backoff=quick()) as running:
        yield running
    client.close()


def kept_files(node: Node) -> list[Path]:
    return sorted((node.state_dir / "control" / "outcomes").glob("*.json"))


def goes_on(control: FakeControl, count: int) -> None:
    control.wait_asked(heartbeat(JOB), len(control.of(heartbeat(JOB))) + count)


class TestHeartbeats:
    def test_come_at_once_and_go_on_with_the_latest_progress(self, node: Node, keeper: LeaseKeeper) -> None:
        node.control.answers[heartbeat(JOB)] = GO_ON
        holder = TestHolder(Progress(counter=1))
        keeper.hold(JOB, 3, holder, 60)  # the answer says how often from then on
        node.control.wait_asked(heartbeat(JOB))
        holder.at = Progress(counter=2)
        beats = node.control.wait_asked(heartbeat(JOB), 3)
        assert [each.json["progress"]["counter"] for each in beats] == [1, 2, 2]
        assert {each.json["epoch"] for each in beats} == {3}

    def test_bring_directives(self, node: Node, keeper: LeaseKeeper) -> None:
        directive = GO_ON.model_copy(update={"cancel": True, "pause": True})
        node.control.answers[heartbeat(JOB)] = directive
        holder = TestHolder()
        keeper.hold(JOB, 1, holder, FAST_S)
        node.control.wait_asked(heartbeat(JOB), 2)  # so the first has been answered and handed on
        assert holder.replies[0] == directive

    @pytest.mark.parametrize(
        "refusal", [Refuse(409, "lease.lost"), Refuse(404, "job.unknown"), Refuse(409, "node.superseded")], ids=str
    )
    def test_end_when_the_lease_is_anothers(self, node: Node, keeper: LeaseKeeper, refusal: Refuse) -> None:
        other = uuid4()
        node.control.answers = {heartbeat(JOB): refusal, heartbeat(other): GO_ON}
        holder, beside = TestHolder(), TestHolder()
        keeper.hold(JOB, 1, holder, FAST_S)
        keeper.hold(other, 1, beside, FAST_S)
        assert holder.was_lost.wait(10)
        node.control.wait_asked(heartbeat(other), 3)
        assert (holder.times_lost, holder.replies) == (1, [])
        assert len(node.control.of(heartbeat(JOB))) == 1
        assert beside.times_lost == 0

    @pytest.mark.parametrize(
        "fault",
        [Fault.HUNG_UP, Fault.PAGE_500, Fault.GARBAGE, Refuse(503, "store.busy"), Refuse(401, "node.unknown")],
        ids=str,
    )
    def test_lost_contact_is_not_a_lost_lease(self, node: Node, keeper: LeaseKeeper, fault: Fault | Refuse) -> None:
        node.control.answers[heartbeat(JOB)] = GO_ON
        node.control.faults = [fault, fault]
        holder = TestHolder()
        keeper.hold(JOB, 1, holder, FAST_S)
        node.control.wait_asked(heartbeat(JOB), 4)
        assert holder.times_lost == 0
        assert holder.replies

    def test_go_on_when_the_control_plane_is_back(self, node: Node, keeper: LeaseKeeper) -> None:
        node.control.answers[heartbeat(JOB)] = GO_ON
        holder = TestHolder()
        keeper.hold(JOB, 1, holder, FAST_S)
        node.control.wait_asked(heartbeat(JOB))
        node.control.stop()
        node.control.start()
        goes_on(node.control, 2)
        assert holder.times_lost == 0

    def test_end_with_the_job(self, node: Node, keeper: LeaseKeeper) -> None:
        other = uuid4()
        node.control.answers = {heartbeat(JOB): GO_ON, heartbeat(other): GO_ON}
        keeper.hold(JOB, 1, TestHolder(), FAST_S)
        keeper.hold(other, 1, TestHolder(), FAST_S)
        node.control.wait_asked(heartbeat(JOB))
        keeper.abandon(JOB)
        keeper.abandon(JOB)
        node.control.wait_asked(heartbeat(other), 2)
        before = len(node.control.of(heartbeat(JOB)))
        node.control.wait_asked(heartbeat(other), 4)
        assert len(node.control.of(heartbeat(JOB))) == before
        assert keeper.undelivered == 0

    @pytest.mark.parametrize("answer", ["lost", "directives"])
    def test_an_answer_that_comes_after_the_end_is_for_nobody(
        self, node: Node, keeper: LeaseKeeper, answer: str
    ) -> None:
        asked, ended, other = threading.Event(), threading.Event(), uuid4()

        def late(_: Asked) -> Say:
            asked.set()
            ended.wait(10)
            return GO_ON if answer == "directives" else Refuse(409, "lease.lost")

        node.control.answers = {heartbeat(JOB): late, outcome_of(JOB): None, heartbeat(other): GO_ON}
        holder = TestHolder()
        keeper.hold(JOB, 1, holder, FAST_S)
        assert asked.wait(10)
        keeper.finish(JOB, completed())
        ended.set()
        node.control.wait_asked(outcome_of(JOB))
        assert (holder.times_lost, holder.replies) == (0, [])

    def test_a_senseless_interval_is_bounded(self, node: Node, keeper: LeaseKeeper) -> None:
        node.control.answers[heartbeat(JOB)] = GO_ON.model_copy(update={"heartbeat_s": 0.0})
        holder = TestHolder()
        keeper.hold(JOB, 1, holder, 0)
        node.control.wait_asked(heartbeat(JOB), 2)
        assert lease.bounded(0) == lease.MIN_HEARTBEAT_S
        assert lease.bounded(1e9) == lease.MAX_HEARTBEAT_S


class TestOutcomes:
    def test_are_delivered_once(self, node: Node, keeper: LeaseKeeper) -> None:
        node.control.answers = {heartbeat(JOB): GO_ON, outcome_of(JOB): None}
        keeper.hold(JOB, 2, TestHolder(), FAST_S)
        keeper.finish(JOB, completed(2))
        [said] = node.control.wait_asked(outcome_of(JOB))
        keeper.flush()  # waits for the delivery that is under way
        keeper.stop()
        assert said.json["outcome"]["epoch"] == 2
        assert node.control.of(outcome_of(JOB)) == [said]
        assert (keeper.undelivered, kept_files(node)) == (0, [])

    @pytest.mark.parametrize(
        "fault", [Fault.HUNG_UP, Fault.PAGE_500, Refuse(500, "internal"), Refuse(401, "node.unknown")], ids=str
    )
    def test_are_said_again_until_they_are_taken(self, node: Node, keeper: LeaseKeeper, fault: Fault | Refuse) -> None:
        node.control.answers[outcome_of(JOB)] = None
        node.control.faults = [fault] * 3
        keeper.finish(JOB, completed())
        node.control.wait_asked(outcome_of(JOB), 4)
        keeper.stop()
        assert kept_files(node) == []

    @pytest.mark.parametrize(
        "refusal", [Refuse(409, "lease.lost"), Refuse(404, "job.unknown"), Refuse(422, "request.invalid")]
    )
    def test_that_nobody_takes_are_forgotten(self, node: Node, keeper: LeaseKeeper, refusal: Refuse) -> None:
        node.control.answers[outcome_of(JOB)] = refusal
        keeper.finish(JOB, completed())
        node.control.wait_asked(outcome_of(JOB))
        keeper.stop()
        assert len(node.control.of(outcome_of(JOB))) == 1
        assert kept_files(node) == []

    def test_of_a_replaced_process_stay_for_the_next(self, node: Node, keeper: LeaseKeeper) -> None:
        node.control.answers[outcome_of(JOB)] = Refuse(409, "node.superseded")
        keeper.finish(JOB, completed())
        node.control.wait_asked(outcome_of(JOB), 2)
        keeper.stop()
        assert len(kept_files(node)) == 1

    def test_one_that_fails_does_not_hold_up_the_others(self, node: Node, keeper: LeaseKeeper) -> None:
        other = uuid4()
        node.control.answers = {outcome_of(JOB): Refuse(500, "internal"), outcome_of(other): None}
        keeper.finish(JOB, completed(1))
        keeper.finish(other, completed(2))
        node.control.wait_asked(outcome_of(other))
        keeper.stop()
        assert [path.name for path in kept_files(node)] == [f"{JOB}.1.json"]

    def test_are_durable_before_finish_returns_and_delivered_by_the_next_process(self, node: Node) -> None:
        client = node.client()
        node.control.stop()
        with LeaseKeeper(client, node.state_dir, backoff=quick()) as first:
            first.finish(JOB, completed(4))
            assert len(kept_files(node)) == 1
        client.close()
        assert len(kept_files(node)) == 1
        node.control.start()
        node.control.answers[outcome_of(JOB)] = None
        client = node.client()
        with LeaseKeeper(client, node.state_dir, backoff=quick()) as second:
            [said] = node.control.wait_asked(outcome_of(JOB))
            second.stop()
        client.close()
        assert said.json["outcome"]["epoch"] == 4
        assert said.json["incarnation"] == str(client.incarnation)
        assert kept_files(node) == []

    def test_are_tried_once_more_at_the_stop(self, node: Node) -> None:
        client, refusing = node.client(), [True]
        node.control.answers[outcome_of(JOB)] = lambda _: Refuse(503, "store.busy") if refusing[0] else None
        keeper = LeaseKeeper(client, node.state_dir)
        keeper.start()
        keeper.finish(JOB, completed())
        node.control.wait_asked(outcome_of(JOB))
        refusing[0] = False
        keeper.stop()
        client.close()
        assert kept_files(node) == []


class TestFlush:
    def test_delivers_or_says_why_not(self, node: Node) -> None:
        client, other = node.client(), uuid4()
        keeper = LeaseKeeper(client, node.state_dir)
        keeper.flush()
        keeper.finish(JOB, completed(1))
        keeper.finish(other, completed(2))
        node.control.answers = {outcome_of(JOB): Refuse(500, "internal"), outcome_of(other): None}
        with pytest.raises(ControlFailing):
            keeper.flush()
        assert keeper.undelivered == 1
        node.control.stop()
        with pytest.raises(ControlUnreachable):
            keeper.flush()
        node.control.start()
        node.control.answers[outcome_of(JOB)] = None
        keeper.flush(client)
        assert keeper.undelivered == 0
        keeper.stop()
        client.close()

    def test_tells_of_a_keeper_that_has_ended_by_a_fault(self, node: Node, keeper: LeaseKeeper) -> None:
        class Broken(TestHolder):
            def progress(self) -> Progress:
                raise ZeroDivisionError

        keeper.hold(JOB, 1, Broken(), FAST_S)
        keeper._thread.join(10)
        with pytest.raises(ZeroDivisionError):
            keeper.flush()


class TestStop:
    def test_cuts_a_heartbeat_that_waits(self, node: Node, keeper: LeaseKeeper) -> None:
        release = threading.Event()
        node.control.answers[heartbeat(JOB)] = lambda _: GO_ON if release.wait(10) else None
        holder, other = TestHolder(), uuid4()
        keeper.hold(JOB, 1, holder, FAST_S)
        node.control.wait_asked(heartbeat(JOB))
        keeper.hold(other, 1, TestHolder(), FAST_S)
        keeper.stop()
        keeper.stop()
        release.set()
        assert holder.times_lost == 0
        assert node.control.of(heartbeat(other)) == []

    def test_does_not_wait_for_an_outcome_for_ever(
        self, node: Node, keeper: LeaseKeeper, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lease, "STOP_S", 0.05)
        node.control.faults = [Fault.SILENT] * 2
        keeper.finish(JOB, completed())
        node.control.wait_asked(outcome_of(JOB))
        keeper.stop()
        assert len(kept_files(node)) == 1

    def test_before_the_start(self, node: Node) -> None:
        client = node.client()
        keeper = LeaseKeeper(client, node.state_dir)
        keeper.stop()
        client.close()
        with pytest.raises((ControlUnreachable, ControlRefused)):
            client.outcome(JOB, completed())


class TestManyOutcomes:
    def test_do_not_keep_heartbeats_waiting(self, node: Node, keeper: LeaseKeeper) -> None:
        """After an outage, at a control plane that is slow: the leases that are held now would be lost."""
        jobs, pause = [uuid4() for _ in range(12)], threading.Event()

        def slowly(_: Asked) -> Say:
            pause.wait(0.2)
            return None

        node.control.answers = {heartbeat(JOB): GO_ON, **{outcome_of(job): slowly for job in jobs}}
        node.control.stop()
        for job in jobs:
            keeper.finish(job, completed())
        keeper.hold(JOB, 1, TestHolder(), FAST_S)
        node.control.start()
        node.control.wait_asked(outcome_of(jobs[-1]))
        routes = node.control.routes()
        during = routes[routes.index(outcome_of(jobs[0])) : routes.index(outcome_of(jobs[-1]))]
        assert during.count(heartbeat(JOB)) >= 4

    def test_are_not_all_said_to_one_that_is_busy(self, node: Node) -> None:
        client = node.client()
        keeper = LeaseKeeper(client, node.state_dir)
        jobs = [uuid4(), uuid4()]
        node.control.answers = {outcome_of(job): Refuse(503, "store.busy") for job in jobs}
        for job in jobs:
            keeper.finish(job, completed())
        with pytest.raises(ControlBusy):
            keeper.flush()
        assert node.control.routes() == [outcome_of(jobs[0])]
        keeper.stop()
        client.close()

    def test_one_thread_does_not_say_what_another_has_said(self, node: Node, keeper: LeaseKeeper) -> None:
        release = threading.Event()
        node.control.answers[outcome_of(JOB)] = lambda _: None if release.wait(10) else Fault.HUNG_UP
        keeper.finish(JOB, completed())
        node.control.wait_asked(outcome_of(JOB))
        flushing = threading.Thread(target=keeper.flush)
        flushing.start()
        release.set()
        flushing.join()
        assert len(node.control.of(outcome_of(JOB))) == 1
