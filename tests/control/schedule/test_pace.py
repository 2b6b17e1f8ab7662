"""When a cycle starts: the formula by itself, and what is made of it from the jobs that ended."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete

from dmcore.api.operators import EventKind
from dmcore.control.schedule import pace
from dmcore.control.schedule.due import find_breaches
from dmcore.control.store.database import Database
from dmcore.control.store.tables import groups, plans
from dmcore.model.jobs import JobState
from tests.control.queue_kit import NOW, Worker, World, after, failed, new_world
from tests.control.schedule_kit import reschedule, run_cycle


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], None),
        ([7.0], 7.0),
        ([1.0, 9.0], 9.0),
        ([float(n) for n in range(1, 11)], 9.0),
        ([*([1.0] * 18), 50.0, 60.0], 1.0),
        ([*([1.0] * 17), 40.0, 50.0, 60.0], 40.0),
    ],
)
def test_p90_is_a_value_that_nine_in_ten_do_not_exceed(values: list[float], expected: float | None) -> None:
    assert pace.p90(values) == expected


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40))
def test_p90_holds_for_nine_in_ten(values: list[float]) -> None:
    limit = pace.p90(values)
    assert limit in values
    assert limit is not None
    assert sum(value <= limit for value in values) >= 0.9 * len(values)


def test_the_next_start_leaves_time_for_the_cycle() -> None:
    assert pace.next_start(after(50), 300, NOW, 40.0, after(45)) == after(260)


@pytest.mark.parametrize(
    ("last", "duration_s", "earliest", "expected"),
    [
        (None, None, None, after(100)),  # a new group: now
        (None, 30.0, after(110), after(110)),  # no point yet, after a failure: once it has rested
        (NOW, None, None, after(300)),  # nothing known of durations
        (NOW, 400.0, after(90), after(90)),  # longer than the RPO: as soon as the last job has ended
        (NOW, 400.0, after(1000), after(1000)),
        (NOW, 0.0, after(90), after(300)),
    ],
)
def test_edges_of_the_next_start(
    last: datetime | None, duration_s: float | None, earliest: datetime | None, expected: datetime
) -> None:
    assert pace.next_start(after(100), 300, last, duration_s, earliest) == expected


@given(
    st.integers(5, 10**6),
    st.none() | st.integers(-(10**6), 10**6),
    st.none() | st.floats(0, 1e6),
    st.integers(0, 10**6),
)
def test_never_before_the_last_jobs_end(rpo_s: int, point: int | None, duration_s: float | None, ended: int) -> None:
    last = None if point is None else after(point)
    assert pace.next_start(after(ended), rpo_s, last, duration_s, after(ended)) >= after(ended)


@pytest.mark.parametrize(
    ("state", "failures", "expected"),
    [
        (JobState.COMPLETED, 0, 0.0),
        (JobState.COMPLETED, 9, 0.0),
        (JobState.FAILED, 0, 5.0),
        (JobState.FAILED, 1, 5.0),
        (JobState.FAILED, 3, 20.0),
        (JobState.FAILED, 10_000, 300.0),
        (JobState.CANCELLED, 0, 300.0),
    ],
)
def test_a_group_rests_longer_the_more_it_fails(state: JobState, failures: int, expected: float) -> None:
    assert pace.rest_s(state, failures, 300) == expected


def test_no_rest_is_longer_than_a_quarter_of_an_hour() -> None:
    assert pace.rest_s(JobState.FAILED, 60, 86_400) == 900
    assert pace.rest_s(JobState.CANCELLED, 0, 86_400) == 900


def test_what_can_be_kept_up_with_needs_a_few_cycles() -> None:
    assert pace.Pace.of([], []) == pace.Pace(None, None)
    assert pace.Pace.of([10.0, 20.0], [1.0, 2.0]) == pace.Pace(20.0, None)
    assert pace.Pace.of([10.0, 20.0, 15.0], [1.0, 2.0]) == pace.Pace(20.0, None)
    assert pace.Pace.of([10.0, 20.0, 15.0], [1.0, 2.0, 3.0]) == pace.Pace(20.0, 23.0)
    assert pace.achievable_rpo_s([1.0], []) is None


@pytest.mark.parametrize(
    ("source_time", "due_at", "expected"),
    [
        (after(30), NOW, after(30)),
        (after(-600), NOW, NOW),  # its clock is behind: a snapshot is not older than its job
        (after(600), NOW, after(60)),  # ahead: nor is it of the future
        (after(-600), None, after(-600)),
    ],
)
def test_a_points_time_is_believed_as_far_as_it_can_be(
    source_time: datetime, due_at: datetime | None, expected: datetime
) -> None:
    assert pace.believed(source_time, due_at, after(60)) == expected


@pytest.fixture
def world(database: Database) -> World:
    return new_world(database)


@pytest.fixture
def appliance(world: World) -> Worker:
    return world.appliance()


def test_a_group_is_rescheduled_from_its_recent_cycles(world: World, appliance: Worker) -> None:
    (group,) = world.plan(rpo_s=300)
    for number in range(3):
        run_cycle(appliance, group, begin_s=300 * number, took_s=20)
    row = world.group(group)
    assert (row.p90_s, row.achievable_rpo_s) == (20.0, 39.0)
    assert row.next_start == after(601 + 300 - 20)
    assert row.breach_at == after(601 + 300)


def test_only_the_last_twenty_count(world: World, appliance: Worker) -> None:
    (group,) = world.plan(rpo_s=3600)
    for number in range(3):
        run_cycle(appliance, group, begin_s=2000 * number, took_s=1000)
    assert world.group(group).p90_s == 1000
    for number in range(3, 23):
        run_cycle(appliance, group, begin_s=2000 * number, took_s=10)
    assert world.group(group).p90_s == 10


def test_cycles_that_are_longer_than_the_rpo_follow_each_other(world: World, appliance: Worker) -> None:
    (group,) = world.plan(rpo_s=60)
    run_cycle(appliance, group, begin_s=0, took_s=500)
    assert world.group(group).next_start == after(500)
    assert world.group(group).breach_at == after(61)


def test_a_group_that_fails_is_tried_again_after_a_rest(world: World, appliance: Worker) -> None:
    (group,) = world.plan(rpo_s=300)
    for number, rest_s in enumerate([5, 10, 20]):
        world.enqueued(group, after(100 * number))
        job = appliance.cycle(after(100 * number))
        appliance.finish(job, after(100 * number + 1), **failed(permanent=True))
        assert world.group(group).next_start == after(100 * number + 1 + rest_s)


def test_there_is_no_next_start_while_a_job_is_in_flight(world: World) -> None:
    (group,) = world.plan()
    world.enqueue(group)
    reschedule(world, group)
    assert world.group(group).next_start is None


def test_a_paused_plan_is_not_scheduled_and_a_resumed_one_is(world: World) -> None:
    (group,) = world.plan()
    plan = world.group(group).plan
    world.change(plans, plan, paused=True)
    reschedule(world, group)
    assert world.group(group).next_start is None
    assert world.group(group).breach_at == after(300)  # its points grow old all the same
    world.change(plans, plan, paused=False)
    reschedule(world, group)
    assert world.group(group).next_start == NOW


@pytest.mark.parametrize("table", [groups, plans])
def test_what_is_deleted_is_neither_scheduled_nor_missed(world: World, table: Any) -> None:
    (group,) = world.plan()
    world.change(groups, group, breached=True)
    key = group if table is groups else world.group(group).plan
    world.change(table, key, deleted_at=NOW)
    reschedule(world, group)
    row = world.group(group)
    assert (row.next_start, row.breach_at, row.breached) == (None, None, False)


def test_a_group_that_is_not_there_is_no_error(world: World) -> None:
    (group,) = world.plan()
    with world.database.write() as connection:
        connection.execute(delete(groups))
        pace.reschedule(connection, NOW, group)


def test_a_breach_that_is_over_is_told_of_once(world: World, appliance: Worker) -> None:
    (group,) = world.plan(rpo_s=300)
    reschedule(world, group)
    breach(world, after(301))
    run_cycle(appliance, group, begin_s=400, took_s=10)
    reschedule(world, group, after(420))
    assert world.events() == [EventKind.RPO_BREACHED, EventKind.RPO_KEPT]
    assert not world.group(group).breached
    assert world.group(group).breach_at == after(701)


def test_a_point_that_is_too_old_itself_ends_no_breach(world: World, appliance: Worker) -> None:
    (group,) = world.plan(rpo_s=60)
    reschedule(world, group)
    breach(world, after(61))
    run_cycle(appliance, group, begin_s=100, took_s=500)
    assert world.events() == [EventKind.RPO_BREACHED]
    assert (world.group(group).breached, world.group(group).breach_at) == (True, None)


def breach(world: World, now: datetime) -> None:
    with world.database.write() as connection:
        assert find_breaches(connection, now) == 1


def test_a_breach_is_not_over_because_the_plan_allows_more(world: World) -> None:
    (group,) = world.plan(rpo_s=60)
    reschedule(world, group)
    breach(world, after(61))
    world.change(plans, world.group(group).plan, rpo_s=600)
    reschedule(world, group, after(62))
    assert world.group(group).breached  # it has no point at all


def test_a_clock_that_is_ten_minutes_off_changes_no_schedule(world: World, appliance: Worker) -> None:
    """A job's times are the database's, so its duration is; the snapshot's are held to them."""
    starts = []
    for off_s in (-600, 0, 600):
        (group,) = world.plan(rpo_s=300)
        run_cycle(appliance, group, begin_s=0, took_s=20, snapshot_s=1 + off_s)
        starts.append(world.group(group).next_start)
    assert max(starts) - min(starts) <= timedelta(seconds=20)
