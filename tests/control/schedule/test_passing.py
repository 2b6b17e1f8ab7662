"""A row that nothing can be done with is passed by, and told of; all others go on."""

from typing import Any
from uuid import UUID

import pytest
import structlog
from sqlalchemy import text

from dmcore.api.operators import EventKind
from dmcore.control.errors import StoreBusy, StoreFull
from dmcore.control.schedule import due, housekeeping
from dmcore.control.schedule.passing import PUT_OFF, one_by_one, step
from dmcore.control.store.database import Database
from dmcore.control.store.tables import groups, jobs, plans
from dmcore.model.enums import Role
from dmcore.model.jobs import JobState
from tests.control.queue_kit import NOW, World, after, new_world
from tests.control.schedule_kit import fact, reschedule, state, ticked

ALONE = ["the scheduler passes by what it cannot deal with"]


@pytest.fixture
def world(database: Database) -> World:
    return new_world(database)


def poison(world: World, group: UUID) -> None:
    """A time that is none: the group's row cannot be read."""
    sqlite = world.database.is_sqlite
    key, nonsense = (group.hex, "garbage") if sqlite else (group, "infinity")
    with world.database.write() as connection:
        connection.execute(
            text("UPDATE groups SET last_point_time = :nonsense WHERE id = :key"), {"nonsense": nonsense, "key": key}
        )


def mended(world: World, group: UUID) -> None:
    world.change(groups, group, last_point_time=None)


def passed_by(world: World) -> list[str]:
    return [kind for kind in world.events() if kind == EventKind.GROUP_PASSED_BY]


def test_the_cycles_of_other_groups_start(world: World) -> None:
    made = world.plan(groups_count=7)
    poison(world, made[3])
    with structlog.testing.capture_logs() as logs:
        assert ticked(world, NOW).enqueued == 6
    assert [(entry["event"], entry["id"]) for entry in logs] == [(ALONE[0], str(made[3]))]
    assert len(passed_by(world)) == 1
    with structlog.testing.capture_logs() as logs:
        assert ticked(world, after(1)).enqueued == 0  # it is not met again at once
    assert logs == []
    mended(world, made[3])
    assert ticked(world, NOW + PUT_OFF).enqueued == 1


def test_the_breaches_of_other_groups_are_told_of(world: World) -> None:
    made = world.plan(groups_count=3, rpo_s=300)
    for group in made:
        reschedule(world, group)
        world.change(groups, group, next_start=None)
    poison(world, made[0])
    with structlog.testing.capture_logs() as logs:
        assert ticked(world, after(300)).breached == 2
    assert [entry["event"] for entry in logs] == ALONE
    assert len(passed_by(world)) == 1


def test_the_points_of_other_plans_expire(world: World) -> None:
    other = world.node("d" * 64, Role.CONNECTOR).node
    (broken,), (group,) = world.plan(retain=[{"every_s": 0}], connector=other), world.plan()
    state(world, [fact(world, broken, at=after(-90 * 86_400)), fact(world, broken)], connector=other)
    state(world, [fact(world, group, at=after(-90 * 86_400)), fact(world, group)])
    with structlog.testing.capture_logs() as logs:
        assert ticked(world, after(60)).expiring == 1
    assert [(entry["event"], entry["id"]) for entry in logs] == [(ALONE[0], str(broken))]
    assert len(passed_by(world)) == 1


def test_the_leases_of_other_groups_are_taken_back_also_by_a_claim(world: World) -> None:
    appliance, made = world.appliance(), world.plan(groups_count=3)
    held = [world.enqueued(group) for group in made]
    for _ in held:
        world.cancel(appliance.cycle().job)
    poison(world, made[1])
    with structlog.testing.capture_logs() as logs:
        assert world.appliance("b").claim(after(61)) is None
    assert [(entry["event"], entry["id"]) for entry in logs] == [(ALONE[0], str(held[1]))]
    assert [world.job(job).state for job in held] == [JobState.CANCELLED, JobState.LEASED, JobState.CANCELLED]
    assert world.job(held[1]).lease_until == after(61) + PUT_OFF
    assert world.reap(after(62)) == 0


def test_a_step_that_fails_stops_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def prune(connection: Any, _: Any) -> int:
        connection.execute(jobs.delete())
        raise ZeroDivisionError

    monkeypatch.setattr(housekeeping, "prune", prune)
    world.plan(groups_count=2)
    with structlog.testing.capture_logs() as logs:
        assert ticked(world, NOW).enqueued == 2
    assert [(entry["event"], entry["step"]) for entry in logs] == [("a step of the scheduler's tick failed", "prune")]
    assert world.count(jobs) == 2  # and nothing of it is kept


def test_what_the_database_cannot_do_is_no_rows_fault(sqlite_database: Database) -> None:
    """Else every row would be put off while a disk is full."""
    world = new_world(sqlite_database)
    (group,) = world.plan()

    def full(connection: Any) -> int:
        connection.exec_driver_sql("PRAGMA query_only = ON")
        connection.execute(plans.delete())
        return 0

    def act(connection: Any, ids: Any) -> int:
        return one_by_one(connection, ids, lambda _: full(connection), lambda _: pytest.fail("put off"))

    with pytest.raises(StoreFull), sqlite_database.write() as connection:
        act(connection, [group, group])
    sqlite_database.engine.dispose()
    with pytest.raises(StoreFull), sqlite_database.write() as connection:
        step(connection, NOW, lambda connection, _: full(connection))
    sqlite_database.engine.dispose()
    assert world.count(plans) == 1


def test_a_lost_connection_is_no_rows_fault(postgresql_database: Database) -> None:
    world = new_world(postgresql_database)
    (group,) = world.plan()

    def cut(connection: Any, _: Any) -> int:
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        return 0

    with pytest.raises(StoreBusy), postgresql_database.write() as connection:
        step(connection, NOW, cut)
    assert world.group(group).next_start == NOW
    with postgresql_database.write() as connection:
        assert due.enqueue_due(connection, NOW) == 1
