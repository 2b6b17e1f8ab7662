from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from dmcore.api.jobs import Job, JobResult, Outcome
from dmcore.api.nodes import OfflineCycle, OfflineReport
from dmcore.control.queue import jobs as shown
from dmcore.control.queue import offline
from dmcore.control.queue.epochs import MAX_EPOCH
from dmcore.control.store.database import Database
from dmcore.control.store.tables import jobs, plans
from dmcore.model.ids import successor_cycle
from tests.control.queue_kit import CONNECTOR, NOW, Worker, World, after, failed, new_world, with_point


@pytest.fixture
def world(database: Database) -> World:
    return new_world(database)


@pytest.fixture
def appliance(world: World) -> Worker:
    return world.appliance()


@pytest.fixture
def job(world: World, appliance: Worker) -> Job:
    """The last one that was leased before the control plane was away, and its end."""
    (group,) = world.plan()
    world.enqueued(group)
    job = appliance.cycle()
    appliance.finish(job, after(30), **with_point(after(1)))
    return job


def cycle(job: Job, number: int = 1, begin: float = 300, **more: Any) -> OfflineCycle:
    said: dict[str, Any] = {"epoch": job.epoch, "result": JobResult.COMPLETED, **with_point(after(begin + 1))}
    said |= more.pop("outcome", {})
    values: dict[str, Any] = {
        "plan": job.plan, "group": job.group, "base_cycle": job.cycle, "successor": number,
        "started_at": after(begin), "ended_at": after(begin + 30), "outcome": Outcome(**said),
    }  # fmt: skip
    return OfflineCycle(**(values | more))


def report(worker: Worker, *cycles: OfflineCycle, now: datetime | None = None) -> None:
    with worker.database.write() as connection:
        offline.record_offline(connection, now or after(1000), worker.node, OfflineReport(cycles=cycles))


def found(world: World, job: Job, number: int = 1) -> UUID:
    with world.database.read() as connection:
        wanted = successor_cycle(job.cycle, number)
        return connection.execute(jobs.select().where(jobs.c.cycle == wanted)).one().id  # type: ignore[no-any-return]


def test_is_kept_as_a_job_that_is_over(world: World, appliance: Worker, job: Job) -> None:
    said = cycle(job)
    report(appliance, said)
    row = world.job(found(world, job))
    assert (row.state, row.offline, row.kind, row.node, row.epoch) == ("completed", True, "cycle", appliance.node, 1)
    assert (row.due_at, row.started_at, row.ended_at) == (after(300), after(300), after(330))
    assert (row.plan, row.group, row.connector, row.point) == (job.plan, job.group, CONNECTOR, said.outcome.point)
    with world.database.read() as connection:
        assert shown.view(connection, after(1000), row.id).offline


def test_moves_its_group_on(world: World, appliance: Worker, job: Job) -> None:
    first, second = cycle(job, 1, 300), cycle(job, 2, 600)
    report(appliance, first, second)
    group = world.group(job.group)
    assert (group.last_point, group.last_point_time) == (second.outcome.point, after(601))
    assert group.next_start is not None
    assert group.next_start > after(630)


def test_told_again_changes_nothing(world: World, appliance: Worker, job: Job) -> None:
    report(appliance, cycle(job))
    before = world.group(job.group)
    report(appliance, cycle(job, outcome=failed()), cycle(job))
    assert world.count(jobs) == 2
    assert world.group(job.group) == before


@pytest.mark.parametrize(
    ("result", "state", "failures"), [(failed(), "failed", 1), ({"result": JobResult.CANCELLED}, "cancelled", 0)]
)
def test_also_what_failed(
    world: World, appliance: Worker, job: Job, result: dict[str, Any], state: str, failures: int
) -> None:
    report(appliance, cycle(job, outcome=result | {"point": None}))
    assert world.job(found(world, job)).state == state
    assert world.group(job.group).failures == failures


def test_one_in_flight_stays_in_flight(world: World, appliance: Worker, job: Job) -> None:
    waiting = world.enqueued(job.group, after(900))
    report(appliance, cycle(job))
    assert world.job(waiting).state == "queued"
    assert world.group(job.group).next_start is None


def test_a_restored_database_learns_the_epoch(world: World, appliance: Worker, job: Job) -> None:
    report(appliance, cycle(job, outcome={"epoch": 41}, base_cycle=uuid4()))
    assert world.group(job.group).epoch == 41
    assert world.events() == ["epoch.behind"]


@pytest.mark.parametrize(("floor", "epoch"), [(9, 9), (MAX_EPOCH, 5), (3, 5)], ids=["above", "of-fancy", "below"])
def test_the_epoch_that_its_connector_knows_is_learned_too(
    world: World, appliance: Worker, job: Job, floor: int, epoch: int
) -> None:
    """Somebody else's lease ended the offline cycle: a restored database does not know that one."""
    report(appliance, cycle(job, outcome=failed() | {"point": None, "epoch": 5, "epoch_floor": floor}))
    assert world.group(job.group).epoch == epoch
    assert world.events().count("epoch.behind") >= 1
    world.change(jobs, found(world, job), ended_at=after(330))
    world.enqueued(job.group, after(1000))
    assert appliance.cycle(after(1000)).epoch == epoch + 1


def test_a_clock_that_is_off_neither_ends_before_it_began_nor_tomorrow(
    world: World, appliance: Worker, job: Job
) -> None:
    report(appliance, cycle(job, 1, ended_at=after(0)), cycle(job, 2, 5000))
    first, second = (world.job(found(world, job, number)) for number in (1, 2))
    assert (first.started_at, first.ended_at) == (after(300), after(300))
    assert (second.started_at, second.ended_at) == (after(1000), after(1000))


@pytest.mark.parametrize(
    "change",
    [{"plan": uuid4()}, {"group": uuid4()}, {"outcome": {"epoch": MAX_EPOCH}}],
    ids=["another-plan", "another-group", "an-epoch-of-fancy"],
)
def test_what_cannot_be_is_left_out_and_the_rest_kept(
    world: World, appliance: Worker, job: Job, change: dict[str, Any]
) -> None:
    report(appliance, cycle(job, **change), cycle(job, 2))
    assert world.count(jobs) == 2
    found(world, job, 2)


def test_another_sites_node_has_no_say(world: World, job: Job) -> None:
    world.site("south")
    report(world.appliance("b", "south"), cycle(job))
    assert world.count(jobs) == 1


def test_a_deleted_plan_keeps_its_history(world: World, appliance: Worker, job: Job) -> None:
    world.change(plans, job.plan, deleted_at=NOW)
    report(appliance, cycle(job))
    assert world.count(jobs) == 2
    assert world.group(job.group).next_start is None
