"""A plan's line and a group's numbers: lag, backlog, ETA and what can be kept up with are four."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event

from dmcore.api.plans import GroupView, PlanStatus, Status
from dmcore.control.reports import status as status_module
from dmcore.control.reports.status import group_views, status
from dmcore.control.store.database import Database
from dmcore.control.store.tables import groups, nodes, plans
from dmcore.model.enums import Role, Stage
from dmcore.model.jobs import JobKind, JobState
from tests.control.queue_kit import CONNECTOR, NOW, SITE, World, after, failed, new_world
from tests.control.schedule_kit import fact, reschedule, run_cycle, state, ticked


@pytest.fixture
def world(database: Database) -> World:
    return new_world(database)


def seen(world: World, now: Any = NOW) -> Status:
    with world.database.read() as connection:
        return status(connection, now)


def line(world: World, now: Any = NOW) -> PlanStatus:
    (only,) = seen(world, now).plans
    return only


def view(world: World, group: UUID, now: Any = NOW) -> GroupView:
    plan = world.group(group).plan
    with world.database.read() as connection:
        found = group_views(connection, now, [plan])[plan]
    return next(each for each in found if each.id == group)


def test_a_new_plan_has_neither_lag_nor_anything_wrong(world: World) -> None:
    (group,) = world.plan(rpo_s=300)
    found = line(world)
    assert (found.groups, found.running, found.breached, found.problems) == (1, 0, 0, ())
    assert (found.lag_s, found.last_point_time, found.achievable_rpo_s) == (None, None, None)
    alone = view(world, group)
    assert (alone.lag_s, alone.backlog_bytes, alone.eta_s, alone.job, alone.next_start) == (None, None, None, None, NOW)


def test_four_numbers_that_are_not_one(world: World) -> None:
    (group,) = world.plan(rpo_s=300)
    appliance = world.appliance()
    for number in range(3):
        run_cycle(appliance, group, begin_s=300 * number, took_s=20)
    ticked(world, after(900))
    job = appliance.cycle(after(900))
    appliance.heartbeat(job, after(900), stage=Stage.SNAPSHOT, counter=1)
    appliance.heartbeat(job, after(910), stage=Stage.TRANSFER, counter=2, done_bytes=1000, total_bytes=5000)
    found = view(world, group, after(910))
    assert found.lag_s == 910 - 601
    assert found.backlog_bytes == 4000
    assert found.eta_s == 40.0
    assert found.achievable_rpo_s == 20 + 19
    assert (found.job, found.job_state, found.next_start) == (job.job, JobState.RUNNING, None)


def test_lag_grows_while_backlog_does_not(world: World) -> None:
    (group,) = world.plan()
    appliance = world.appliance()
    run_cycle(appliance, group, begin_s=0, took_s=10)
    world.enqueue(group, after(20))
    job = appliance.cycle(after(20))
    appliance.heartbeat(job, after(21), stage=Stage.TRANSFER, total_bytes=100, done_bytes=40, counter=40)
    early, late = view(world, group, after(30)), view(world, group, after(60))
    assert (early.lag_s, late.lag_s) == (29, 59)
    assert early.backlog_bytes == late.backlog_bytes == 60


def test_a_job_that_waits_has_no_backlog_yet(world: World) -> None:
    (group,) = world.plan()
    job = world.enqueue(group)
    found = view(world, group)
    assert (found.job, found.job_state, found.backlog_bytes, found.eta_s) == (job, JobState.QUEUED, None, None)


def test_a_plan_lags_as_its_last_group_does(world: World) -> None:
    first, second, _new = world.plan(groups_count=3)
    state(world, [fact(world, first, at=after(-100)), fact(world, second, at=after(-500))])
    found = line(world)
    assert (found.lag_s, found.last_point_time) == (500, after(-500))


def test_what_is_wrong_is_named_once(world: World) -> None:
    made = world.plan(groups_count=3, rpo_s=60)
    appliance = world.appliance()
    for number, group in enumerate(made):
        world.enqueue(group)
        appliance.finish(appliance.cycle(), **failed("b.code" if number else "a.code", permanent=True))
        reschedule(world, group)
    ticked(world, after(60))
    found = line(world, after(60))
    assert (found.problems, found.breached) == (("a.code", "b.code"), 3)
    assert view(world, made[0]).problem == "a.code"
    assert view(world, made[0]).breached


def test_running_and_queued_jobs_are_counted(world: World) -> None:
    world.plan(groups_count=3)
    ticked(world, NOW)
    world.appliance().cycle()
    world.work(JobKind.INDEX)
    found = seen(world)
    assert (found.queued, found.running, found.plans[0].running) == (3, 1, 1)


def test_plans_are_told_of_by_name_and_deleted_ones_not(world: World) -> None:
    for name in ("b", "c", "a"):
        world.plan(name=name)
    (gone,) = world.plan(name="gone")
    world.change(plans, world.group(gone).plan, deleted_at=NOW)
    assert [plan.name for plan in seen(world).plans] == ["a", "b", "c"]


def test_deleted_groups_count_for_nothing(world: World) -> None:
    here, gone = world.plan(groups_count=2)
    state(world, [fact(world, here, at=after(-5)), fact(world, gone, at=after(-900))])
    world.change(groups, gone, deleted_at=NOW, problem="x", breached=True)
    found = line(world)
    assert (found.groups, found.lag_s, found.breached, found.problems) == (1, 5, 0, ())


def test_nodes_that_live_and_nodes_that_do_not(world: World) -> None:
    world.appliance("a")
    world.appliance("b")
    world.node("e" * 64, Role.CONNECTOR)
    world.change(nodes, "b" * 64, seen_at=after(-3600))
    world.change(nodes, "e" * 64, revoked_at=NOW)
    found = {node.node[0]: (node.live, node.site, node.role) for node in seen(world).nodes}
    assert found == {
        "a": (True, SITE, "appliance"), "b": (False, SITE, "appliance"), CONNECTOR[0]: (True, SITE, "connector")
    }  # fmt: skip


def test_a_plan_without_groups_and_one_that_is_not_there_are_empty(world: World) -> None:
    world.plan(groups_count=0)
    nobody = uuid4()
    with world.database.read() as connection:
        assert group_views(connection, NOW, [nobody]) == {nobody: ()}
        assert group_views(connection, NOW, []) == {}
    assert line(world).groups == 0


def test_the_number_of_queries_does_not_follow_the_number_of_plans(world: World) -> None:
    counts = []
    for _ in range(2):
        for _ in range(20):
            world.plan(groups_count=2)
        counts.append(queries_of(world))
    assert counts[0] == counts[1] <= 12


def queries_of(world: World) -> int:
    asked: list[str] = []

    def hear(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    event.listen(world.database.engine, "before_cursor_execute", hear)
    found = seen(world)
    with world.database.read() as connection:
        group_views(connection, NOW, [plan.id for plan in found.plans])
    event.remove(world.database.engine, "before_cursor_execute", hear)
    return len(asked)


def test_more_plans_than_one_query_takes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_module, "PLANS_AT_ONCE", 2)
    made = [world.group(world.plan()[0]).plan for _ in range(5)]
    with world.database.read() as connection:
        found = group_views(connection, NOW, made)
    assert list(found) == made
    assert [len(views) for views in found.values()] == [1] * 5
