import threading
from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest

from dmcore.api.jobs import Codec, ConnectorJob, Job
from dmcore.api.tickets import verify_ticket
from dmcore.control.errors import StoreBusy
from dmcore.control.queue.claims import UNHEARD_S
from dmcore.control.queue.tickets import TICKET_LIFE_S
from dmcore.control.store.database import Database
from dmcore.control.store.tables import jobs, plans
from dmcore.model.enums import Role, Rung
from dmcore.model.jobs import JobKind, JobState
from tests.control.databases import PostgresqlServer
from tests.control.queue_kit import CONNECTOR, DESK, LEASES, NOW, Worker, World, after, claim_with, new_world


@pytest.fixture
def world(database: Database) -> World:
    return new_world(database)


@pytest.fixture
def appliance(world: World) -> Worker:
    return world.appliance()


@pytest.fixture
def connector(world: World) -> Worker:
    return Worker(world.database, CONNECTOR)


def test_a_job_is_all_that_an_appliance_needs(world: World, appliance: Worker) -> None:
    (group,) = world.plan()
    row = world.job(world.enqueue(group, resync="compare") or uuid4())
    job = appliance.cycle()
    assert (job.job, job.plan, job.group, job.cycle) == (row.id, row.plan, group, row.cycle)
    assert (job.epoch, job.connector, job.source, job.target) == (1, CONNECTOR, "vmware", "staging")
    assert (job.machines, job.codec, job.resync, job.successor) == ((f"vm {group}",), Codec.LZ4, Rung.COMPARE, 0)


def test_a_claim_leases_the_job_and_counts_the_groups_epoch(world: World, appliance: Worker) -> None:
    (group,) = world.plan()
    row = world.job(world.enqueued(group))
    appliance.claim()
    row = world.job(row.id)
    assert (row.state, row.node, row.incarnation) == ("leased", appliance.node, appliance.incarnation)
    assert (row.epoch, row.attempts, row.lease_until) == (1, 1, after(LEASES.lease_s))
    assert world.group(group).epoch == 1


def test_the_ticket_says_what_the_lease_is(world: World, appliance: Worker) -> None:
    (group,) = world.plan()
    world.enqueued(group)
    job = appliance.cycle()
    ticket = verify_ticket(DESK.private_key.public_key(), job.ticket, after(TICKET_LIFE_S - 1))
    assert (ticket.plan, ticket.group, ticket.cycle, ticket.epoch) == (job.plan, group, job.cycle, 1)
    assert (ticket.node, ticket.connector) == (appliance.node, CONNECTOR)
    assert ticket.exp - ticket.iat == TICKET_LIFE_S


def test_who_waits_longest_is_first(world: World, appliance: Worker) -> None:
    one, other = world.plan(2)
    world.enqueued(one, after(1))
    world.enqueued(other, NOW)
    assert [appliance.cycle(after(2)).group for _ in range(2)] == [other, one]
    assert appliance.claim(after(2)) is None


@pytest.mark.parametrize(
    ("slots", "sources"),
    [(0, ("vmware",)), (1, ()), (1, ("kvm",))],
    ids=["no-slot", "no-source", "another-source"],
)
def test_a_poller_gets_only_what_it_can_run(
    world: World, appliance: Worker, slots: int, sources: tuple[str, ...]
) -> None:
    (group,) = world.plan()
    world.enqueued(group)
    appliance.sources = sources
    assert appliance.claim(slots=slots) is None


def test_a_busy_group_waits_for_the_one_that_is_busy_with_it(world: World, appliance: Worker) -> None:
    one, other = world.plan(2)
    world.enqueued(one)
    assert appliance.claim(busy=(one,)) is None
    world.enqueued(other)
    found = appliance.claim(busy=(one,))
    assert isinstance(found, Job)
    assert found.group == other


def test_another_sites_appliance_has_no_part_in_it(world: World) -> None:
    world.site("south")
    stranger = world.appliance("b", "south")
    (group,) = world.plan()
    world.enqueued(group)
    assert stranger.claim() is None


@pytest.mark.parametrize("values", [{"paused": True}, {"deleted_at": NOW}], ids=["paused", "deleted"])
def test_a_plan_at_rest_is_not_claimed(world: World, appliance: Worker, values: dict[str, Any]) -> None:
    (group,) = world.plan()
    world.enqueued(group)
    world.change(plans, world.group(group).plan, **values)
    assert appliance.claim() is None


def test_work_goes_to_its_connector_alone(world: World, appliance: Worker, connector: Worker) -> None:
    other = world.node("d" * 64, Role.CONNECTOR)
    points = (uuid4(), uuid4())
    job = world.work(JobKind.RECOVER, points=points, to="standby")
    assert appliance.claim() is None
    assert other.claim() is None
    found = connector.work()
    assert (found.job, found.kind, found.epoch, found.points) == (job, JobKind.RECOVER, 1, points)
    assert (found.to, found.preserved) == ("standby", None)
    assert connector.claim() is None


def test_a_connector_is_given_no_cycle(world: World, connector: Worker) -> None:
    (group,) = world.plan()
    world.enqueued(group)
    assert connector.claim() is None


def test_the_epoch_of_work_is_its_attempt(world: World, connector: Worker) -> None:
    world.work(JobKind.PRESERVE, preserved=True)
    first = connector.work()
    world.reap(after(60))
    second = connector.work(after(600))
    assert (first.epoch, second.epoch, second.preserved) == (1, 2, True)


def test_a_lease_that_ran_out_is_taken_back_by_the_next_claim(world: World, appliance: Worker) -> None:
    (group,) = world.plan()
    world.enqueued(group)
    first = appliance.cycle()
    other = world.appliance("b")
    assert other.claim(after(59)) is None
    assert other.claim(after(60)) is None  # it is queued again, and waits a little
    assert world.job(first.job).state == "queued"
    second = other.cycle(after(70))
    assert (second.job, second.cycle, second.epoch) == (first.job, first.cycle, 2)
    assert world.events() == ["lease.lost"]


def test_a_restarted_node_gets_its_jobs_again_at_once(world: World, appliance: Worker) -> None:
    one, other = world.plan(2)
    world.enqueued(one)
    world.enqueued(other)
    before = [appliance.cycle(), appliance.cycle()]
    again = appliance.restarted()
    after_it = [again.cycle(after(1)), again.cycle(after(1))]
    assert {job.job for job in before} == {job.job for job in after_it}
    assert {job.epoch for job in after_it} == {2}


def test_a_restarted_connector_too(world: World, connector: Worker) -> None:
    world.work(JobKind.INDEX)
    before, again = connector.work(), connector.restarted().work(after(1))
    assert (before.job, again.epoch) == (again.job, 2)


class TestLostAnswer:
    """The process has never had the job: the answer to its poll was lost."""

    @pytest.fixture
    def lost(self, world: World, appliance: Worker) -> Job:
        (group,) = world.plan()
        world.enqueued(group)
        return appliance.cycle()

    def test_the_same_lease_is_handed_out_again(self, world: World, appliance: Worker, lost: Job) -> None:
        before = world.job(lost.job)
        again = appliance.cycle(after(10))
        assert again.model_copy(update={"ticket": lost.ticket}) == lost
        ticket = verify_ticket(DESK.private_key.public_key(), again.ticket, after(10 + TICKET_LIFE_S - 1))
        assert (ticket.epoch, ticket.cycle, ticket.node) == (1, lost.cycle, appliance.node)
        row = world.job(lost.job)
        assert (row.state, row.epoch, row.attempts, row.node) == ("leased", 1, 1, appliance.node)
        assert (row.leased_at, row.counter_at, row.lease_until) == (after(10), after(10), before.lease_until)
        assert world.group(lost.group).epoch == 1
        assert world.events() == []
        appliance.heartbeat(again, after(11))
        assert world.job(lost.job).state == "running"

    def test_not_one_that_may_be_on_its_way(self, world: World, appliance: Worker, lost: Job) -> None:
        for now_s in (0.0, 1.0, UNHEARD_S - 0.1):
            assert appliance.claim(after(now_s)) is None
        assert appliance.cycle(after(UNHEARD_S)).job == lost.job
        assert appliance.claim(after(UNHEARD_S + 1)) is None  # the second answer may be on its way, too
        assert appliance.cycle(after(2 * UNHEARD_S)).job == lost.job

    def test_not_one_that_it_has(self, world: World, appliance: Worker, lost: Job) -> None:
        assert appliance.claim(after(10), busy=(lost.group,)) is None
        assert appliance.claim(after(10), slots=0) is None
        appliance.heartbeat(lost, after(11))
        assert appliance.claim(after(30)) is None

    def test_not_to_another(self, world: World, appliance: Worker, lost: Job) -> None:
        assert world.appliance("b").claim(after(10)) is None
        assert appliance.restarted().cycle(after(10)).epoch == 2

    def test_nor_for_longer_than_the_lease(self, world: World, appliance: Worker, lost: Job) -> None:
        """Answers to this node may get lost for ever: then another one has the job."""
        for now_s in range(10, 60, 10):
            assert appliance.cycle(after(now_s)).epoch == 1
        world.reap(after(60))
        assert world.appliance("b").cycle(after(70)).epoch == 2

    def test_nor_one_that_nobody_wants_any_more(self, world: World, appliance: Worker, lost: Job) -> None:
        world.cancel(lost.job, after(5))
        assert appliance.claim(after(10)) is None

    @pytest.mark.parametrize("values", [{"paused": True}, {"deleted_at": NOW}], ids=["paused", "deleted"])
    def test_nor_of_a_plan_at_rest(self, world: World, appliance: Worker, lost: Job, values: dict[str, Any]) -> None:
        world.change(plans, lost.plan, **values)
        assert appliance.claim(after(10)) is None

    def test_before_another_job(self, world: World, appliance: Worker, lost: Job) -> None:
        (other,) = world.plan()
        world.enqueued(other)
        assert [appliance.cycle(after(10)).job, appliance.cycle(after(10)).group] == [lost.job, other]

    def test_also_a_connectors(self, world: World, connector: Worker) -> None:
        points = (uuid4(),)
        for kind in (JobKind.VERIFY, JobKind.INDEX):
            world.work(kind, points=points)
        lost, had = connector.work(), connector.work(after(1))
        connector.heartbeat(had, after(1), counter=1)
        assert connector.claim(after(UNHEARD_S - 0.1)) is None
        assert connector.claim(after(UNHEARD_S), slots=0) is None
        assert connector.work(after(UNHEARD_S)) == lost
        assert connector.claim(after(UNHEARD_S + 1)) is None
        row = world.job(lost.job)
        assert (row.state, row.attempts, row.lease_until) == (JobState.LEASED, 1, after(60))
        connector.finish(lost, after(9))
        assert connector.claim(after(30)) is None

    def test_work_that_is_to_be_cancelled_is_left_to_its_lease(self, world: World, connector: Worker) -> None:
        job = world.work(JobKind.VERIFY)
        connector.work()
        world.cancel(job)
        assert connector.claim(after(30)) is None

    def test_one_of_two_polls_at_once_gets_it(self, world: World, appliance: Worker, lost: Job) -> None:
        found = race([appliance, appliance], 2, after(10))
        assert [job.job for job in found if job] == [lost.job]


def test_one_process_may_have_several(world: World, appliance: Worker) -> None:
    for group in world.plan(3):
        world.enqueued(group)
    assert len({appliance.cycle().job for _ in range(3)}) == 3
    assert world.states() == [JobState.LEASED] * 3


def race(workers: list[Worker], rounds: int, now: datetime = NOW) -> list[Job | ConnectorJob | None]:
    found: list[Job | ConnectorJob | None] = []
    ready = threading.Barrier(len(workers))

    def run(worker: Worker) -> None:
        ready.wait()
        found.extend([worker.claim(now) for _ in range(rounds)])

    threads = [threading.Thread(target=run, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_of_two_claimers_one_wins(world: World) -> None:
    (group,) = world.plan()
    world.enqueued(group)
    found = race([world.appliance("a"), world.appliance("b")], 1)
    assert sorted(job is None for job in found) == [False, True]
    assert world.group(group).epoch == 1


def test_claimers_that_race_get_different_jobs(world: World) -> None:
    for group in world.plan(12):
        world.enqueued(group)
    found = [job.job for job in race([world.appliance(letter) for letter in "abef"], 3) if job]
    assert len(set(found)) == len(found) == 12


def test_on_postgresql_a_claim_does_not_wait_for_another(postgresql_database: Database) -> None:
    world = new_world(postgresql_database)
    one, other = world.appliance("a"), world.appliance("b")
    for group in world.plan(2):
        world.enqueued(group)
    with world.database.write() as connection:
        first = claim_with(connection, one, NOW)
        second = other.claim()
    assert first
    assert second
    assert first.job != second.job


def test_a_restart_of_postgresql_in_the_middle_of_a_claim_loses_nothing(
    postgresql: PostgresqlServer, postgresql_database: Database
) -> None:
    world = new_world(postgresql_database)
    appliance = world.appliance()
    (group,) = world.plan()
    job = world.enqueued(group)
    with pytest.raises(StoreBusy):
        _restarted_behind_it(postgresql, appliance)
    assert (world.job(job).state, world.group(group).epoch) == ("queued", 0)
    assert appliance.cycle().epoch == 1
    assert world.count(jobs) == 1


def _restarted_behind_it(server: PostgresqlServer, worker: Worker) -> None:
    with worker.database.write() as connection:
        claim_with(connection, worker, NOW)
        server.restart()
