from typing import Any
from uuid import UUID, uuid4

import pytest

from dmcore.api.jobs import Job, JobsReply, JobView, PointOutcome, PointVerdict
from dmcore.control.errors import NotFound
from dmcore.control.queue import jobs as shown
from dmcore.control.store.database import Database
from dmcore.control.store.tables import jobs, plans
from dmcore.model.enums import Reason, Rung, Stage
from dmcore.model.ids import DiskId, PointId
from dmcore.model.jobs import JobKind, JobState
from tests.control.queue_kit import CONNECTOR, NOW, Worker, World, after, failed, new_world, with_point


@pytest.fixture
def world(database: Database) -> World:
    return new_world(database)


@pytest.fixture
def appliance(world: World) -> Worker:
    return world.appliance()


@pytest.fixture
def job(world: World, appliance: Worker) -> Job:
    (group,) = world.plan(name="web")
    world.enqueued(group)
    return appliance.cycle()


def view(world: World, job: UUID, seconds: float = 0) -> JobView:
    with world.database.read() as connection:
        return shown.view(connection, after(seconds), job)


def listed(world: World, **more: Any) -> JobsReply:
    with world.database.read() as connection:
        return shown.list_jobs(connection, NOW, **more)


def test_one_that_was_just_leased(world: World, appliance: Worker, job: Job) -> None:
    seen = view(world, job.job)
    assert (seen.kind, seen.state, seen.plan_name, seen.machines) == ("cycle", "leased", "web", job.machines)
    assert (seen.node, seen.epoch, seen.attempts, seen.cycle) == (appliance.node, 1, 1, job.cycle)
    assert (seen.started_at, seen.rate_bytes_s, seen.eta_s, seen.problem) == (None, None, None, None)


def test_one_that_runs_has_a_rate_and_an_end_in_sight(world: World, appliance: Worker, job: Job) -> None:
    appliance.heartbeat(job, after(0), stage=Stage.SNAPSHOT)
    disk = {"disk": DiskId(uuid4()), "rung": Rung.DELTA, "reason": Reason.TRACKED, "to_read_bytes": 1000}
    appliance.heartbeat(job, after(10), stage=Stage.TRANSFER, done_bytes=400, total_bytes=1000, disks=(disk,))
    seen = view(world, job.job, 10)
    assert (seen.rate_bytes_s, seen.eta_s, seen.progress.disks[0].to_read_bytes) == (40.0, 15.0, 1000)
    assert view(world, job.job, 20).rate_bytes_s == 20.0


@pytest.mark.parametrize("said", [{}, {"done_bytes": 7}, {"total_bytes": 7}], ids=["nothing", "no-total", "none-done"])
def test_no_end_in_sight(world: World, appliance: Worker, job: Job, said: dict[str, int]) -> None:
    appliance.heartbeat(job, after(0))
    appliance.heartbeat(job, after(10), **said)
    assert view(world, job.job, 10).eta_s is None


def test_one_that_did_more_than_it_said(world: World, appliance: Worker, job: Job) -> None:
    appliance.heartbeat(job, after(0), done_bytes=2000, total_bytes=1000)
    assert view(world, job.job, 10).eta_s == 0.0
    assert view(world, job.job, 0).rate_bytes_s is None


def test_numbers_that_nobody_reaches_are_still_shown(world: World, appliance: Worker, job: Job) -> None:
    appliance.heartbeat(job, after(0), done_bytes=(1 << 53) - 1, total_bytes=1)
    assert view(world, job.job, 1e-6).rate_bytes_s == shown.MAX_DURATION
    appliance.heartbeat(job, after(0), done_bytes=1, total_bytes=(1 << 53) - 1)
    assert view(world, job.job, 3600).eta_s == shown.MAX_DURATION


def test_one_that_is_over(world: World, appliance: Worker, job: Job) -> None:
    appliance.heartbeat(job, after(0))
    said = with_point(after(1), done_bytes=1000)
    appliance.finish(job, after(50), **said, seconds={Stage.TRANSFER: 2.5})
    seen = view(world, job.job, 5000)
    assert (seen.state, seen.ended_at, seen.rate_bytes_s, seen.eta_s) == ("completed", after(50), 20.0, None)
    assert (seen.point, seen.source_time, seen.seconds) == (said["point"], after(1), {Stage.TRANSFER: 2.5})


def test_one_that_is_tried_again_says_why(world: World, appliance: Worker, job: Job) -> None:
    appliance.finish(job, **failed("source.gone"))
    seen = view(world, job.job)
    assert seen.problem is not None
    assert (seen.state, seen.problem.code) == ("queued", "source.gone")


def test_work_shows_what_became_of_each_point(world: World) -> None:
    connector = Worker(world.database, CONNECTOR)
    world.work(JobKind.RECOVER, points=[uuid4()], to="standby")
    work = connector.work()
    verdicts = (PointOutcome(point=PointId(work.points[0]), verdict=PointVerdict.BUSY),)
    connector.finish(work, points=verdicts)
    seen = view(world, work.job)
    assert (seen.points, seen.plan, seen.plan_name, seen.machines, seen.cycle) == (verdicts, None, None, (), None)


def test_of_a_plan_that_is_deleted(world: World, job: Job) -> None:
    world.change(plans, job.plan, deleted_at=NOW)
    assert view(world, job.job).plan_name == "web"


def test_one_that_is_not(world: World) -> None:
    with pytest.raises(NotFound, match="no job"):
        view(world, uuid4())


class TestLists:
    def test_newest_first_page_by_page(self, world: World) -> None:
        made = [world.enqueued(group, after(number // 2)) for number, group in enumerate(world.plan(7))]
        first = listed(world, limit=3)
        second = listed(world, limit=3, before=first.jobs[-1].id)
        third = listed(world, limit=3, before=second.jobs[-1].id)
        assert (first.more, second.more, third.more) == (True, True, False)
        pages = [*first.jobs, *second.jobs, *third.jobs]
        assert sorted(job.id for job in pages) == sorted(made)
        assert [job.due_at for job in pages] == sorted((job.due_at for job in pages), reverse=True)

    def test_a_page_after_nothing_is_refused(self, world: World) -> None:
        with pytest.raises(NotFound):
            listed(world, before=uuid4())

    def test_only_what_was_asked_for(self, world: World, appliance: Worker) -> None:
        (one,), (other,) = world.plan(), world.plan()
        jobs_made = [world.enqueued(one), world.enqueued(other, after(1))]
        work = world.work(JobKind.INDEX)
        appliance.claim()
        plan = world.group(other).plan
        assert [job.id for job in listed(world, plan=plan).jobs] == [jobs_made[1]]
        assert [job.id for job in listed(world, state=JobState.LEASED).jobs] == [jobs_made[0]]
        assert [job.id for job in listed(world, kind=JobKind.INDEX).jobs] == [work]
        assert listed(world, plan=plan, kind=JobKind.INDEX) == JobsReply(jobs=(), more=False)

    @pytest.mark.parametrize(("limit", "shown_count"), [(0, 1), (-5, 1), (10_000, 3)])
    def test_a_page_has_a_size(self, world: World, limit: int, shown_count: int) -> None:
        for group in world.plan(3):
            world.enqueued(group)
        assert len(listed(world, limit=limit).jobs) == shown_count
        assert world.count(jobs) == 3
