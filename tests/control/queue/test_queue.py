import threading
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from dmcore.control.queue.queue import QueueKey, has_cycle, keys_of
from dmcore.control.store.database import Database
from dmcore.control.store.tables import groups, jobs, nodes, plans
from dmcore.model.jobs import JobKind, JobState
from tests.control.queue_kit import CONNECTOR, NOW, SITE, SOURCE, World, after, new_world


@pytest.fixture
def world(database: Database) -> World:
    return new_world(database)


def test_a_cycle_waits_for_its_sources_appliances(world: World) -> None:
    (group,) = world.plan()
    job = world.job(world.enqueued(group))
    assert (job.state, job.kind, job.group, job.site, job.source) == ("queued", "cycle", group, SITE, SOURCE)
    assert (job.connector, job.epoch, job.attempts, job.due_at) == (CONNECTOR, 0, 0, NOW)
    assert isinstance(job.cycle, UUID)
    assert world.group(group).next_start is None
    assert world.waiting() == {QueueKey.cycles(SITE, SOURCE)}


def test_a_late_cycle_does_for_the_next_one_too(world: World) -> None:
    (group,) = world.plan()
    world.enqueued(group)
    world.change(groups, group, next_start=NOW)
    assert world.enqueue(group) is None
    assert world.count(jobs) == 1
    assert world.group(group).next_start is None


def test_groups_do_not_wait_for_each_other(world: World) -> None:
    one, other = world.plan(2)
    assert world.enqueued(one) != world.enqueued(other)


@pytest.mark.parametrize("state", ["queued", "leased", "running"])
def test_the_database_itself_refuses_a_second_in_flight(world: World, state: str) -> None:
    (group,) = world.plan()
    world.enqueued(group)
    second = {
        "id": uuid4(), "kind": "cycle", "group": group, "connector": CONNECTOR, "due_at": NOW, "not_before": NOW
    }  # fmt: skip
    with pytest.raises(IntegrityError), world.database.write() as connection:
        connection.execute(insert(jobs).values(**second, state=state))
    with world.database.write() as connection:
        connection.execute(insert(jobs).values(**second, state="completed"))


def test_of_two_that_enqueue_one_does(world: World) -> None:
    (group,) = world.plan()
    ready, made = threading.Barrier(2), list[UUID | None]()

    def run() -> None:
        ready.wait()
        made.append(world.enqueue(group))

    racers = [threading.Thread(target=run) for _ in range(2)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert sorted(job is None for job in made) == [False, True]
    assert world.count(jobs) == 1


def test_nothing_is_enqueued_of_what_is_deleted(world: World) -> None:
    (gone,) = world.plan(deleted_at=NOW)
    (group,) = world.plan()
    world.change(groups, group, deleted_at=NOW)
    assert [world.enqueue(group) for group in (gone, group, uuid4())] == [None, None, None]


def test_an_operators_wish_travels_with_the_job(world: World) -> None:
    (group,) = world.plan()
    job = world.enqueue(group, resync="compare")
    assert job is not None
    assert world.job(job).resync == "compare"


def test_work_waits_for_its_connector(world: World) -> None:
    points = [uuid4(), uuid4()]
    job = world.job(world.work(JobKind.RECOVER, points=points, to="standby"))
    assert (job.state, job.kind, job.connector, job.group) == ("queued", "recover", CONNECTOR, None)
    assert job.arguments == {"points": [str(point) for point in points], "to": "standby", "preserved": None}
    assert world.waiting() == {QueueKey.work(CONNECTOR)}


def test_a_connector_may_have_several_jobs(world: World) -> None:
    assert world.work(JobKind.INDEX) != world.work(JobKind.INDEX)


def test_nobody_is_woken_for_what_may_not_be_claimed(world: World) -> None:
    (paused,) = world.plan()
    (deleted,) = world.plan()
    for group, values in ((paused, {"paused": True}), (deleted, {"deleted_at": NOW})):
        world.enqueued(group)
        world.change(plans, world.group(group).plan, **values)
    (later,) = world.plan(source="later")
    world.change(jobs, world.enqueued(later), not_before=after(5))
    (over,) = world.plan(source="over")
    world.change(jobs, world.enqueued(over), state=JobState.COMPLETED)
    assert world.waiting() == set()
    assert world.waiting(after(5)) == {QueueKey.cycles(SITE, "later")}


def test_a_node_listens_where_it_may_claim(world: World) -> None:
    appliance = world.appliance()
    with world.database.read() as connection:
        rows = {row.role: row for row in connection.execute(select(nodes))}
    assert keys_of(rows["appliance"], ["vmware", "kvm"]) == {
        QueueKey.cycles(SITE, "vmware"),
        QueueKey.cycles(SITE, "kvm"),
    }
    assert keys_of(rows["connector"], ["vmware"]) == {QueueKey.work(CONNECTOR)}
    assert rows["appliance"].id == appliance.node


def has_one(world: World, site: str = SITE, source: str = SOURCE) -> bool:
    with world.database.read() as connection:
        return has_cycle(connection, NOW, site, source)


def test_there_is_one_more_until_the_last_is_claimed(world: World) -> None:
    for group in world.plan(2):
        world.enqueued(group)
    appliance = world.appliance()
    assert has_one(world)
    appliance.cycle()
    assert has_one(world)
    appliance.cycle()
    assert not has_one(world)


def test_there_is_no_more_of_another_source_or_site_nor_before_its_time(world: World) -> None:
    (group,) = world.plan()
    job = world.enqueued(group)
    assert has_one(world)
    assert not has_one(world, source="other")
    assert not has_one(world, site="south")
    world.change(jobs, job, not_before=after(1))
    assert not has_one(world)


@pytest.mark.parametrize("change", [{"paused": True}, {"deleted_at": NOW}])
def test_there_is_no_more_of_a_plan_that_does_not_run(world: World, change: dict[str, object]) -> None:
    (group,) = world.plan()
    world.enqueued(group)
    world.change(plans, world.group(group).plan, **change)
    assert not has_one(world)


def test_there_is_no_more_of_a_connectors_work(world: World) -> None:
    world.work(JobKind.INDEX)
    assert not has_one(world)
