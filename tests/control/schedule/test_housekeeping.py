"""What is old goes, a batch at a time; what is not over, or not old, stays."""

from datetime import timedelta

import pytest
from sqlalchemy import update

from dmcore.api.operators import EventKind
from dmcore.control.schedule import housekeeping
from dmcore.control.schedule.housekeeping import prune
from dmcore.control.store.database import Database
from dmcore.control.store.tables import events, jobs, points
from dmcore.model.points import PointState
from tests.control.queue_kit import NOW, World, after, failed, new_world
from tests.control.schedule_kit import fact, run_cycle, state

OLD = timedelta(days=100)


@pytest.fixture
def world(database: Database) -> World:
    return new_world(database)


def pruned(world: World) -> int:
    with world.database.write() as connection:
        return prune(connection, NOW + OLD)


def test_finished_jobs_and_events_go_when_they_are_old(world: World) -> None:
    old, waiting = world.plan(groups_count=2)
    appliance = world.appliance()
    run_cycle(appliance, old, begin_s=0, took_s=10)
    world.enqueue(old, after(20))
    appliance.finish(appliance.cycle(after(20)), after(21), **failed(permanent=True))
    world.enqueue(waiting)
    assert world.events() == [EventKind.JOB_FAILED]
    assert pruned(world) == 3
    assert (world.states(), world.events()) == (["queued"], [])
    assert pruned(world) == 0


def test_what_is_younger_stays(world: World) -> None:
    (group,) = world.plan()
    run_cycle(world.appliance(), group, begin_s=0, took_s=10)
    with world.database.write() as connection:
        connection.execute(update(jobs).values(ended_at=NOW + OLD - timedelta(days=housekeeping.JOBS_DAYS)))
    assert pruned(world) == 0


def test_points_go_only_when_they_have_expired_long_ago(world: World) -> None:
    there, gone = fact(), fact(state=PointState.EXPIRED)
    state(world, [there, gone])
    assert pruned(world) == 1
    assert world.count(points) == 1


def test_much_goes_in_parts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "BATCH", 2)
    state(world, [fact(state=PointState.EXPIRED) for _ in range(3)])
    assert [pruned(world) for _ in range(3)] == [2, 1, 0]
    assert world.count(events) == 0
