"""A tick does what is due, once, however many replicas tick; and the thread that ticks lives through trouble."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from sqlalchemy import select

from dmcore.api.operators import EventKind
from dmcore.control.errors import StoreBusy
from dmcore.control.queue.queue import QueueKey
from dmcore.control.schedule import scheduler as scheduler_module
from dmcore.control.schedule.due import BATCH
from dmcore.control.schedule.scheduler import Scheduler, TickResult
from dmcore.control.store.database import Database
from dmcore.control.store.tables import groups, jobs, plans
from dmcore.model.jobs import JobKind, JobState
from tests.control.queue_kit import CONNECTOR, NOW, SITE, SOURCE, World, after, new_world
from tests.control.schedule_kit import fact as new_fact
from tests.control.schedule_kit import noted, reschedule, run_cycle, state, ticked, told

FAR_S = 30.0
"""Longer than anything here takes: a test's failure, never its delay."""


@pytest.fixture
def world(database: Database) -> World:
    return new_world(database)


def test_a_new_group_is_due_at_once(world: World) -> None:
    world.plan(groups_count=3)
    result = ticked(world, NOW)
    assert result.enqueued == 3
    assert result.waiting == {QueueKey.cycles(SITE, SOURCE)}
    assert world.states() == ["queued"] * 3


def test_the_job_of_a_due_group_is_as_an_operators_run_makes_it(world: World) -> None:
    by_tick, by_operator = world.plan(groups_count=2)
    world.enqueue(by_operator)
    ticked(world, NOW)
    rows = {group: next(row for row in all_jobs(world) if row.group == group) for group in (by_tick, by_operator)}
    same = [name for name in rows[by_tick]._fields if name not in {"id", "group", "cycle"}]
    assert [getattr(rows[by_tick], name) for name in same] == [getattr(rows[by_operator], name) for name in same]


def all_jobs(world: World) -> Any:
    with world.database.read() as connection:
        return connection.execute(select(jobs).order_by(jobs.c.due_at, jobs.c.id)).all()


def test_nothing_is_done_twice(world: World) -> None:
    world.plan(groups_count=2)
    ticked(world, NOW)
    again = ticked(world, NOW)
    assert (again.enqueued, again.breached, again.expiring, again.reaped) == (0, 0, 0, 0)
    assert world.count(jobs) == 2


def test_a_group_that_is_days_late_gets_one_job(world: World) -> None:
    (group,) = world.plan()
    appliance = world.appliance()
    run_cycle(appliance, group, begin_s=0, took_s=10)
    for late_s in (86_400, 86_401, 86_500):
        ticked(world, after(late_s))
    late = all_jobs(world)[1:]
    assert len(late) == 1
    assert late[0].due_at == after(1 + 300 - 10)  # when it should have been: its lateness shows


def test_a_group_that_is_not_due_yet_waits(world: World) -> None:
    (group,) = world.plan(rpo_s=300)
    run_cycle(world.appliance(), group, begin_s=0, took_s=10)
    assert ticked(world, after(290)).enqueued == 0
    assert ticked(world, after(291)).enqueued == 1


@pytest.mark.parametrize("values", [{"paused": True}, {"deleted_at": NOW}])
def test_what_a_plan_forbids_does_not_start(world: World, values: dict[str, Any]) -> None:
    """Also if nobody took the group off the schedule."""
    (group,) = world.plan()
    world.change(plans, world.group(group).plan, **values)
    assert ticked(world, NOW).enqueued == 0
    assert world.group(group).next_start is None


def test_a_group_with_a_job_in_flight_gets_no_other(world: World) -> None:
    (group,) = world.plan()
    world.enqueue(group)
    world.change(groups, group, next_start=NOW)
    assert ticked(world, NOW).enqueued == 0
    assert world.count(jobs) == 1


def test_more_than_a_batch_is_left_to_the_next_tick(world: World) -> None:
    world.plan(groups_count=BATCH + 1)
    assert ticked(world, NOW).enqueued == BATCH
    assert ticked(world, NOW).enqueued == 1


def test_a_tick_takes_back_leases(world: World) -> None:
    (group,) = world.plan()
    world.enqueue(group)
    world.appliance().cycle()
    assert ticked(world, after(59)).reaped == 0
    assert ticked(world, after(61)).reaped == 1
    assert told(world)[0][0] == EventKind.LEASE_LOST


def test_a_breach_is_told_of_once(world: World) -> None:
    (group,) = world.plan(rpo_s=300)
    reschedule(world, group)
    results = [ticked(world, after(seconds)).breached for seconds in (299, 300, 301, 4000)]
    assert results == [0, 1, 0, 0]
    assert told(world) == [(EventKind.RPO_BREACHED, 300)]
    assert world.group(group).breached


def test_a_breach_is_counted_from_the_last_point_and_heals_by_the_next(world: World) -> None:
    (group,) = world.plan(rpo_s=300)
    appliance = world.appliance()
    run_cycle(appliance, group, begin_s=0, took_s=10)
    ticked(world, after(302))
    ticked(world, after(320))
    job = appliance.cycle(after(320))
    point = new_fact(world, group, at=after(330))
    state(world, [point], after(340))
    assert told(world) == [(EventKind.RPO_BREACHED, 301), (EventKind.RPO_KEPT, 10)]
    assert job.group == group


def test_a_deleted_group_breaches_nothing(world: World) -> None:
    (group,) = world.plan(rpo_s=300)
    reschedule(world, group)
    world.change(groups, group, deleted_at=NOW)
    assert ticked(world, after(1000)).breached == 0
    assert world.group(group).breach_at is None
    assert EventKind.RPO_BREACHED not in world.events()


def test_connectors_with_work_are_waited_for_too(world: World) -> None:
    world.work(JobKind.INDEX)
    assert ticked(world, NOW).waiting == {QueueKey.work(CONNECTOR)}


def test_two_replicas_never_double(world: World) -> None:
    """Each due row is one job and one event, whichever of them got it."""
    made = world.plan(groups_count=40, rpo_s=60)
    for group in made[:20]:
        world.change(groups, group, breach_at=NOW, next_start=None)
    both = threading.Barrier(2)
    results: list[TickResult] = []

    def replica() -> None:
        both.wait(FAR_S)
        results.extend(ticked(world, NOW) for _ in range(5))

    replicas = [threading.Thread(target=replica) for _ in range(2)]
    for each in replicas:
        each.start()
    for each in replicas:
        each.join()
    assert len(results) == 10
    assert sum(result.enqueued for result in results) == 20
    assert sum(result.breached for result in results) == 20
    assert world.count(jobs) == 20
    assert world.events() == [EventKind.RPO_BREACHED] * 20


def test_a_tick_scans_no_table(sqlite_database: Database) -> None:
    """Its cost must not follow how many plans, jobs and points there are."""
    world = new_world(sqlite_database)
    (group,) = world.plan()
    state(world, [new_fact(world, group)])
    with noted(sqlite_database) as asked:
        ticked(world, after(7200))
    queries = [(statement, values) for statement, values in asked if statement.startswith("SELECT")]
    assert len(queries) >= 10
    with sqlite_database.read() as connection:
        for statement, values in queries:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all()
            scans = [step.detail for step in plan if step.detail.startswith("SCAN") and "INDEX" not in step.detail]
            assert scans == [], statement


class Turns:
    """Waits for nothing: a scheduler that ticks so many times, and does something in between."""

    def __init__(self, *between: Callable[[], None]) -> None:
        self.waits_s: list[float] = []
        self._between = list(between)
        self.over = threading.Event()

    def __call__(self, seconds: float) -> bool:
        self.waits_s.append(seconds)
        if not self._between:
            self.over.set()
            return True
        self._between.pop(0)()
        return False


def run(world: World, turns: Turns, on_tick: Callable[[TickResult], None] = lambda _: None) -> None:
    with Scheduler(world.database, 0.5, on_tick, turns):
        assert turns.over.wait(FAR_S)


def note(_made: object) -> None:
    """What was made is seen by what becomes of it."""


def test_the_scheduler_ticks_and_tells(world: World) -> None:
    results: list[TickResult] = []
    turns = Turns(lambda: note(world.plan()))
    run(world, turns, results.append)
    assert [result.enqueued for result in results] == [0, 1]
    assert results[1].waiting == {QueueKey.cycles(SITE, SOURCE)}
    assert turns.waits_s == [0.5, 0.5]


def test_what_is_told_was_committed(world: World) -> None:
    world.plan()
    seen: list[int] = []
    run(world, Turns(), lambda _: seen.append(world.count(jobs)))
    assert seen == [1]


def test_only_the_databases_clock_counts(world: World) -> None:
    """A replica whose own clock is anywhere schedules as the others do."""
    (group,) = world.plan()
    slow = Database(world.database.engine.url.render_as_string(hide_password=False), clock=lambda _: after(-3600))
    run(World(slow), Turns())
    slow.close()
    assert world.group(group).next_start == NOW
    fast = Database(world.database.engine.url.render_as_string(hide_password=False), clock=lambda _: after(1))
    run(World(fast), Turns())
    fast.close()
    assert world.job(all_jobs(world)[0].id).state == JobState.QUEUED


def test_a_database_that_is_away_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said once, and once that it is over."""
    real, failing = scheduler_module.tick, [StoreBusy(), StoreBusy()]

    def tick(*arguments: Any) -> TickResult:
        if failing:
            raise failing.pop()
        return real(*arguments)

    monkeypatch.setattr(scheduler_module, "tick", tick)
    results: list[TickResult] = []
    with structlog.testing.capture_logs() as logs:
        run(world, Turns(lambda: None, lambda: None), results.append)
    assert len(results) == 1
    assert [(entry["event"], entry["code"]) for entry in logs] == [
        ("the scheduler waits for the database", "store.busy"),
        ("the scheduler goes on", None),
    ]


def test_a_locked_database_is_waited_for(sqlite_database: Database) -> None:
    """Really locked: by another process's transaction."""
    world = new_world(sqlite_database)
    world.plan()
    impatient = Database(str(sqlite_database.engine.url), busy_s=0)
    results: list[TickResult] = []
    with sqlite_database.write() as other:
        turns = Turns(other.rollback)
        with structlog.testing.capture_logs() as logs:
            run(World(impatient), turns, results.append)
    impatient.close()
    assert [result.enqueued for result in results] == [1]
    assert logs[0]["code"] == "store.busy"


def test_a_bug_in_one_tick_does_not_end_all_scheduling(world: World) -> None:
    world.plan()
    results: list[TickResult] = []

    def broken(result: TickResult) -> None:
        results.append(result)
        if len(results) == 1:
            raise ZeroDivisionError

    with structlog.testing.capture_logs() as logs:
        run(world, Turns(lambda: None), broken)
    assert len(results) == 2
    assert [entry["event"] for entry in logs] == ["the scheduler's tick failed"]


def test_it_ends_when_it_is_told_to(world: World) -> None:
    ticks = threading.Event()
    scheduler = Scheduler(world.database, FAR_S, lambda _: ticks.set())
    scheduler.start()
    assert ticks.wait(FAR_S)
    scheduler.stop()
    scheduler.stop()
    assert "scheduler" not in {thread.name for thread in threading.enumerate()}


def test_one_that_never_began_ends(world: World) -> None:
    Scheduler(world.database, 1, lambda _: None).stop()
