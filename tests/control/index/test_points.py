"""The index: what connectors state is kept once, as they said it last, and only of their own points."""

import threading
from datetime import datetime
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from dmcore.api.operators import EventKind
from dmcore.api.points import PointView
from dmcore.control.errors import NotFound, StateConflict
from dmcore.control.index.points import list_points, require_point
from dmcore.control.index.shown import get_point
from dmcore.control.store.database import Database
from dmcore.control.store.tables import jobs, points
from dmcore.model.enums import Role
from dmcore.model.ids import GroupId, PlanId
from dmcore.model.jobs import JobKind
from dmcore.model.points import PointState
from tests.control.queue_kit import CONNECTOR, NOW, Worker, World, after, new_world, with_point
from tests.control.schedule_kit import changed, fact, point_row, run_cycle, state, states_of, ticked, told

OTHER = "d" * 64


@pytest.fixture
def world(database: Database) -> World:
    return new_world(database)


def test_a_stated_point_is_kept_as_it_was_said(world: World) -> None:
    (group,) = world.plan()
    said = fact(world, group, lacking=1, verified_at=after(-5), preserved=True)
    assert state(world, [said]) == ()
    with world.database.read() as connection:
        view = get_point(connection, said.id)
    assert view.model_dump(exclude={"connector", "jobs"}) == said.model_dump()
    assert view.connector == CONNECTOR


def test_stating_it_again_changes_nothing(world: World) -> None:
    said = fact()
    for seconds in (0, 1):
        state(world, [said, said], after(seconds))
    assert world.count(points) == 1
    assert point_row(world, said.id).stated_at == after(1)


def test_a_newer_revision_wins_and_an_older_one_is_ignored(world: World) -> None:
    first = fact()
    second = changed(first, preserved=True, verified_at=after(9))
    third = changed(second, state=PointState.DEGRADED)
    for said in (first, third, second, first):
        state(world, [said])
    row = point_row(world, first.id)
    assert (row.revision, row.state, row.preserved, row.verified_at) == (3, PointState.DEGRADED, True, after(9))


def test_the_newest_of_one_report_wins(world: World) -> None:
    first = fact()
    state(world, [changed(first, preserved=True), first])
    assert point_row(world, first.id).preserved


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(order=st.permutations(range(4)), cuts=st.sets(st.integers(1, 3)))
def test_order_and_packing_do_not_matter(sqlite_world: World, order: list[int], cuts: set[int]) -> None:
    states = [PointState.CREATING, PointState.AVAILABLE, PointState.DEGRADED, PointState.EXPIRED]
    said = [fact(id=uuid4(), cycle=uuid4())] * 4
    said = [each.model_copy(update={"revision": number, "state": states[number]}) for number, each in enumerate(said)]
    edges = [0, *sorted(cuts), 4]
    for begin, end in pairwise(edges):
        state(sqlite_world, [said[number] for number in order[begin:end]])
    assert states_of(sqlite_world, said[:1]) == [PointState.EXPIRED]


@pytest.fixture
def sqlite_world(sqlite_database: Database) -> World:
    return new_world(sqlite_database)


def test_another_connectors_claim_is_refused_and_the_rest_kept(world: World) -> None:
    world.node(OTHER, Role.CONNECTOR)
    mine, theirs = fact(), fact()
    state(world, [mine])
    with structlog.testing.capture_logs() as logs:
        assert state(world, [changed(mine, state=PointState.EXPIRED), theirs], after(1), OTHER) == (mine.id,)
    assert (point_row(world, mine.id).connector, states_of(world, [mine])) == (CONNECTOR, [PointState.AVAILABLE])
    assert point_row(world, theirs.id).connector == OTHER
    assert point_row(world, mine.id).stated_at == NOW
    assert logs[0]["points"] == [str(mine.id)]


def test_a_connector_cannot_speak_for_another_ones_plan(world: World) -> None:
    """No group of this plan is younger for it."""
    world.node(OTHER, Role.CONNECTOR)
    (group,) = world.plan()
    lie = fact(world, group, at=after(100))
    state(world, [lie], after(101), OTHER)
    assert world.group(group).last_point is None
    other_plan = fact(world, group).model_copy(update={"plan": PlanId(uuid4())})
    state(world, [other_plan])
    assert world.group(group).last_point is None


@pytest.mark.parametrize("hidden", ["group", "plan"])
def test_a_lie_is_not_the_newest_when_the_plans_own_connector_speaks(world: World, hidden: str) -> None:
    """Also if only one of plan and group is the other's. It is not listed, and its plan's tiers do not choose it."""
    world.node(OTHER, Role.CONNECTOR)
    (group,) = world.plan()
    lie = fact(world, group, at=after(100)).model_copy(update={hidden: uuid4()})
    truth = fact(world, group, at=after(50))
    assert state(world, [lie, fact()], after(101), OTHER) == (lie.id,)
    state(world, [truth], after(102))
    assert world.group(group).last_point == truth.id
    with world.database.read() as connection:
        assert lie.id not in {point.id for point in list_points(connection).points}


def test_points_of_unknown_plans_are_taken(world: World) -> None:
    said = fact()
    state(world, [said])
    with world.database.read() as connection:
        assert list_points(connection).points[0].id == said.id


def test_two_reports_at_once_keep_the_later_revision(world: World) -> None:
    first = fact()
    both = threading.Barrier(2)

    def report(revision: int) -> None:
        both.wait(30)
        state(world, [first.model_copy(update={"revision": revision, "lacking": revision})])

    reports = [threading.Thread(target=report, args=(revision,)) for revision in (1, 2)]
    for each in reports:
        each.start()
    for each in reports:
        each.join()
    assert (point_row(world, first.id).revision, point_row(world, first.id).lacking) == (2, 2)


def test_nothing_to_state_is_nothing(world: World) -> None:
    assert state(world, []) == ()


def test_a_new_point_sets_its_groups_lag_and_schedule(world: World) -> None:
    (group,) = world.plan(rpo_s=300)
    said = fact(world, group, at=after(50))
    state(world, [said], after(60))
    row = world.group(group)
    assert (row.last_point, row.last_point_time, row.next_start) == (said.id, after(50), after(350))


def test_an_older_point_or_one_in_the_making_does_not(world: World) -> None:
    (group,) = world.plan()
    said = fact(world, group, at=after(50))
    state(world, [said], after(60))
    state(
        world,
        [fact(world, group, at=after(40)), fact(world, group, at=after(55), state=PointState.CREATING)],
        after(61),
    )
    assert world.group(group).last_point == said.id


@pytest.mark.parametrize(("off_s", "expected"), [(-600, NOW), (600, after(30))])
def test_a_source_whose_clock_is_off_is_believed_only_so_far(world: World, off_s: float, expected: datetime) -> None:
    """It neither looks ten minutes older than its own job, nor comes from the future."""
    (group,) = world.plan()
    world.enqueue(group)
    job = world.appliance().cycle()
    state(world, [fact(world, group, at=after(1 + off_s), cycle=job.cycle)], after(30))
    assert world.group(group).last_point_time == expected


def test_a_damaged_newest_point_is_told_of_and_counts_no_more(world: World) -> None:
    (group,) = world.plan(rpo_s=300)
    good, newest = fact(world, group, at=after(10)), fact(world, group, at=after(100))
    state(world, [good, newest], after(101))
    damaged = changed(newest, state=PointState.DEGRADED)
    for _ in range(2):
        state(world, [damaged, changed(damaged)], after(102))
    assert told(world) == [(EventKind.POINT_DAMAGED, 0)]
    assert (world.group(group).last_point, world.group(group).last_point_time) == (good.id, after(10))


def test_a_group_that_lost_its_only_point_has_none(world: World) -> None:
    (group,) = world.plan()
    said = fact(world, group)
    state(world, [said])
    state(world, [changed(said, state=PointState.EXPIRED)])
    assert (world.group(group).last_point, world.group(group).last_point_time) == (None, None)


def test_a_point_that_its_job_told_of_first_stays_the_newest(world: World) -> None:
    """Its fact is in the connector's outbox still, when an older point's comes."""
    (group,) = world.plan()
    run_cycle(world.appliance(), group, begin_s=0, took_s=10)
    told_of = world.group(group).last_point
    state(world, [fact(world, group, at=after(-50))], after(20))
    assert world.group(group).last_point == told_of


def test_rebuilding_expires_what_was_not_stated(world: World) -> None:
    world.node(OTHER, Role.CONNECTOR)
    (group,) = world.plan()
    there, gone, foreign = fact(world, group, at=after(-60)), fact(world, group), fact()
    state(world, [there, gone])
    state(world, [foreign], NOW, OTHER)
    connector = Worker(world.database, CONNECTOR)
    world.work(JobKind.INDEX, after(10))
    job = connector.work(after(10))
    state(world, [there], after(11))
    connector.finish(job, after(12))
    assert states_of(world, [there, gone, foreign]) == ["available", "expired", "available"]
    assert world.group(group).last_point == there.id


@pytest.mark.parametrize("clock_s", [-3600, 3600])
def test_a_rebuild_does_not_go_by_the_clock(world: World, clock_s: float) -> None:
    """The database's was set back, or forward, since the job was leased."""
    there, gone, late = fact(), fact(), fact()
    state(world, [there, gone], after(100 * 86_400))
    world.work(JobKind.INDEX)
    connector = Worker(world.database, CONNECTOR)
    job = connector.work()
    for said in (there, late):
        state(world, [said], after(clock_s))
    connector.finish(job, after(clock_s + 1))
    assert states_of(world, [there, gone, late]) == ["available", "expired", "available"]


def test_each_attempt_at_a_rebuild_counts_from_its_own_lease(world: World) -> None:
    said = fact()
    state(world, [said])
    world.work(JobKind.INDEX)
    connector = Worker(world.database, CONNECTOR)
    connector.work()
    state(world, [said], after(1))  # and then its process dies
    again = connector.restarted()
    again.finish(again.work(after(2)), after(3))
    assert states_of(world, [said]) == [PointState.EXPIRED]


def test_a_rebuild_that_an_older_version_leased_expires_nothing(world: World) -> None:
    said = fact()
    state(world, [said])
    job = world.work(JobKind.INDEX)
    connector = Worker(world.database, CONNECTOR)
    leased = connector.work()
    world.change(jobs, job, stated_before=None)
    connector.finish(leased, after(1))
    assert states_of(world, [said]) == [PointState.AVAILABLE]


def test_a_rebuild_that_failed_expires_nothing(world: World) -> None:
    said = fact()
    state(world, [said])
    world.work(JobKind.INDEX, after(10))
    connector = Worker(world.database, CONNECTOR)
    connector.finish(connector.work(after(10)), after(11), result="failed")
    assert states_of(world, [said]) == [PointState.AVAILABLE]


def test_what_was_expired_by_mistake_comes_back_by_being_stated(world: World) -> None:
    """The connector's catalogue is the truth, at any revision that is not older."""
    said = fact()
    state(world, [said])
    world.work(JobKind.INDEX, after(10))
    connector = Worker(world.database, CONNECTOR)
    connector.finish(connector.work(after(10)), after(11))
    assert states_of(world, [said]) == [PointState.EXPIRED]
    state(world, [said], after(20))
    assert states_of(world, [said]) == [PointState.AVAILABLE]


def test_an_index_that_was_lost_is_whole_again(world: World) -> None:
    """As after the restore of an old database."""
    (group,) = world.plan()
    said = [fact(world, group, at=after(number)) for number in range(5)]
    state(world, said, after(10))
    with world.database.write() as connection:
        connection.execute(delete(points))
    state(world, said, after(20))
    assert states_of(world, said) == [PointState.AVAILABLE] * 5


def test_a_job_and_its_fact_agree(world: World) -> None:
    (group,) = world.plan()
    world.enqueue(group)
    appliance = world.appliance()
    job = appliance.cycle()
    said = fact(world, group, at=after(5), cycle=job.cycle)
    outcome: dict[str, Any] = with_point(after(5)) | {"point": said.id}
    appliance.finish(job, after(9), **outcome)
    state(world, [said], after(12))
    assert (world.group(group).last_point, world.group(group).last_point_time) == (said.id, after(5))
    assert world.group(group).retain_at == after(60)


# Asking.


def test_points_of_one_time_are_all_listed_whatever_the_page(world: World) -> None:
    """A group's machines, or a clock that was set back."""
    (group,) = world.plan()
    said = [fact(world, group, at=after(number // 3)) for number in range(7)]
    state(world, said)
    listed: list[PointView] = []
    with world.database.read() as connection:
        for _ in range(4):
            page = list_points(connection, limit=2, before=listed[-1].id if listed else None)
            listed += page.points
    assert not page.more
    assert sorted(point.id for point in listed) == sorted(point.id for point in said)
    assert len({point.id for point in listed}) == 7
    times = [point.source_time for point in listed]
    assert times == sorted(times, reverse=True)


def test_a_page_goes_on_from_a_point_that_has_expired_meanwhile(world: World) -> None:
    (group,) = world.plan()
    said = [fact(world, group, at=after(number)) for number in range(3)]
    state(world, said)
    state(world, [changed(said[1], state=PointState.EXPIRED)])
    with world.database.read() as connection:
        assert [point.id for point in list_points(connection, before=said[1].id).points] == [said[0].id]


def test_a_page_after_nothing_is_refused(world: World) -> None:
    with world.database.read() as connection, pytest.raises(NotFound):
        list_points(connection, before=uuid4())


def test_points_are_listed_newest_first_and_by_page(world: World) -> None:
    mine, others = world.plan(groups_count=2)
    said = [fact(world, group, at=after(number)) for number, group in enumerate([mine, others, mine, others, mine])]
    gone = fact(world, mine, at=after(60), state=PointState.EXPIRED)
    state(world, [*said, gone])
    with world.database.read() as connection:
        first = list_points(connection, limit=2)
        rest = list_points(connection, limit=9, before=first.points[-1].id)
        of_group = list_points(connection, group=mine)
        of_plan = list_points(connection, plan=PlanId(world.group(mine).plan))
        of_nobody = list_points(connection, plan=uuid4(), group=GroupId(uuid4()))
        least = list_points(connection, limit=-3)
    assert [point.id for point in (*first.points, *rest.points)] == [point.id for point in reversed(said)]
    assert (first.more, rest.more) == (True, False)
    assert [point.id for point in of_group.points] == [said[4].id, said[2].id, said[0].id]
    assert len(of_plan.points) == 5
    assert of_nobody.points == ()
    assert len(least.points) == 1


def test_a_point_that_nobody_stated_is_not_found(world: World) -> None:
    with world.database.read() as connection:
        for ask in (get_point, require_point):
            with pytest.raises(NotFound, match="point"):
                ask(connection, uuid4())


@pytest.mark.parametrize("point_state", list(PointState))
def test_only_what_can_be_read_can_be_used(world: World, point_state: PointState) -> None:
    said = fact(state=point_state)
    state(world, [said])
    with world.database.read() as connection:
        if point_state in {PointState.AVAILABLE, PointState.DEGRADED}:
            assert require_point(connection, said.id).connector == CONNECTOR
        else:
            with pytest.raises(StateConflict, match=point_state):
                require_point(connection, said.id)
        assert require_point(connection, said.id, list(PointState)).id == said.id


def test_new_points_have_their_old_ones_looked_through(world: World) -> None:
    (group,) = world.plan()
    state(world, [fact(world, group)], after(61))
    assert world.group(group).retain_at == after(120)
    state(world, [fact(world, group, at=after(1))], after(119))
    assert world.group(group).retain_at == after(120)
    ticked(world, after(120))
    assert world.group(group).retain_at == after(120 + 3600)
