"""A plan of many groups is made, edited, paused, run and deleted in so many statements, however many groups it has."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select

from dmcore.api.operators import EventKind
from dmcore.api.plans import PlanEdit, PlanSpec, RunRequest
from dmcore.control.plans import plan_views, plans
from dmcore.control.queue import jobs
from dmcore.control.store.database import Database
from dmcore.control.store.tables import groups, nodes
from dmcore.control.store.tables import jobs as job_table
from dmcore.model.jobs import JobState
from tests.control.queue_kit import CONNECTOR, NOW, SOURCE, Worker, World, after, new_world, with_point
from tests.control.schedule_kit import noted, reschedule, told

MANY, MOST = 50, 30


@pytest.fixture
def world(database: Database) -> World:
    made = new_world(database)
    made.appliance()
    made.change(nodes, "a" * 64, sources=[SOURCE])
    made.change(nodes, CONNECTOR, targets=["staging"])
    return made


@pytest.fixture
def appliance(world: World) -> Worker:
    return Worker(world.database, "a" * 64)


def machines(begin: int, end: int) -> tuple[str, ...]:
    return tuple(f"vm{number}" for number in range(begin, end))


def made(world: World) -> UUID:
    spec = PlanSpec(name="many", source=SOURCE, target="staging", machines=machines(0, MANY), rpo_s=300)
    with world.database.write() as connection:
        return plans.create(connection, NOW, spec, "me")


def edited(world: World, plan: UUID, **changes: object) -> None:
    with world.database.write() as connection:
        plans.edit(connection, after(1), plan, PlanEdit.model_validate(changes), "me")
        plan_views.view(connection, after(1), plan)


def run(world: World, plan: UUID) -> list[UUID]:
    with world.database.write() as connection:
        _, found = plans.run(connection, after(2), plan, RunRequest(), "me")
        assert [view.id for view in jobs.views(connection, after(2), found)] == found
        return found


def paused(world: World, plan: UUID, *, paused: bool) -> None:
    with world.database.write() as connection:
        plans.pause(connection, after(3), plan, "me", paused=paused)


def deleted(world: World, plan: UUID) -> None:
    with world.database.write() as connection:
        plans.delete(connection, after(4), plan, "me")


def few(world: World, act: Callable[[], object]) -> None:
    with noted(world.database) as asked:
        act()
    assert 3 < len(asked) <= MOST


def test_in_few_statements(world: World) -> None:
    few(world, lambda: made(world))
    (plan,) = {row.plan for row in rows(world)}
    few(world, lambda: edited(world, plan, rpo_s=600))
    few(world, lambda: edited(world, plan, machines=machines(10, MANY + 10)))
    few(world, lambda: run(world, plan))
    few(world, lambda: edited(world, plan, machines=machines(0, MANY)))  # some come back, what runs of some is over
    few(world, lambda: run(world, plan))
    few(world, lambda: paused(world, plan, paused=True))
    few(world, lambda: paused(world, plan, paused=False))
    few(world, lambda: deleted(world, plan))


def rows(world: World) -> list[Any]:
    with world.database.read() as connection:
        return list(connection.execute(select(groups).order_by(groups.c.id)).all())


def test_what_is_taken_out_ends_and_what_comes_back_is_itself(world: World, appliance: Worker) -> None:
    plan = made(world)
    begun = {row.id: row for row in rows(world)}
    run(world, plan)
    held = appliance.cycle(after(5))
    kept = begun[held.group].machines
    edited(world, plan, machines=["new"])
    states = {row.id: row for row in all_jobs(world)}
    assert states[held.job].state == JobState.LEASED
    assert states[held.job].cancelling
    assert {row.state for row in states.values() if row.id != held.job} == {JobState.CANCELLED}
    assert {row.ended_at for row in states.values() if row.id != held.job} == {after(1)}
    assert all(row.next_start is None and row.breach_at is None for row in rows(world) if row.deleted_at)
    edited(world, plan, machines=["new", *kept])
    again = world.group(held.group)
    assert (again.deleted_at, again.epoch, again.next_start) == (None, 1, None)  # its job is in flight still
    appliance.finish(held, after(6), **with_point(after(5)))
    assert world.group(held.group).next_start is not None


def all_jobs(world: World) -> list[Any]:
    with world.database.read() as connection:
        return list(connection.execute(select(job_table)).all())


@pytest.mark.parametrize("change", ["edit", "pause"])
def test_all_at_once_is_as_one_by_one(world: World, appliance: Worker, change: str) -> None:
    """Groups that have run, failed, been cancelled, run now, or never ran; some of them are late."""
    plan = made(world)
    run(world, plan)
    for number in range(4):
        job = appliance.cycle(after(10))
        outcomes = [with_point(after(11)), {"result": "failed"}, with_point(after(-900)), {}]
        appliance.finish(job, after(20 + number), **outcomes[number]) if number != 3 else world.cancel(job.job)
    for number, row in enumerate(rows(world)):
        world.change(groups, row.id, breached=number % 2 == 0)
    if change == "edit":
        edited(world, plan, rpo_s=900)
    else:
        paused(world, plan, paused=True)
        paused(world, plan, paused=False)
    at = after(1) if change == "edit" else after(3)
    together = [(row.next_start, row.breach_at, row.breached) for row in rows(world)]
    for row in rows(world):
        reschedule(world, row.id, at)
    assert len({(row.p90_s, row.next_start) for row in rows(world)}) > 3
    apart = [(row.next_start, row.breach_at, row.breached) for row in rows(world)]
    assert together == apart


def test_groups_that_an_edit_brings_within_the_rpo_are_told_of(world: World) -> None:
    plan = made(world)
    for row in rows(world)[:2]:
        world.change(groups, row.id, breached=True, last_point_time=after(-400))
    edited(world, plan, rpo_s=900)
    assert told(world) == [(EventKind.RPO_KEPT, 401)] * 2
    assert not any(row.breached for row in rows(world))
