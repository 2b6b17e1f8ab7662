"""A point with the jobs about it: what an operator who asked for a recovery looks at; and what is in use stays."""

import pytest

from dmcore.api.jobs import JobResult, PointOutcome, PointVerdict
from dmcore.api.points import PointFact, PointJob
from dmcore.control.index import retention
from dmcore.control.index.shown import MAX_JOBS, get_point
from dmcore.control.queue import jobs
from dmcore.control.store.database import Database
from dmcore.control.store.tables import jobs as job_table
from dmcore.model.jobs import JobKind, JobState
from tests.control.queue_kit import CONNECTOR, Worker, World, after, failed, new_world, with_point
from tests.control.schedule_kit import fact, state, states_of, ticked

DAY = 86_400


@pytest.fixture
def world(database: Database) -> World:
    return new_world(database)


@pytest.fixture
def connector(world: World) -> Worker:
    return Worker(world.database, CONNECTOR)


def about(world: World, said: PointFact) -> tuple[PointJob, ...]:
    with world.database.read() as connection:
        return get_point(connection, said.id).jobs


def test_a_recovery_is_seen_at_its_point_and_at_its_job(world: World, connector: Worker) -> None:
    said = fact()
    state(world, [said])
    job = world.work(JobKind.RECOVER, points=[said.id], to="standby")
    (waiting,) = about(world, said)
    assert (waiting.job, waiting.state, waiting.to, waiting.verdict) == (job, JobState.QUEUED, "standby", None)
    verdict = PointOutcome(point=said.id, verdict=PointVerdict.DONE)
    connector.finish(connector.work(), after(9), points=(verdict,))
    (done,) = about(world, said)
    assert (done.state, done.to, done.verdict, done.ended_at) == (JobState.COMPLETED, "standby", "done", after(9))
    with world.database.read() as connection:
        view = jobs.view(connection, after(9), job)
    assert (view.point, view.to, view.points) == (said.id, "standby", (verdict,))


def test_a_recovery_that_failed_says_why(world: World, connector: Worker) -> None:
    said = fact()
    state(world, [said])
    world.work(JobKind.RECOVER, points=[said.id], to="standby")
    connector.finish(connector.work(), **failed("target.full", permanent=True))
    assert [(each.state, each.problem) for each in about(world, said)] == [(JobState.FAILED, "target.full")]


def test_the_cycle_that_made_it_is_one_of_them(world: World) -> None:
    (group,) = world.plan()
    world.enqueue(group)
    appliance = world.appliance()
    job = appliance.cycle()
    outcome = with_point(after(1))
    appliance.finish(job, after(2), **outcome)
    said = fact(world, group, id=outcome["point"], cycle=job.cycle)
    state(world, [said])
    assert [(each.job, each.kind) for each in about(world, said)] == [(job.job, JobKind.CYCLE)]


def test_the_newest_are_shown_and_no_others(world: World) -> None:
    said = fact()
    state(world, [said])
    made = [world.work(JobKind.VERIFY, after(number), points=[said.id]) for number in range(MAX_JOBS + 1)]
    world.work(JobKind.VERIFY, points=[fact().id])
    assert [each.job for each in about(world, said)] == made[:0:-1]


def test_a_point_that_a_recovery_did_not_find_is_no_more(world: World, connector: Worker) -> None:
    said = fact()
    state(world, [said])
    world.work(JobKind.RECOVER, points=[said.id], to="standby")
    unknown = (PointOutcome(point=said.id, verdict=PointVerdict.UNKNOWN),)
    connector.finish(connector.work(), after(1), points=unknown, **failed("point.unknown", permanent=True))
    assert states_of(world, [said]) == ["expired"]


@pytest.mark.parametrize("kind", [JobKind.RECOVER, JobKind.VERIFY, JobKind.PRESERVE])
def test_a_point_that_a_job_is_about_is_not_asked_to_go(world: World, connector: Worker, kind: JobKind) -> None:
    (group,) = world.plan()
    used, old, newest = (fact(world, group, at=after(-days * DAY)) for days in (90, 80, 0))
    state(world, [used, old, newest])
    job = world.work(kind, points=[used.id])
    assert ticked(world, after(60)).expiring == 1
    assert connector.work(after(60)).job == job  # held now
    asked = connector.work(after(61))
    assert asked.points == (old.id,)
    with world.database.write() as connection:
        connector_is_asked = retention.ask_expiry(connection, after(7200))
    assert connector_is_asked == 0
    connector.finish(asked, after(62))
    world.change(job_table, job, state=JobState.COMPLETED)
    assert ticked(world, after(7200)).expiring == 2


def test_an_attempt_that_failed_still_is_about_its_point(world: World, connector: Worker) -> None:
    said = fact()
    state(world, [said])
    world.work(JobKind.VERIFY, points=[said.id])
    connector.finish(connector.work(), result=JobResult.FAILED)
    assert len(about(world, said)) == 1
