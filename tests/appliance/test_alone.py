"""The service without a control plane: it goes on by its own clock under its last epoch, and tells later."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from dmcore.api.client_errors import ControlDenied
from dmcore.api.jobs import JobResult
from dmcore.model.ids import point_id, source_snapshot_name, successor_cycle
from dmcore.model.phase import Phase
from tests.appliance.cycle_lab import KIB, CycleLab
from tests.appliance.service_lab import RPO_S, Group, ServiceLab
from tests.appliance.test_service import acknowledged, small_batches

__all__ = ["acknowledged", "small_batches"]

DENIED = ControlDenied(reason="node.unknown", message="revoked", status=401)


@pytest.fixture
def house(lab: CycleLab, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServiceLab]:
    made = ServiceLab(lab, monkeypatch)
    yield made
    made.stop()


@pytest.fixture
def group(house: ServiceLab) -> Group:
    """One with a point, whose control plane is gone."""
    made = house.group(size=2048 * KIB)
    house.assign(made)
    house.start()
    return made


class TestGoesOn:
    def test_makes_points_under_the_same_epoch_and_reports_each_once(self, house: ServiceLab, group: Group) -> None:
        job = house.run_once(group)
        house.alone()
        contents = []
        for number in (1, 2):
            house.write(group, bytes([number]) * 9000)
            house.times.advance(RPO_S)
            house.until_points(number + 1)
            contents.append(house.content(group))
        assert house.control.reported == []
        assert [each.successor for each in house.reports()] == [1, 2]
        house.control.said.clear()
        house.control.back()
        house.control.wait_for(lambda: "poll" in house.control.said)
        assert [said for said in house.control.said if said != "heartbeat"][:2] == ["offline", "poll"]
        for number, report in zip((1, 2), house.control.reported, strict=True):
            cycle = successor_cycle(job.cycle, number)
            assert (report.base_cycle, report.successor, report.group) == (job.cycle, number, group.id)
            assert (report.outcome.result, report.outcome.epoch) == (JobResult.COMPLETED, job.epoch)
            assert report.outcome.point == point_id(cycle, group.id)
            (image,) = house.cycles.images(report.outcome.point).values()
            assert image == contents[number - 1]
        house.until(lambda: not house.reports())
        house.run_once(group)
        assert len(house.control.reported) == 2
        assert house.memory.snapshots() == []

    def test_never_two_of_a_group_nor_more_often_than_half_its_rpo(self, house: ServiceLab, group: Group) -> None:
        house.run_once(group)
        house.alone()
        house.times.advance(RPO_S)
        house.until_points(2)
        for hours in (1, -1, 2, -3):  # a clock that jumps
            house.times.jump(hours=hours)
            house.service.desk.look()
            house.times.advance(RPO_S / 2 - 1 if hours == 1 else 0)
            house.service.desk.look()
        house.settle()
        assert len(house.points()) == 2
        house.times.advance(RPO_S + 31)  # the wall clock is an hour behind: the other one counts
        house.until_points(3)

    def test_only_when_it_is_due_and_the_outage_has_lasted(self, house: ServiceLab, group: Group) -> None:
        house.run_once(group)
        house.alone()
        house.times.advance(RPO_S / 2)
        house.service.desk.look()
        assert house.service.desk.crew.duties() == []
        house.control.back()
        house.until(lambda: not house.service.desk.is_alone)
        house.times.advance(RPO_S)
        house.service.desk.look()
        assert house.service.desk.crew.duties() == []

    def test_not_for_plans_that_are_paused_or_gone(self, house: ServiceLab, group: Group) -> None:
        other = house.group("vm2")
        house.assign(group, other)
        for each in (group, other):
            house.run_once(each)
        house.assign(group, paused=True)
        house.until(lambda: house.service.state.record(other.id) is None)
        house.alone()
        house.times.advance(3 * RPO_S)
        house.service.desk.look()
        house.settle()
        assert len(house.points()) == 2

    def test_not_when_it_is_not_known_there_any_more(self, house: ServiceLab, group: Group) -> None:
        house.run_once(group)
        house.control.away(DENIED)
        house.control.wait_noticed()
        house.times.advance(3 * RPO_S)
        house.service.desk.look()
        house.settle()
        assert len(house.points()) == 1

    def test_not_when_it_was_revoked_during_an_outage(self, house: ServiceLab, group: Group) -> None:
        """Nor when there is an outage after that, nor after a restart in it."""
        house.run_once(group)
        house.alone()
        house.control.away(DENIED)
        house.until(lambda: not house.service.desk.is_alone)
        house.control.away()
        house.control.wait_refused()
        self.stays_idle(house)
        house.stop()
        house.start()
        house.control.wait_refused()
        self.stays_idle(house)
        house.control.back()
        house.until(lambda: house.service.worker.reachable)
        house.alone()
        house.times.advance(3 * RPO_S)
        house.until_points(2)

    def stays_idle(self, house: ServiceLab) -> None:
        house.times.advance(3 * RPO_S)
        assert not house.service.desk.is_alone
        house.service.desk.look()
        assert house.service.desk.crew.duties() == []

    def test_a_group_that_was_never_leased_has_no_ticket(self, house: ServiceLab, group: Group) -> None:
        house.until(lambda: house.service.state.plans)
        house.alone()
        house.times.advance(3 * RPO_S)
        house.service.desk.look()
        assert house.service.desk.crew.duties() == []


class TestRestarts:
    def test_while_it_is_alone(self, house: ServiceLab, group: Group) -> None:
        job = house.run_once(group)
        house.alone()
        house.times.advance(RPO_S)
        house.until_points(2)
        house.stop()
        house.start()
        house.alone()
        house.times.advance(RPO_S)
        house.until_points(3)
        assert [each.successor for each in house.reports()] == [1, 2]
        house.control.back()
        house.until(lambda: len(house.control.reported) >= 2)
        assert {each.base_cycle for each in house.control.reported} == {job.cycle}

    def test_in_the_midst_of_a_cycle_of_its_own_goes_on_with_it(self, house: ServiceLab, group: Group) -> None:
        job = house.run_once(group)
        house.write(group, b"new" * 5000, offset=100_000)
        gate = house.gate(group, len(house.source.watch.reads) + 1)
        house.alone()
        house.times.advance(RPO_S)
        assert gate.reached.wait(20)
        name = source_snapshot_name(group.id, successor_cycle(job.cycle, 1))
        house.stop()
        assert house.memory.snapshots() == [name]
        house.start()
        assert house.reports() == []
        house.alone()
        house.times.advance(RPO_S)
        house.until_points(2)
        (report,) = house.reports()
        assert (report.successor, report.outcome.result) == (1, JobResult.COMPLETED)
        assert house.memory.snapshots() == []


class TestUnfinished:
    def test_the_leases_own_cycle_is_tried_again_first(
        self, house: ServiceLab, group: Group, acknowledged: threading.Event
    ) -> None:
        """Its outcome stays the job's: there is nothing to report."""
        gate = house.gate(group, 20)
        job = house.job(group)
        house.control.enqueue(job)
        assert gate.reached.wait(20)
        assert acknowledged.wait(20)
        house.control.away()
        house.cycles.stop_connector()  # everything is gone: the line is down
        gate.opened.set()
        house.until(lambda: house.service.keeper.undelivered)
        house.cycles.start_connector()
        house.until(lambda: house.service.desk._away_since is not None)
        house.times.advance(RPO_S)
        house.until_points(1)
        assert house.reports() == []
        house.control.back()
        house.control.wait_for(lambda: house.control.outcomes)
        assert house.control.outcome(job).result is JobResult.COMPLETED
        assert house.control.outcome(job).progress.disks[0].resumed_bytes > 0
        assert [done for done, _ in house.control.outcomes] == [job.job]

    def test_a_cycle_of_its_own_that_failed_is_tried_again_and_ends_with_its_report(
        self, house: ServiceLab, group: Group
    ) -> None:
        job = house.run_once(group)
        house.alone()
        house.cycles.stop_connector()
        house.times.advance(RPO_S)
        house.until(house.reports)
        house.idle()
        (report,) = house.reports()
        assert (report.successor, report.outcome.result) == (1, JobResult.FAILED)
        record = house.service.state.record(group.id)
        assert record is not None
        assert record.again
        house.cycles.start_connector()
        house.control.back()
        house.until(lambda: house.control.reported)
        house.until(lambda: not house.reports())
        assert not house.service.state.record(group.id).again  # type: ignore[union-attr] # it is there
        house.alone()
        house.times.advance(2 * RPO_S)
        house.until_points(2)
        (report,) = house.reports()
        assert (report.base_cycle, report.successor) == (job.cycle, 2)

    def test_a_cycle_that_was_gone_on_from_is_not_begun_again(self, house: ServiceLab, group: Group) -> None:
        """The control plane thinks that it failed; its connector would make a second image of the same name."""
        job = house.run_once(group)
        house.alone()
        house.times.advance(RPO_S)
        house.until_points(2)
        house.control.back()
        again = house.job(group, job.cycle)
        house.control.enqueue(again)
        outcome = house.control.outcome(again)
        assert outcome.problem is not None
        assert (outcome.problem.code, outcome.problem.permanent) == ("cycle.dropped", True)
        assert len(house.points()) == 2

    def test_somebody_elses_lease_ends_it(self, house: ServiceLab, group: Group) -> None:
        house.run_once(group)
        house.alone()
        house.cycles.cycle(house.memory, house.job(group)).run()  # another appliance, with the next epoch
        house.cycles.settle()
        house.times.advance(RPO_S)
        house.until(house.reports)
        house.idle()
        (report,) = house.reports()
        assert report.outcome.problem is not None
        assert report.outcome.problem.code == "cycle.epoch-behind"
        assert house.service.state.record(group.id).fenced  # type: ignore[union-attr] # it is there
        house.settle()
        house.times.advance(3 * RPO_S)
        house.service.desk.look()
        assert house.service.desk.crew.duties() == []

    def test_a_job_that_comes_meanwhile_takes_its_place(self, house: ServiceLab, group: Group) -> None:
        house.run_once(group)
        house.write(group, b"x" * 4096)
        gate = house.gate(group, len(house.source.watch.reads) + 1)
        house.alone()
        house.times.advance(RPO_S)
        assert gate.reached.wait(20)
        job = house.job(group)
        house.control.back()
        house.service.desk.start(job, 0.25)
        gate.opened.set()
        assert house.control.outcome(job).result is JobResult.COMPLETED
        house.until(lambda: house.control.reported)
        (report,) = house.control.reported
        assert report.outcome.result is JobResult.CANCELLED
        assert {each.state.cycle.phase for each in house.cycles.connector.groups.all()} == {Phase.RECLAIMED}  # type: ignore[union-attr] # it has one


class TestLeftovers:
    def test_a_snapshot_that_nobody_comes_back_to_goes_after_a_day(self, house: ServiceLab, group: Group) -> None:
        gate = house.gate(group)
        job = house.job(group)
        house.control.enqueue(job)
        assert gate.reached.wait(20)
        house.control.reply = house.control.reply.model_copy(update={"cancel": True})
        house.until(lambda: all(duty.ended_by for duty in house.service.desk.crew.duties()))
        gate.opened.set()
        house.control.outcome(job)
        house.settle()
        name = source_snapshot_name(job.group, job.cycle)
        house.times.jump(hours=23)
        house.service._sweeper.sweep()
        assert house.memory.snapshots() == [name]
        house.times.jump(hours=2)
        house.service._sweeper.sweep()
        assert house.memory.snapshots() == []
        record = house.service.state.record(group.id)
        assert record is not None
        assert (record.again, record.snapshot_left) == (False, False)


def test_reports_are_kept_while_the_control_plane_fails_to_take_them(
    house: ServiceLab, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.run_once(group)
    house.alone()
    house.times.advance(RPO_S)
    house.until_points(2)

    def broken(_: Any) -> None:
        raise ControlDenied(reason="auth.signature", message="", status=401)

    client = house.control.client()
    monkeypatch.setattr(client, "offline", broken)
    with pytest.raises(ControlDenied):
        house.service.desk.before_poll(client)
    assert len(house.reports()) == 1
