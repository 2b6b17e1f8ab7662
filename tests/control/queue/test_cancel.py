from typing import Any
from uuid import uuid4

import pytest

from dmcore.api.jobs import Job
from dmcore.control.errors import NotFound, StateConflict
from dmcore.control.store.database import Database
from dmcore.model.jobs import JobKind
from tests.control.queue_kit import Worker, World, after, failed, new_world


@pytest.fixture
def world(database: Database) -> World:
    return new_world(database)


@pytest.fixture
def appliance(world: World) -> Worker:
    return world.appliance()


@pytest.fixture
def job(world: World, appliance: Worker) -> Job:
    (group,) = world.plan()
    world.enqueued(group)
    return appliance.cycle()


def test_what_waits_is_over_at_once(world: World) -> None:
    (group,) = world.plan()
    job = world.enqueued(group)
    world.cancel(job, after(5))
    row = world.job(job)
    assert (row.state, row.ended_at, row.started_at) == ("cancelled", after(5), None)
    assert world.group(group).next_start is not None


def test_who_has_it_is_told(world: World, appliance: Worker, job: Job) -> None:
    assert not appliance.heartbeat(job).cancel
    world.cancel(job.job)
    assert world.job(job.job).state == "running"
    assert appliance.heartbeat(job, counter=1).cancel


def test_who_is_silent_is_not_waited_for(world: World, job: Job) -> None:
    world.cancel(job.job)
    world.reap(after(60))
    assert world.job(job.job).state == "cancelled"


def test_twice_is_once(world: World) -> None:
    (group,) = world.plan()
    job = world.enqueued(group)
    world.cancel(job, after(5))
    world.cancel(job, after(6))
    assert world.job(job).ended_at == after(5)


@pytest.mark.parametrize("said", [{}, failed(permanent=True)], ids=["completed", "failed"])
def test_what_is_over_stays_so(world: World, appliance: Worker, job: Job, said: dict[str, Any]) -> None:
    appliance.finish(job, **said)
    with pytest.raises(StateConflict, match="nothing to cancel"):
        world.cancel(job.job)


def test_of_a_job_that_is_not(world: World) -> None:
    with pytest.raises(NotFound, match="no job"):
        world.cancel(uuid4())


def test_of_work(world: World) -> None:
    job = world.work(JobKind.VERIFY, points=[uuid4()])
    world.cancel(job)
    assert world.job(job).state == "cancelled"
