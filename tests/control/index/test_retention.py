"""What the tiers keep and let go, by themselves and as jobs for connectors."""

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmcore.api.jobs import ConnectorJob, JobResult, PointOutcome, PointVerdict
from dmcore.api.plans import DEFAULT_TIERS, Tier
from dmcore.api.points import PointFact
from dmcore.control.index import retention
from dmcore.control.index.retention import Held, next_round, to_expire
from dmcore.control.store.database import Database
from dmcore.control.store.tables import groups, nodes, plans
from dmcore.model.enums import Role
from dmcore.model.ids import PointId
from dmcore.model.jobs import JobKind
from dmcore.model.points import PointState
from tests.control.queue_kit import CONNECTOR, NOW, Worker, World, after, failed, new_world
from tests.control.schedule_kit import changed, fact, point_row, state, states_of, ticked

MIDNIGHT = datetime(2026, 3, 8, tzinfo=UTC)
HOUR, DAY, WEEK = 3600, 86_400, 604_800


def held(age_s: float, now: datetime = MIDNIGHT, **more: Any) -> Held:
    return Held(uuid4(), now - timedelta(seconds=age_s), **more)


def ages_s(points: Sequence[Held], now: datetime = MIDNIGHT) -> list[int]:
    return [int((now - point.source_time).total_seconds()) for point in points]


def test_the_default_tiers_over_a_simulated_week() -> None:
    """A point every five minutes for eight days; what goes, goes at once."""
    kept: list[Held] = []
    now = MIDNIGHT - timedelta(days=8)
    while now <= MIDNIGHT:
        kept.append(Held(uuid4(), now))
        gone = set(to_expire(kept, DEFAULT_TIERS, now))
        kept = [point for point in kept if point not in gone]
        now += timedelta(minutes=5)
    # The newest; of the last hour those on ten minutes, of the day those on the hour, of the week those of midnight.
    expected = {0} | set(range(0, HOUR, 600)) | set(range(0, DAY, HOUR)) | set(range(0, WEEK, DAY))
    assert ages_s(kept) == sorted(expected, reverse=True)


def test_points_that_come_seldom_are_all_kept_until_the_last_tier_ends() -> None:
    points = [held(days * DAY + 60) for days in range(9, -1, -1)]
    assert ages_s(to_expire(points, DEFAULT_TIERS, MIDNIGHT)) == [days * DAY + 60 for days in (9, 8, 7)]


def test_a_tier_ends_at_its_age_exactly() -> None:
    tier = [Tier(every_s=60, for_s=600)]
    inside, outside, newest = held(599), held(600), held(0)
    assert to_expire([inside, outside, newest], tier, MIDNIGHT) == [outside]


def test_the_newest_good_point_stays_whatever_its_age() -> None:
    old, older, damaged = held(WEEK * 9), held(WEEK * 10), held(WEEK * 8, state=PointState.DEGRADED)
    assert to_expire([damaged, old, older], DEFAULT_TIERS, MIDNIGHT) == [older, damaged]


def test_preserved_points_stay() -> None:
    old, newest = held(WEEK * 9, preserved=True), held(0)
    assert to_expire([old, newest], DEFAULT_TIERS, MIDNIGHT) == []


@pytest.mark.parametrize("state", [PointState.CREATING, PointState.EXPIRED])
def test_what_is_being_made_or_gone_already_is_not_asked_of(state: PointState) -> None:
    assert to_expire([held(WEEK * 9, state=state), held(0)], DEFAULT_TIERS, MIDNIGHT) == []


def test_failed_points_hold_nothing() -> None:
    wreck, newest = held(60, state=PointState.FAILED), held(120)
    assert to_expire([wreck, newest], DEFAULT_TIERS, MIDNIGHT) == [wreck]


def test_a_good_point_takes_a_damaged_ones_place() -> None:
    damaged, good, newest = held(300, state=PointState.DEGRADED), held(240), held(0)
    assert to_expire([damaged, good, newest], [Tier(every_s=600, for_s=600)], MIDNIGHT) == [damaged]


def test_a_damaged_point_stays_where_there_is_no_other() -> None:
    damaged, newest = held(300, state=PointState.DEGRADED), held(0)
    assert to_expire([damaged, newest], [Tier(every_s=600, for_s=600)], MIDNIGHT) == []


def test_what_was_kept_lately_is_asked_of_later() -> None:
    kept = held(WEEK * 9, ask_after=MIDNIGHT + timedelta(seconds=1))
    assert to_expire([kept, held(0)], DEFAULT_TIERS, MIDNIGHT) == []
    assert to_expire([kept, held(0)], DEFAULT_TIERS, MIDNIGHT + timedelta(seconds=1)) == [kept]


TIERS = st.lists(
    st.tuples(st.integers(1, 100), st.integers(100, 10_000)).map(lambda pair: Tier(every_s=pair[0], for_s=pair[1])),
    min_size=1, max_size=4,
)  # fmt: skip
HELDS = st.lists(
    st.builds(
        held, st.integers(-100, 12_000), state=st.sampled_from(PointState), preserved=st.booleans(),
        ask_after=st.none() | st.just(MIDNIGHT + timedelta(seconds=1)),
    ),
    max_size=60,
)  # fmt: skip


@given(HELDS, TIERS)
def test_what_must_stay_stays(points: list[Held], tiers: list[Tier]) -> None:
    going = to_expire(points, tiers, MIDNIGHT)
    good = [point for point in points if point.state == PointState.AVAILABLE]
    assert len(set(going)) == len(going)
    assert not any(point.preserved or point.ask_after for point in going)
    assert {point.state for point in going} <= {PointState.AVAILABLE, PointState.DEGRADED, PointState.FAILED}
    if good:
        newest = max(point.source_time for point in good)
        assert any(point.source_time == newest for point in good if point not in going)


@given(HELDS, TIERS)
def test_every_period_of_a_tier_that_had_a_good_point_still_has_one(points: list[Held], tiers: list[Tier]) -> None:
    going = set(to_expire(points, tiers, MIDNIGHT))

    def periods(of: list[Held], tier: Tier) -> set[int]:
        young = [point for point in of if MIDNIGHT - point.source_time < timedelta(seconds=tier.for_s)]
        return {int(point.source_time.timestamp()) // tier.every_s for point in young}

    good = [point for point in points if point.state == PointState.AVAILABLE]
    for tier in tiers:
        assert periods(good, tier) == periods([point for point in good if point not in going], tier)


@given(HELDS, TIERS)
def test_once_they_are_gone_no_more_go(points: list[Held], tiers: list[Tier]) -> None:
    going = set(to_expire(points, tiers, MIDNIGHT))
    assert to_expire([point for point in points if point not in going], tiers, MIDNIGHT) == []


@given(HELDS, TIERS)
def test_the_order_they_are_told_in_does_not_matter(points: list[Held], tiers: list[Tier]) -> None:
    assert to_expire(points, tiers, MIDNIGHT) == to_expire(points[::-1], tiers, MIDNIGHT)


def test_new_points_are_looked_at_on_the_round_minute() -> None:
    assert next_round(after(1)) == after(60)
    assert next_round(after(59.5)) == after(60)
    assert next_round(after(60)) == after(120)


# As jobs.


@pytest.fixture
def world(database: Database) -> World:
    return new_world(database)


@pytest.fixture
def connector(world: World) -> Worker:
    return Worker(world.database, CONNECTOR)


def old_points(world: World, group: UUID, count: int, now: datetime = NOW) -> list[PointFact]:
    """So many that no tier keeps, and a newest one."""
    found = [fact(world, group, at=now - timedelta(days=30, minutes=number)) for number in range(count)]
    state(world, [*found, fact(world, group, at=now)], now)
    return found


def settled(
    connector: Worker, now: datetime, verdict: PointVerdict = PointVerdict.DONE, until: datetime | None = None
) -> ConnectorJob:
    job = connector.work(now)
    points = tuple(PointOutcome(point=point, verdict=verdict, kept_until=until) for point in job.points)
    connector.finish(job, now, points=points)
    return job


def test_a_connector_is_asked_to_let_go_what_no_tier_keeps(world: World, connector: Worker) -> None:
    (group,) = world.plan()
    old = old_points(world, group, 3)
    assert ticked(world, after(59)).expiring == 0
    assert ticked(world, after(60)).expiring == 3
    job = settled(connector, after(61))
    assert (job.kind, set(job.points)) == (JobKind.EXPIRE, {point.id for point in old})
    assert states_of(world, old) == [PointState.EXPIRED] * 3
    assert ticked(world, after(60 + HOUR)).expiring == 0


def test_one_job_of_a_connector_at_a_time(world: World, connector: Worker) -> None:
    first, second = world.plan(groups_count=2)
    old_points(world, first, 1)
    assert ticked(world, after(60)).expiring == 1
    old_points(world, second, 1, after(61))
    assert ticked(world, after(200)).expiring == 0
    running = connector.work(after(200))
    assert ticked(world, after(201)).expiring == 0
    connector.finish(running, after(202))
    assert ticked(world, after(203)).expiring == 1


def test_a_job_holds_only_so_many_points(world: World, connector: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "MAX_EXPIRING", 4)
    first, second = world.plan(groups_count=2)
    old_points(world, first, 3)
    old_points(world, second, 3)
    asked = []
    for seconds in (60, 70, 80):
        asked.append(ticked(world, after(seconds)).expiring)
        if asked[-1]:
            settled(connector, after(seconds))
    assert asked == [4, 2, 0]


def test_only_so_many_groups_are_looked_through_at_a_time(
    world: World, connector: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "LOOK_BATCH", 1)
    for group in world.plan(groups_count=2):
        old_points(world, group, 1)
    assert ticked(world, after(60)).expiring == 1
    settled(connector, after(61))
    assert ticked(world, after(62)).expiring == 1


def test_connectors_are_asked_apart(world: World) -> None:
    other = world.node("d" * 64, Role.CONNECTOR)
    (mine,), (theirs,) = world.plan(), world.plan(connector=other.node)
    old_points(world, mine, 1)
    old = fact(world, theirs, at=after(-90 * DAY))
    state(world, [old, fact(world, theirs)], connector=other.node)
    assert ticked(world, after(60)).expiring == 2
    assert other.work(after(60)).points == (old.id,)


@pytest.mark.parametrize(("until_s", "again_s"), [(7200, 7200), (None, 65 + DAY)])
def test_what_a_connector_keeps_is_asked_again_when_it_says(
    world: World, connector: Worker, until_s: int | None, again_s: int
) -> None:
    (group,) = world.plan()
    old = old_points(world, group, 1)
    ticked(world, after(60))
    settled(connector, after(65), PointVerdict.KEPT, after(until_s) if until_s else None)
    assert states_of(world, old) == [PointState.AVAILABLE]
    for hour in range(again_s // HOUR + 1):
        assert ticked(world, after(min(66 + hour * HOUR, again_s - 1))).expiring == 0
    assert ticked(world, after(again_s + HOUR)).expiring == 1


def test_a_new_point_does_not_make_it_ask_again_sooner(world: World, connector: Worker) -> None:
    (group,) = world.plan()
    old_points(world, group, 1)
    ticked(world, after(60))
    settled(connector, after(65), PointVerdict.KEPT, after(65 + HOUR))
    state(world, [fact(world, group, at=after(100))], after(101))
    assert ticked(world, after(120)).expiring == 0
    assert ticked(world, after(65 + HOUR)).expiring == 1


def test_what_is_busy_is_asked_again_soon(world: World, connector: Worker) -> None:
    (group,) = world.plan()
    (old,) = old_points(world, group, 1)
    ticked(world, after(60))
    settled(connector, after(65), PointVerdict.BUSY)
    state(world, [fact(world, group, at=after(100))], after(101))
    assert ticked(world, after(120)).expiring == 0
    state(world, [fact(world, group, at=after(366))], after(366))
    ticked(world, after(420))
    assert old.id in connector.work(after(420)).points


def test_a_job_that_failed_is_made_again_later(world: World, connector: Worker) -> None:
    (group,) = world.plan()
    old_points(world, group, 1)
    ticked(world, after(60))
    job = connector.work(after(61))
    connector.finish(job, after(62), **failed(permanent=True))
    assert ticked(world, after(63)).expiring == 0
    assert ticked(world, after(60 + HOUR)).expiring == 1


@pytest.mark.parametrize("values", [{"paused": True}, {"deleted_at": NOW}])
def test_a_paused_or_deleted_plans_points_stay(world: World, values: dict[str, Any]) -> None:
    (group,) = world.plan()
    old_points(world, group, 1)
    world.change(plans, world.group(group).plan, **values)
    assert ticked(world, after(60)).expiring == 0


def test_a_connector_that_was_revoked_is_not_asked(world: World) -> None:
    """Nobody would take the job."""
    (group,) = world.plan()
    old_points(world, group, 1)
    world.change(nodes, CONNECTOR, revoked_at=NOW)
    assert ticked(world, after(60)).expiring == 0
    world.change(nodes, CONNECTOR, revoked_at=None)
    assert ticked(world, after(61)).expiring == 1


def test_a_deleted_groups_points_stay(world: World) -> None:
    (group,) = world.plan()
    old_points(world, group, 1)
    world.change(groups, group, deleted_at=NOW)
    assert ticked(world, after(60)).expiring == 0


def test_preserved_points_and_the_last_good_one_are_not_asked_of(world: World) -> None:
    (group,) = world.plan()
    preserved = fact(world, group, at=after(-90 * DAY), preserved=True)
    last = fact(world, group, at=after(-80 * DAY))
    wreck = fact(world, group, at=after(-70 * DAY), state=PointState.FAILED)
    state(world, [preserved, last, wreck])
    with world.database.write() as connection:
        assert retention.ask_expiry(connection, after(60)) == 1
    assert [point_row(world, each.id).state for each in (preserved, last)] == [PointState.AVAILABLE] * 2


def test_points_of_unknown_plans_are_left_to_their_connector(world: World) -> None:
    state(world, [fact(at=after(-90 * DAY)), fact()])
    assert ticked(world, after(HOUR)).expiring == 0


def test_replicas_ask_a_connector_once(world: World) -> None:
    for group in world.plan(groups_count=20):
        old_points(world, group, 1)
    both = threading.Barrier(2)
    asked: list[int] = []

    def replica() -> None:
        both.wait(30)
        asked.extend(ticked(world, after(60)).expiring for _ in range(3))

    replicas = [threading.Thread(target=replica) for _ in range(2)]
    for each in replicas:
        each.start()
    for each in replicas:
        each.join()
    assert len([count for count in asked if count]) == 1  # the rest waits for that job's end
    assert world.states() == ["queued"]


def test_a_point_of_another_plans_tiers(world: World) -> None:
    """Each plan's own."""
    (group,) = world.plan(retain=[Tier(every_s=60, for_s=60).model_dump(mode="json")])
    young = fact(world, group, at=after(-120))
    state(world, [young, changed(fact(world, group), preserved=True)])
    assert ticked(world, after(60)).expiring == 1


def test_an_answer_about_other_points_changes_nothing(world: World, connector: Worker) -> None:
    (group,) = world.plan()
    old_points(world, group, 1)
    bystander = fact(world, group, at=after(-5))
    state(world, [bystander])
    ticked(world, after(60))
    job = connector.work(after(61))
    said = PointOutcome(point=PointId(bystander.id), verdict=PointVerdict.DONE)
    connector.finish(job, after(62), result=JobResult.COMPLETED, points=(said,))
    assert states_of(world, [bystander]) == [PointState.AVAILABLE]
