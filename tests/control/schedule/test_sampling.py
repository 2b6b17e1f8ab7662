"""A share of each group's newest good point is verified every day: in hourly parts, never two at once."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Row, select

from dmcore.api.jobs import JobResult, PointOutcome, PointVerdict
from dmcore.control.schedule import sampling
from dmcore.control.store.database import Database
from dmcore.control.store.tables import groups, jobs, plans, points
from dmcore.model.ids import PointId
from dmcore.model.jobs import JobKind
from dmcore.model.points import PointState
from tests.control.queue_kit import CONNECTOR, NOW, Worker, World, new_world
from tests.control.schedule_kit import changed, fact, state, ticked

HOUR_S = 3600


def at(hours: float) -> datetime:
    return NOW + timedelta(hours=hours)


@pytest.fixture
def world(database: Database) -> World:
    return new_world(database)


@pytest.fixture
def connector(world: World) -> Worker:
    return Worker(world.database, CONNECTOR)


def protected(world: World, percent: float = 2.4, groups_count: int = 1) -> list[UUID]:
    """Groups of a plan that says so, each with a good point of NOW."""
    made = world.plan(groups_count, verify_percent=percent, rpo_s=30 * 86_400)
    state(world, [fact(world, group) for group in made])
    with world.database.write() as connection:
        sampling.arrange(connection, NOW, world.group(made[0]).plan)
    return made


def verifications(world: World) -> list[Row[Any]]:
    with world.database.read() as connection:
        asked = select(jobs).where(jobs.c.kind == JobKind.VERIFY).order_by(jobs.c.due_at)
        return list(connection.execute(asked).all())


def done(world: World, connector: Worker, now: datetime) -> PointId:
    job = connector.work(now)
    (point,) = job.points
    connector.finish(job, now, points=(PointOutcome(point=point, verdict=PointVerdict.DONE),))
    return point


def test_hourly_parts_make_up_the_daily_share(world: World, connector: Worker) -> None:
    (group,) = protected(world)
    for hour in range(25):
        ticked(world, at(hour))
        if hour:
            assert done(world, connector, at(hour + 0.5)) == world.group(group).last_point
    found = verifications(world)
    assert len(found) == 24
    assert sum(job.arguments["sample_percent"] for job in found) == pytest.approx(2.4)
    assert {job.plan for job in found} == {world.group(group).plan}
    assert world.group(group).sampled_at == at(24.5)


def test_none_before_its_time(world: World) -> None:
    protected(world)
    assert ticked(world, at(0.9)).sampled == 0
    assert ticked(world, at(1)).sampled == 1
    assert ticked(world, at(1.5)).sampled == 0


def test_never_two_at_once_and_what_was_missed_is_made_up_for(world: World, connector: Worker) -> None:
    protected(world)
    assert ticked(world, at(1)).sampled == 1
    for hour in (2, 3, 4):
        assert ticked(world, at(hour)).sampled == 0
    done(world, connector, at(4.01))
    assert ticked(world, at(5)).sampled == 1
    assert [job.arguments["sample_percent"] for job in verifications(world)] == pytest.approx([0.1, 0.4])


def test_a_verification_that_an_operator_asked_for_is_waited_for_too(world: World) -> None:
    (group,) = protected(world)
    world.work(JobKind.VERIFY, points=[world.group(group).last_point], plan=world.group(group).plan)
    assert ticked(world, at(1)).sampled == 0


def test_but_only_that_group_waits(world: World) -> None:
    first, _ = protected(world, groups_count=2)
    world.work(JobKind.VERIFY, points=[world.group(first).last_point], plan=world.group(first).plan)
    assert ticked(world, at(1)).sampled == 1


def test_no_more_than_a_days_share_however_long_nobody_ticked(world: World) -> None:
    protected(world, percent=60.0)
    assert ticked(world, at(24 * 9)).sampled == 1
    assert verifications(world)[0].arguments["sample_percent"] == 60.0


def test_without_a_good_point_there_is_nothing_to_sample(world: World) -> None:
    (group,) = world.plan(verify_percent=1.0, rpo_s=30 * 86_400)
    said = fact(world, group)
    state(world, [said])
    with world.database.write() as connection:
        sampling.arrange(connection, NOW, world.group(group).plan)
    state(world, [changed(said, state=PointState.DEGRADED)])
    assert ticked(world, at(1)).sampled == 0
    good = fact(world, group, at(1.5))
    state(world, [good], at(1.6))
    assert ticked(world, at(2)).sampled == 1
    assert verifications(world)[0].point == good.id


@pytest.mark.parametrize("how", ["off", "deleted plan", "deleted group"])
def test_who_does_not_want_it_any_more_is_left_alone(world: World, how: str) -> None:
    (group,) = protected(world)
    plan = world.group(group).plan
    if how == "off":
        world.change(plans, plan, verify_percent=0.0)
    else:
        table, row = (plans, plan) if how == "deleted plan" else (groups, group)
        world.change(table, row, deleted_at=NOW)
    assert ticked(world, at(1)).sampled == 0
    assert world.group(group).sample_at is None


def test_a_share_that_is_edited_is_not_begun_anew(world: World) -> None:
    (group,) = protected(world)
    with world.database.write() as connection:
        sampling.arrange(connection, at(0.5), world.group(group).plan)
    assert world.group(group).sample_at == at(1)


def test_a_paused_plans_points_are_sampled_too(world: World) -> None:
    (group,) = protected(world)
    world.change(plans, world.group(group).plan, paused=True)
    assert ticked(world, at(1)).sampled == 1


def test_a_sample_verifies_no_point(world: World, connector: Worker) -> None:
    (group,) = protected(world)
    ticked(world, at(1))
    point = done(world, connector, at(1.1))
    with world.database.read() as connection:
        assert connection.execute(select(points.c.verified_at).where(points.c.id == point)).scalar_one() is None
    assert world.group(group).sampled_at == at(1.1)
    world.work(JobKind.VERIFY, now=at(1.2), points=[point], plan=world.group(group).plan)
    done(world, connector, at(1.3))
    with world.database.read() as connection:
        assert connection.execute(select(points.c.verified_at).where(points.c.id == point)).scalar_one() == at(1.3)
    assert world.group(group).sampled_at == at(1.1)


def test_a_sample_that_failed_is_not_counted(world: World, connector: Worker) -> None:
    (group,) = protected(world)
    ticked(world, at(1))
    connector.finish(connector.work(at(1.1)), at(1.1), result=JobResult.FAILED)
    assert world.group(group).sampled_at is None


def test_what_cannot_be_dealt_with_is_put_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (group,) = protected(world)

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(sampling, "enqueue_work", fail)
    assert ticked(world, at(1)).sampled == 0
    assert world.group(group).sample_at == at(1.25)
    assert "group.passed-by" in world.events()
