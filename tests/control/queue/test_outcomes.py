from typing import Any
from uuid import uuid4

import pytest

from dmcore.api.jobs import DiskTotals, Job, JobResult, Progress
from dmcore.control.errors import LeaseLost
from dmcore.control.index import points
from dmcore.control.queue import attempts
from dmcore.control.queue.epochs import MAX_EPOCH
from dmcore.control.store.database import Database
from dmcore.control.store.tables import groups, jobs
from dmcore.model.enums import Reason, Rung, Stage
from dmcore.model.jobs import JobKind
from tests.control.queue_kit import CONNECTOR, Worker, World, after, failed, new_world, with_point
from tests.control.schedule_kit import told


@pytest.fixture
def world(database: Database) -> World:
    return new_world(database)


@pytest.fixture
def appliance(world: World) -> Worker:
    return world.appliance()


@pytest.fixture
def job(world: World, appliance: Worker) -> Job:
    (group,) = world.plan()
    world.enqueued(group)
    return appliance.cycle()


class TestCompleted:
    def test_is_kept_with_all_that_was_said(self, world: World, appliance: Worker, job: Job) -> None:
        appliance.heartbeat(job, after(5))
        said = with_point(after(10), done_bytes=7)
        appliance.finish(job, after(60), **said, seconds={Stage.TRANSFER: 1.5})
        row = world.job(job.job)
        assert (row.state, row.started_at, row.ended_at, row.lease_until) == ("completed", after(5), after(60), None)
        assert (row.point, row.source_time, row.progress["done_bytes"]) == (said["point"], after(10), 7)
        assert row.outcome["seconds"] == {"transfer": 1.5}

    def test_heals_its_group_and_plans_the_next(self, world: World, appliance: Worker, job: Job) -> None:
        world.change(groups, job.group, failures=3, problem="source.gone")
        said = with_point(after(10))
        appliance.finish(job, after(60), **said)
        group = world.group(job.group)
        assert (group.failures, group.problem) == (0, None)
        assert (group.last_point, group.last_point_time) == (said["point"], after(10))
        assert group.next_start is not None
        assert world.enqueue(job.group, after(61)) is not None

    def test_without_a_heartbeat_it_started_with_its_lease(self, world: World, appliance: Worker, job: Job) -> None:
        appliance.finish(job, after(60))
        assert world.job(job.job).started_at == after(0)

    def test_what_the_tracking_has_missed_is_told(self, world: World, appliance: Worker, job: Job) -> None:
        disks = tuple(
            DiskTotals(disk=uuid4(), rung=Rung.COMPARE, reason=Reason.REQUESTED, untracked_bytes=missed)
            for missed in (None, 0, 4096, 512)
        )
        said = with_point(after(10)) | {"progress": Progress(disks=disks)}
        for _ in range(2):
            appliance.finish(job, after(60), **said)
        assert told(world) == [("tracking.lied", 4608)]

    def test_nothing_missed_is_nothing_to_tell(self, world: World, appliance: Worker, job: Job) -> None:
        disk = DiskTotals(disk=uuid4(), rung=Rung.COMPARE, reason=Reason.REQUESTED, untracked_bytes=0)
        appliance.finish(job, after(60), **with_point(after(10)) | {"progress": Progress(disks=(disk,))})
        assert world.events() == []

    def test_never_goes_back_behind_a_newer_point(self, world: World, appliance: Worker, job: Job) -> None:
        newest = uuid4()
        world.change(groups, job.group, last_point=newest, last_point_time=after(100))
        appliance.finish(job, after(60), **with_point(after(10)))
        assert world.group(job.group).last_point == newest

    @pytest.mark.parametrize(("said", "believed"), [(660, 60), (-600, 0)], ids=["ahead", "behind"])
    def test_a_node_whose_clock_is_off_does_not_plan_by_it(
        self, world: World, appliance: Worker, job: Job, said: int, believed: int
    ) -> None:
        appliance.finish(job, after(60), **with_point(after(said)))
        assert world.group(job.group).last_point_time == after(believed)

    def test_counts_although_somebody_cancelled(self, world: World, appliance: Worker, job: Job) -> None:
        world.cancel(job.job)
        appliance.finish(job)
        assert world.job(job.job).state == "completed"

    def test_counts_although_the_lease_ran_out(self, world: World, appliance: Worker, job: Job) -> None:
        world.reap(after(60))
        appliance.finish(job, after(3600))
        assert world.job(job.job).state == "completed"
        assert world.appliance("b").claim(after(3601)) is None


class TestFailed:
    def test_the_same_cycle_is_tried_again_later(self, world: World, appliance: Worker, job: Job) -> None:
        appliance.finish(job, after(5), **failed())
        row = world.job(job.job)
        assert (row.state, row.ended_at) == ("queued", None)
        assert after(5) < row.not_before <= after(7)
        again = appliance.cycle(after(10))
        assert (again.job, again.cycle, again.epoch) == (job.job, job.cycle, job.epoch + 1)
        assert world.events() == []

    def test_so_many_times(self, world: World, appliance: Worker, job: Job) -> None:
        now, tried = 0, job
        while world.job(job.job).state != "failed":
            appliance.finish(tried, after(now), **failed())
            now += 301
            found = appliance.claim(after(now))
            tried = found if isinstance(found, Job) else tried
        assert world.job(job.job).attempts == attempts.MAX_ATTEMPTS
        assert (world.group(job.group).failures, world.group(job.group).problem) == (1, "connection.lost")

    def test_a_permanent_problem_ends_it(self, world: World, appliance: Worker, job: Job) -> None:
        appliance.finish(job, after(5), **failed("source.gone", permanent=True))
        row, group = world.job(job.job), world.group(job.group)
        assert (row.state, row.ended_at) == ("failed", after(5))
        assert (group.failures, group.problem) == (1, "source.gone")
        assert group.next_start is not None
        assert world.events() == ["job.failed"]

    def test_without_a_problem_it_is_permanent(self, world: World, appliance: Worker, job: Job) -> None:
        appliance.finish(job, result=JobResult.FAILED)
        assert (world.job(job.job).state, world.group(job.group).problem) == ("failed", "internal")

    def test_a_dropped_cycle_gives_way_to_another_at_once(self, world: World, appliance: Worker, job: Job) -> None:
        world.change(groups, job.group, last_point_time=after(0))
        appliance.finish(job, after(5), **failed("cycle.dropped"))
        group = world.group(job.group)
        assert world.job(job.job).state == "failed"
        assert (group.failures, group.next_start, group.problem) == (0, after(5), "cycle.dropped")

    def test_a_cancelled_one_is_not_tried_again(self, world: World, appliance: Worker, job: Job) -> None:
        world.cancel(job.job)
        appliance.finish(job, **failed())
        assert world.job(job.job).state == "cancelled"


class TestStopped:
    def test_a_node_that_stops_leaves_its_job_to_the_next(self, world: World, appliance: Worker, job: Job) -> None:
        appliance.finish(job, after(5), result=JobResult.CANCELLED)
        assert world.job(job.job).not_before == after(5)
        assert world.appliance("b").cycle(after(5)).cycle == job.cycle

    def test_one_that_stalled_is_waited_for(self, world: World, appliance: Worker, job: Job) -> None:
        appliance.heartbeat(job, after(700))
        appliance.finish(job, after(701), result=JobResult.CANCELLED)
        assert world.job(job.job).not_before > after(701)

    def test_not_for_ever(self, world: World, appliance: Worker, job: Job) -> None:
        world.change(jobs, job.job, attempts=attempts.MAX_ATTEMPTS)
        appliance.finish(job, result=JobResult.CANCELLED)
        assert world.job(job.job).state == "failed"

    def test_one_that_was_told_to_is_over(self, world: World, appliance: Worker, job: Job) -> None:
        world.cancel(job.job)
        assert appliance.heartbeat(job).cancel
        appliance.finish(job, result=JobResult.CANCELLED)
        assert world.job(job.job).state == "cancelled"
        assert world.enqueue(job.group) is not None


@pytest.mark.parametrize("said", [{}, failed(), failed(permanent=True), {"result": JobResult.CANCELLED}])
def test_saying_it_again_changes_nothing(world: World, appliance: Worker, job: Job, said: dict[str, Any]) -> None:
    appliance.finish(job, after(5), **said)
    before, group, told = world.job(job.job), world.group(job.group), world.events()
    appliance.finish(job, after(50), **said)
    appliance.finish(job, after(55), **failed("another.problem", permanent=True))
    assert (world.job(job.job), world.group(job.group), world.events()) == (before, group, told)


class TestWhoMaySpeak:
    @pytest.mark.parametrize("change", [{"epoch": 2}, {"job": uuid4()}], ids=["epoch", "job"])
    def test_only_of_a_lease_that_was(self, appliance: Worker, job: Job, change: dict[str, Any]) -> None:
        with pytest.raises(LeaseLost):
            appliance.finish(job.model_copy(update=change))

    def test_only_its_node(self, world: World, job: Job) -> None:
        with pytest.raises(LeaseLost):
            world.appliance("b").finish(job)
        assert world.job(job.job).state == "leased"

    def test_a_restarted_process_may_tell_what_the_one_before_it_did(
        self, world: World, appliance: Worker, job: Job
    ) -> None:
        appliance.restarted().finish(job)
        assert world.job(job.job).state == "completed"


class TestEpochFloor:
    """The database is older than its connectors' memory: it was restored from a copy."""

    def test_the_group_goes_on_above_it(self, world: World, appliance: Worker, job: Job) -> None:
        appliance.finish(job, after(5), **failed("epoch.stale", permanent=True, epoch_floor=41))
        row = world.job(job.job)
        assert (row.state, row.not_before, world.group(job.group).epoch) == ("queued", after(5), 41)
        assert world.events() == ["epoch.behind"]
        again = appliance.cycle(after(5))
        assert (again.cycle, again.epoch) == (job.cycle, 42)

    def test_an_equal_one_is_another_nodes(self, world: World, appliance: Worker, job: Job) -> None:
        appliance.finish(job, **failed("ticket.other", permanent=True, epoch_floor=1))
        assert appliance.cycle(after(1)).epoch == 2
        assert world.events() == []

    def test_a_lower_one_is_no_excuse(self, world: World, appliance: Worker, job: Job) -> None:
        appliance.finish(job, **failed(permanent=True, epoch_floor=0))
        assert world.job(job.job).state == "failed"

    def test_one_that_nobody_can_have_reached_is_not_believed(self, world: World, appliance: Worker, job: Job) -> None:
        appliance.finish(job, **failed(epoch_floor=MAX_EPOCH))
        assert world.group(job.group).epoch == 1

    def test_not_without_end(self, world: World, appliance: Worker, job: Job) -> None:
        tried = job
        for number in range(1, attempts.MAX_ATTEMPTS + 1):
            appliance.finish(tried, after(number), **failed(epoch_floor=tried.epoch + 10))
            found = appliance.claim(after(number))
            tried = found if isinstance(found, Job) else tried
        assert world.job(job.job).state == "failed"


class TestWork:
    @pytest.mark.parametrize("kind", sorted(set(JobKind) - {JobKind.CYCLE}))
    def test_the_index_hears_what_became_of_its_points(
        self, world: World, kind: JobKind, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        heard: list[Any] = []
        monkeypatch.setattr(points, "settle", lambda *given: heard.append(given[1:]))
        connector = Worker(world.database, CONNECTOR)
        world.work(kind, points=[uuid4()], preserved=True)
        work = connector.work()
        connector.finish(work, after(5), progress=Progress(counter=3))
        connector.finish(work, after(6), progress=Progress(counter=3))
        ((now, row, outcome),) = heard
        assert (now, row.id, row.leased_at, outcome.progress.counter) == (after(5), work.job, after(0), 3)
        assert world.job(work.job).state == "completed"

    def test_a_cycle_is_none_of_its_business(self, world: World, job: Job, appliance: Worker) -> None:
        with pytest.MonkeyPatch.context() as patched:
            patched.delattr(points, "settle")
            appliance.finish(job)
        assert world.job(job.job).state == "completed"

    def test_is_tried_again_too(self, world: World) -> None:
        connector = Worker(world.database, CONNECTOR)
        world.work(JobKind.RECOVER, points=[uuid4()], to="standby")
        work = connector.work()
        connector.finish(work, **failed(epoch_floor=99))
        assert world.job(work.job).state == "queued"
        assert connector.work(after(5)).epoch == 2
