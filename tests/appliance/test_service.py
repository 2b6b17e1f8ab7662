"""The service with a control plane: several jobs at once, directives, lost leases, ends."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from dmcore.api.client_errors import ControlFailing
from dmcore.api.jobs import JobResult, Outcome, Progress
from dmcore.appliance import reading
from dmcore.appliance.agent import Appliance
from dmcore.appliance.service import ApplianceService
from dmcore.host.address import Address
from dmcore.host.settings import MetricsSettings
from dmcore.model.enums import Reason, Rung, Stage
from dmcore.model.ids import point_id, source_snapshot_name
from dmcore.node.control_errors import NodeReplaced
from dmcore.wire.disk_channel import DiskChannel
from dmcore.wire.messages import Ack
from tests.appliance.cycle_lab import KIB, CycleLab
from tests.appliance.scripted_control import GO_ON
from tests.appliance.service_lab import ServiceLab
from tests.node.control_kit import new_work


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BATCH_BYTES", 64 * KIB)


@pytest.fixture
def acknowledged(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once the connector has acknowledged a few batches."""
    heard, event = DiskChannel._acknowledged, threading.Event()

    def hear(self: DiskChannel, ack: Ack) -> None:
        heard(self, ack)
        if ack.batch >= 3:
            event.set()

    monkeypatch.setattr(DiskChannel, "_acknowledged", hear)
    return event


@pytest.fixture
def house(lab: CycleLab, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServiceLab]:
    made = ServiceLab(lab, monkeypatch)
    yield made
    made.stop()


class TestJobs:
    def test_is_taken_run_and_reported(self, house: ServiceLab) -> None:
        group = house.group()
        house.start()
        job = house.job(group)
        house.control.enqueue(job)
        outcome = house.control.outcome(job)
        assert (outcome.result, outcome.point) == (JobResult.COMPLETED, point_id(job.cycle, job.group))
        assert outcome.source_time is not None
        assert outcome.progress.stage is Stage.DONE
        (disk,) = outcome.progress.disks
        assert (disk.rung, disk.reason) == (Rung.SEED, Reason.NO_IMAGE)
        assert disk.read_bytes == disk.to_read_bytes == len(house.content(group))
        assert disk.wire_bytes > disk.sealed_bytes > 0
        assert set(outcome.seconds) == set(Stage) - {Stage.DONE}
        assert house.memory.snapshots() == []

    def test_two_machines_do_not_wait_for_each_other(self, house: ServiceLab) -> None:
        first, second = house.group("vm1"), house.group("vm2")
        gates = [house.gate(first), house.gate(second)]
        house.start()
        jobs = [house.job(first), house.job(second)]
        house.control.enqueue(*jobs)
        for gate in gates:  # both are in the midst of their transfer
            assert gate.reached.wait(20)
        for job in jobs:
            house.control.wait_beats(job.job)
            at = house.control.beats[job.job][-1]
            assert (at.stage, bool(at.counter)) == (Stage.TRANSFER, True)
        gates[1].opened.set()
        assert house.control.outcome(jobs[1]).result is JobResult.COMPLETED
        house.control.wait_beats(jobs[0].job)  # the other one is still held up, and still held
        gates[0].opened.set()
        assert house.control.outcome(jobs[0]).result is JobResult.COMPLETED
        assert len(house.points()) == 2

    def test_are_as_many_as_the_settings_say(self, house: ServiceLab) -> None:
        first, second = house.group("vm1"), house.group("vm2")
        gate = house.gate(first)
        house.start(limits=house.cycles.settings.limits.model_copy(update={"parallel_cycles": 1}))
        jobs = [house.job(first), house.job(second)]
        house.control.enqueue(*jobs)
        assert gate.reached.wait(20)
        house.control.wait_beats(jobs[0].job)
        assert house.control.leased == jobs[:1]
        assert house.control.offers[-1].slots == 0
        assert house.control.offers[-1].busy == (first.id,)
        gate.opened.set()
        assert house.control.outcome(jobs[1]).result is JobResult.COMPLETED

    def test_progress_grows_and_never_shrinks(self, house: ServiceLab) -> None:
        group = house.group()
        gates = [house.gate(group, number) for number in (2, 4, 6)]
        house.start()
        job = house.job(group)
        house.control.enqueue(job)
        for gate in gates:
            assert gate.reached.wait(20)
            house.control.wait_beats(job.job)
            gate.opened.set()
        house.control.outcome(job)
        counters = [beat.counter for beat in house.control.beats[job.job]]
        assert counters == sorted(counters)
        assert len(set(counters)) >= 3

    def test_of_a_connector_are_not_ours(self, house: ServiceLab) -> None:
        house.start()
        house.control.enqueue(new_work())
        house.run_once(house.group())
        assert house.control.beats.keys() == {house.control.leased[1].job}

    def test_that_comes_twice_is_one(self, house: ServiceLab) -> None:
        group = house.group()
        gate = house.gate(group)
        made = house.start()
        job = house.job(group)
        house.control.enqueue(job)
        assert gate.reached.wait(20)
        made.desk.start(job, 0.25)
        assert len(made.desk.crew.duties()) == 1
        gate.opened.set()
        assert house.control.outcome(job).result is JobResult.COMPLETED

    def test_a_failure_is_told_by_its_code(self, house: ServiceLab) -> None:
        group = house.group()
        house.start()
        job = house.job(group, machines=("nobody",))
        house.control.enqueue(job)
        outcome = house.control.outcome(job)
        assert outcome.result is JobResult.FAILED
        assert outcome.problem is not None
        assert (outcome.problem.code, outcome.problem.permanent) == ("job.machine-unknown", True)

    def test_an_epoch_that_is_behind_names_the_current_one(self, house: ServiceLab) -> None:
        group = house.group()
        house.start()
        house.run_once(group)
        house.run_once(group)
        house._epochs[group.id] = 0  # an old database
        job = house.job(group)
        house.control.enqueue(job)
        outcome = house.control.outcome(job)
        assert outcome.problem is not None
        assert (outcome.problem.code, outcome.problem.permanent) == ("cycle.epoch-behind", False)
        assert (outcome.epoch, outcome.epoch_floor) == (1, 2)
        assert house.memory.snapshots() == []

    def test_one_more_job_of_a_running_group_takes_its_place(self, house: ServiceLab) -> None:
        """A race that the control plane's `busy` leaves: its newest word counts."""
        group = house.group()
        gate = house.gate(group)
        made = house.start()
        older = house.job(group)
        house.control.enqueue(older)
        assert gate.reached.wait(20)
        newer = house.job(group, older.cycle)
        made.desk.start(newer, 0.25)
        gate.opened.set()
        outcome = house.control.outcome(newer)
        assert outcome.result is JobResult.COMPLETED
        assert [job for job, _ in house.control.outcomes] == [newer.job]


class TestDirectives:
    def test_cancel_keeps_the_snapshot_until_the_groups_next_cycle(self, house: ServiceLab) -> None:
        group = house.group()
        gate = house.gate(group)
        house.start()
        job = house.job(group)
        house.control.enqueue(job)
        assert gate.reached.wait(20)
        house.control.reply = replace_reply(cancel=True)
        house.control.wait_beats(job.job)
        gate.opened.set()
        assert house.control.outcome(job).result is JobResult.CANCELLED
        assert house.memory.snapshots() == [source_snapshot_name(job.group, job.cycle)]
        house.control.reply = GO_ON
        house.run_once(group)
        assert house.memory.snapshots() == []

    def test_pause_holds_the_transfer_and_resume_lets_it_go_on(self, house: ServiceLab) -> None:
        group = house.group()
        gate = house.gate(group, 1)
        made = house.start()
        job = house.job(group)
        house.control.enqueue(job)
        assert gate.reached.wait(20)
        house.control.reply = replace_reply(pause=True)
        house.until(lambda: made._node.pacing.paused(job.job))
        gate.opened.set()
        house.control.wait_beats(job.job, 3)
        assert house.control.outcomes == []
        assert house.control.beats[job.job][-1].stage is Stage.TRANSFER
        house.control.reply = GO_ON
        assert house.control.outcome(job).result is JobResult.COMPLETED
        assert not made._node.pacing.paused(job.job)

    def test_a_lost_lease_stops_the_streams_and_the_next_epoch_goes_on(
        self, house: ServiceLab, acknowledged: threading.Event
    ) -> None:
        group = house.group(size=2048 * KIB)
        gate = house.gate(group, 20)
        house.start()
        job = house.job(group)
        house.control.enqueue(job)
        assert gate.reached.wait(20)
        assert acknowledged.wait(20)
        house.control.lost.add(job.job)
        house.until(lambda: all(duty.ended_by for duty in house.service.desk.crew.duties()))
        gate.opened.set()
        house.until(lambda: not house.service.desk.crew.duties())
        assert house.memory.snapshots() == [source_snapshot_name(job.group, job.cycle)]
        again = house.job(group, job.cycle)
        house.control.enqueue(again)
        outcome = house.control.outcome(again)
        assert outcome.result is JobResult.COMPLETED
        assert outcome.progress.disks[0].resumed_bytes > 0
        assert [done for done, _ in house.control.outcomes] == [again.job]


class TestEnds:
    def test_a_stop_in_the_midst_of_a_cycle(self, house: ServiceLab) -> None:
        """Orderly: every thread is joined, the control plane is told, and the next process goes on."""
        group = house.group()
        gate = house.gate(group)
        made = house.start()
        job = house.job(group)
        house.control.enqueue(job)
        assert gate.reached.wait(20)
        house.control.wait_beats(job.job)
        (duty,) = made.desk.crew.duties()
        stopping = threading.Thread(target=house.stop)
        stopping.start()
        house.until(lambda: duty.ended_by)
        gate.opened.set()
        stopping.join()
        assert house.control.outcome(job).result is JobResult.CANCELLED
        assert house.memory.snapshots() == [source_snapshot_name(job.group, job.cycle)]
        house.start()
        again = house.job(group, job.cycle)
        house.control.enqueue(again)
        assert house.control.outcome(again).result is JobResult.COMPLETED

    def test_another_process_with_the_same_key(self, house: ServiceLab) -> None:
        made = house.start()
        house.control.supersede()
        house.until(lambda: house.ended)
        assert isinstance(house.ended[0], NodeReplaced)
        assert made.worker.error is house.ended[0]

    def test_nothing_is_taken_while_it_stops(self, house: ServiceLab) -> None:
        group = house.group()
        made = house.start()
        house.stop()
        made.desk.start(house.job(group), 0.25)
        assert made.desk.crew.duties() == []
        assert made.desk.offer().slots == 0

    def test_a_stop_before_the_start(self, house: ServiceLab) -> None:
        with Appliance(house.cycles.settings) as node:
            made = ApplianceService(node, house.control.client())
            made.stop()
            made.stop()


class TestWhatCrosses:
    def test_is_ids_enums_numbers_and_times(self, house: ServiceLab) -> None:
        """Walks every outcome, progress and report as JSON: no label, path, token or error text is in it."""
        good, bad = house.group("vm1"), house.group("vm2")
        house.start()
        done, failed = house.job(good), house.job(bad, machines=("secret-machine",))
        house.control.enqueue(done, failed)
        said: list[Outcome | Progress] = [house.control.outcome(done), house.control.outcome(failed)]
        said += [beat for beats in house.control.beats.values() for beat in beats]
        for told in said:
            strings = set(strings_of(json.loads(told.model_dump_json())))
            assert strings <= allowed_strings(told), strings - allowed_strings(told)

    def test_logs_carry_the_ids(self, house: ServiceLab, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[dict[str, Any]] = []

        def spy(job: Any, progress: Any, started: Any) -> Any:
            seen.append(structlog.contextvars.get_contextvars())
            return run(job, progress, started)

        group = house.group()
        made = house.start()
        run = made._node.run
        monkeypatch.setattr(made._node, "run", spy)
        job = house.run_once(group)
        (ids,) = seen
        assert (ids["plan"], ids["group"]) == (str(job.plan), str(job.group))
        assert (ids["cycle"], ids["job"], ids["epoch"]) == (str(job.cycle), str(job.job), 1)
        assert len(ids["correlation"]) == 32


class TestMetrics:
    def test_are_served_and_counted(self, house: ServiceLab) -> None:
        group = house.group()
        gate = house.gate(group)
        made = house.start(metrics=MetricsSettings(listen=Address("127.0.0.1", 0)))
        job = house.job(group)
        house.control.enqueue(job)
        assert gate.reached.wait(20)
        read = made._node.metrics.registry.get_sample_value("dmcore_appliance_bytes_total", {"kind": "read"})
        assert read == 2 * 64 * KIB  # of what still runs
        gate.opened.set()
        house.control.outcome(job)
        house.settle()
        assert made._metrics is not None
        registry = made._node.metrics.registry
        assert registry.get_sample_value("dmcore_appliance_cycles_total", {"result": "completed"}) == 1
        disks = registry.get_sample_value("dmcore_appliance_disks_total", {"rung": "seed", "reason": "no-image"})
        assert disks == 1
        for kind in ("read", "changed"):
            assert registry.get_sample_value("dmcore_appliance_bytes_total", {"kind": kind}) == len(
                house.content(group)
            )
        for name, value in {"leases_held": 0, "cycles_running": 0, "control_reachable": 1, "unreported": 0}.items():
            assert registry.get_sample_value(f"dmcore_appliance_{name}") == value
        stage = registry.get_sample_value("dmcore_appliance_stage_seconds_count", {"stage": "transfer"})
        assert stage == 1


class TestLostContact:
    def test_in_the_midst_of_a_seed_costs_nothing(self, house: ServiceLab) -> None:
        group = house.group()
        gate = house.gate(group)
        house.start()
        job = house.job(group)
        house.control.enqueue(job)
        assert gate.reached.wait(20)
        house.control.away(ControlFailing(reason="control.failing", message="", status=500))
        house.control.wait_noticed()
        gate.opened.set()
        house.until(house.points)  # the streams have gone on
        house.until(lambda: house.service.keeper.undelivered)
        assert house.control.outcomes == []
        house.control.back()
        assert house.control.outcome(job).result is JobResult.COMPLETED
        assert house.source.watch.read_bytes(group.machine) == len(house.content(group))  # each byte once

    def test_an_outcome_outlives_the_process(self, house: ServiceLab) -> None:
        group = house.group()
        gate = house.gate(group)
        house.start()
        job = house.job(group)
        house.control.enqueue(job)
        assert gate.reached.wait(20)
        house.control.away()
        gate.opened.set()
        house.until(lambda: house.service.keeper.undelivered)
        house.stop()
        house.control.back()
        house.start()
        assert house.control.outcome(job).point == point_id(job.cycle, job.group)
        assert len(house.control.outcomes) == 1


def replace_reply(**changes: Any) -> Any:
    return GO_ON.model_copy(update=changes)


def strings_of(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from strings_of(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings_of(each)


def allowed_strings(told: Outcome | Progress) -> set[str]:
    """Every enum's value, and the ids, times and codes that this message names by type."""
    progress = told.progress if isinstance(told, Outcome) else told
    allowed = {each.value for kind in (Stage, Rung, Reason, JobResult) for each in kind}
    allowed |= {str(disk.disk) for disk in progress.disks}
    if isinstance(told, Outcome):
        allowed |= {str(told.point), told.model_dump(mode="json")["source_time"] or ""}
        if told.problem is not None:
            allowed |= {"job.machine-unknown", told.problem.correlation}
    return allowed
