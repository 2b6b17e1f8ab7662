from typing import Any
from uuid import uuid4

import pytest

from dmcore.api.jobs import Job
from dmcore.api.limits import NO_LIMIT, Limit
from dmcore.control.errors import LeaseLost, NodeSuperseded
from dmcore.control.queue.attempts import MAX_ATTEMPTS, MAX_BACKOFF_S, backoff_s
from dmcore.control.store.database import Database
from dmcore.control.store.tables import groups, jobs, nodes, plans, sites
from dmcore.model.enums import Stage
from dmcore.model.jobs import JobKind
from tests.control.queue_kit import CONNECTOR, LEASES, Worker, World, after, failed, new_world

MINUTE = 60


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


def test_the_first_heartbeat_says_that_it_runs(world: World, appliance: Worker, job: Job) -> None:
    appliance.heartbeat(job, after(15), stage=Stage.SNAPSHOT, counter=1, done_bytes=7)
    row = world.job(job.job)
    assert (row.state, row.started_at, row.lease_until) == ("running", after(15), after(15 + LEASES.lease_s))
    assert (row.stage, row.counter, row.progress["done_bytes"]) == ("snapshot", 1, 7)


def test_an_answer_says_how_long_and_how_often(appliance: Worker, job: Job) -> None:
    answer = appliance.heartbeat(job)
    assert (answer.lease_s, answer.heartbeat_s) == (LEASES.lease_s, LEASES.heartbeat_s)
    assert (answer.cancel, answer.pause, answer.limit, answer.site_limit) == (False, False, NO_LIMIT, NO_LIMIT)


def test_an_answer_carries_the_limits_as_they_are_now(world: World, appliance: Worker, job: Job) -> None:
    limit = Limit(bytes_s=1 << 20)
    world.change(plans, job.plan, limit=limit.model_dump(mode="json"))
    site = sites.c.name
    with world.database.write() as connection:
        connection.execute(sites.update().where(site == "north").values(limit=limit.model_dump(mode="json")))
    world.appliance("b")
    answer = appliance.heartbeat(job)
    assert (answer.limit, answer.site_limit) == (limit, Limit(bytes_s=1 << 19))


def test_a_heartbeat_keeps_the_lease(world: World, appliance: Worker, job: Job) -> None:
    for minute in range(1, 10):
        appliance.heartbeat(job, after(minute * 50), stage=Stage.TRANSFER, counter=minute)
        assert world.reap(after(minute * 50 + 9)) == 0
    assert world.job(job.job).epoch == job.epoch


def test_connectors_keep_theirs_likewise(world: World) -> None:
    connector = Worker(world.database, CONNECTOR)
    world.work(JobKind.VERIFY, points=[uuid4()])
    work = connector.work()
    answer = connector.heartbeat(work, after(50), counter=1)
    assert (answer.limit, answer.site_limit, answer.pause) == (NO_LIMIT, NO_LIMIT, False)
    assert world.reap(after(100)) == 0


class TestSilence:
    def test_takes_the_lease_back_at_its_end(self, world: World, job: Job) -> None:
        assert world.reap(after(59)) == 0
        assert world.reap(after(60)) == 1
        assert world.reap(after(60)) == 0
        row = world.job(job.job)
        assert (row.state, row.lease_until, row.cycle) == ("queued", None, job.cycle)
        assert after(60) < row.not_before <= after(62)
        assert world.events() == ["lease.lost"]

    def test_is_forgiven_while_nobody_else_has_the_job(self, world: World, appliance: Worker, job: Job) -> None:
        """A control plane that was away for minutes must not stop what went on without it."""
        world.reap(after(300))
        appliance.heartbeat(job, after(301), stage=Stage.TRANSFER, counter=5)
        row = world.job(job.job)
        assert (row.state, row.epoch, row.lease_until) == ("running", 1, after(301 + LEASES.lease_s))
        assert world.appliance("b").claim(after(303)) is None

    def test_is_not_forgiven_after_another_lease(self, world: World, appliance: Worker, job: Job) -> None:
        world.reap(after(60))
        again = world.appliance("b").cycle(after(70))
        for act in (appliance.heartbeat, appliance.finish):
            with pytest.raises(LeaseLost, match=r"epoch 1; stop"):
                act(job, after(71))
        assert world.job(job.job).epoch == again.epoch == 2

    def test_is_a_failure_at_last(self, world: World, appliance: Worker, job: Job) -> None:
        world.change(jobs, job.job, attempts=MAX_ATTEMPTS)
        world.reap(after(60))
        row = world.job(job.job)
        assert (row.state, row.ended_at, row.outcome["problem"]["code"]) == ("failed", after(60), "lease.lost")
        assert (world.group(job.group).failures, world.group(job.group).problem) == (1, "lease.lost")
        assert world.events() == ["lease.lost", "job.failed"]
        with pytest.raises(LeaseLost):
            appliance.heartbeat(job, after(61), counter=1)


class TestWhoMaySpeak:
    @pytest.mark.parametrize("epoch", [2, 99])
    def test_not_under_another_epoch(self, appliance: Worker, job: Job, epoch: int) -> None:
        with pytest.raises(LeaseLost):
            appliance.heartbeat(job.model_copy(update={"epoch": epoch}))

    def test_not_another_node(self, world: World, job: Job) -> None:
        with pytest.raises(LeaseLost):
            world.appliance("b").heartbeat(job)

    def test_not_of_a_job_that_nobody_knows(self, appliance: Worker, job: Job) -> None:
        with pytest.raises(LeaseLost):
            appliance.heartbeat(job.model_copy(update={"job": uuid4()}))

    def test_not_a_process_whose_successor_has_spoken(self, world: World, appliance: Worker, job: Job) -> None:
        world.change(nodes, appliance.node, superseded=[str(appliance.incarnation)])
        for act in (appliance.heartbeat, appliance.finish):
            with pytest.raises(NodeSuperseded):
                act(job)
        assert world.job(job.job).state == "leased"

    def test_not_after_the_attempts_end(self, world: World, appliance: Worker, job: Job) -> None:
        appliance.finish(job, **failed())
        with pytest.raises(LeaseLost):
            appliance.heartbeat(job, counter=9)
        assert world.job(job.job).state == "queued"


class TestStall:
    @pytest.mark.parametrize(
        ("stage", "minutes"),
        [(Stage.SNAPSHOT, 30), (Stage.TRANSFER, 10), (Stage.COMMIT, 60), (Stage.CLEANUP, 10), (None, 10)],
    )
    def test_each_stage_has_its_time(
        self, world: World, appliance: Worker, job: Job, stage: Stage | None, minutes: int
    ) -> None:
        said: dict[str, Any] = {"stage": stage, "counter": 1}
        appliance.heartbeat(job, after(0), **said)
        assert not appliance.heartbeat(job, after(minutes * MINUTE), **said).cancel
        until = world.job(job.job).lease_until
        assert appliance.heartbeat(job, after(minutes * MINUTE + 1), **said).cancel
        assert world.job(job.job).lease_until == until

    def test_is_told_once_and_ends_the_lease(self, world: World, appliance: Worker, job: Job) -> None:
        for second in (0, 590, 605, 620, 635):
            appliance.heartbeat(job, after(second), stage=Stage.TRANSFER, counter=1)
        assert world.events() == ["job.stalled"]
        assert world.reap(after(651)) == 1
        assert world.job(job.job).state == "queued"
        with pytest.raises(LeaseLost):  # it speaks, but gets nothing done
            appliance.heartbeat(job, after(652), stage=Stage.TRANSFER, counter=1)

    @pytest.mark.parametrize("said", [{"stage": Stage.TRANSFER, "counter": 2}, {"stage": Stage.COMMIT, "counter": 1}])
    def test_ends_with_whatever_is_got_done(
        self, world: World, appliance: Worker, job: Job, said: dict[str, Any]
    ) -> None:
        appliance.heartbeat(job, after(0), stage=Stage.TRANSFER, counter=1)
        assert appliance.heartbeat(job, after(700), stage=Stage.TRANSFER, counter=1).cancel
        assert not appliance.heartbeat(job, after(701), **said).cancel
        assert world.job(job.job).lease_until == after(701 + LEASES.lease_s)

    def test_a_pause_does_not_count(self, world: World, appliance: Worker, job: Job) -> None:
        appliance.heartbeat(job, after(0), stage=Stage.TRANSFER, counter=1)
        world.change(plans, job.plan, paused=True)
        answer = appliance.heartbeat(job, after(3000), stage=Stage.TRANSFER, counter=1)
        assert (answer.pause, answer.cancel) == (True, False)
        world.change(plans, job.plan, paused=False)
        answer = appliance.heartbeat(job, after(3500), stage=Stage.TRANSFER, counter=1)
        assert (answer.pause, answer.cancel) == (False, False)


def test_waits_grow_and_end_somewhere() -> None:
    waits = {attempts: [backoff_s(attempts) for _ in range(50)] for attempts in (1, 2, 5, 20)}
    assert all(1 <= wait <= 2 for wait in waits[1])
    assert all(2 <= wait <= 4 for wait in waits[2])
    assert all(16 <= wait <= 32 for wait in waits[5])
    assert all(MAX_BACKOFF_S / 2 <= wait <= MAX_BACKOFF_S for wait in waits[20])
    assert len(set(waits[5])) > 1


def test_a_group_that_is_gone_stops_nothing(world: World, appliance: Worker, job: Job) -> None:
    """Its plan was deleted for good by a later version, say: the queue has no foreign keys."""
    world.change(jobs, job.job, group=uuid4())
    appliance.finish(job)
    assert world.job(job.job).state == "completed"
    assert world.count(groups) == 1
