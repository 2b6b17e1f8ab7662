"""Transactions that lock the same rows do it in one order: none of them has to die so that the others go on.

On PostgreSQL: SQLite has one writer at a time.
"""

import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, select, text

from dmcore.api.jobs import JobResult, Outcome
from dmcore.api.nodes import OfflineCycle, OfflineReport
from dmcore.api.plans import RunRequest
from dmcore.control.plans import plans
from dmcore.control.queue import attempts, leases, offline, outcomes
from dmcore.control.store.database import Database
from dmcore.control.store.tables import groups, jobs
from dmcore.model.ids import CycleId, GroupId, PlanId
from tests.control.queue_kit import NOW, World, after, claim_with, new_world

BLOCKED = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
STEPS = 1000

Act = Callable[[Connection], Any]


@pytest.fixture
def world(postgresql_database: Database) -> World:
    return new_world(postgresql_database)


def overlapped(world: World, first: Act, other: Act, then: Act) -> None:
    """`first` and `then` in one transaction; `other` in one that comes between them, and waits for the first."""
    problems: list[BaseException] = []

    def run() -> None:
        try:
            with world.database.write() as connection:
                other(connection)
        except BaseException as problem:  # noqa: BLE001 - told by the test's own thread
            problems.append(problem)

    thread = threading.Thread(target=run)
    with world.database.write() as connection:
        first(connection)
        thread.start()
        while_waiting(world, thread)
        then(connection)
    thread.join()
    assert problems == []


def while_waiting(world: World, thread: threading.Thread) -> None:
    for _ in range(STEPS):
        with world.database.read() as connection:
            if connection.execute(BLOCKED).scalar_one():
                return
        thread.join(0.01)
        assert thread.is_alive(), "it did not wait"
    raise AssertionError("it never waited")


def lock_group(group: UUID) -> Act:
    return lambda connection: connection.execute(select(groups).where(groups.c.id == group).with_for_update()).one()


def two_groups(world: World) -> tuple[UUID, UUID, UUID]:
    """Their plan, and they themselves: the one with the lower id was made later."""
    low, high = sorted(world.plan(groups_count=2))
    world.change(groups, low, created_at=after(1))
    return world.group(low).plan, low, high


def test_a_plan_that_is_deleted_while_its_cycle_ends(world: World) -> None:
    (group,) = world.plan()
    appliance = world.appliance()
    world.enqueue(group)
    job = appliance.cycle()
    done = Outcome(epoch=job.epoch, result=JobResult.COMPLETED)
    overlapped(
        world,
        first=lambda connection: attempts.lock(connection, job.job),
        other=lambda connection: plans.delete(connection, NOW, job.plan, "somebody"),
        then=lambda connection: outcomes.finish(
            connection, NOW, appliance.node, job.job, appliance.incarnation, done
        ),
    )  # fmt: skip
    assert world.states() == ["completed"]
    assert world.group(group).deleted_at == NOW


def test_a_plan_that_is_deleted_while_its_job_is_claimed(world: World) -> None:
    """Who has it then is told to stop."""
    (group,) = world.plan()
    world.enqueue(group)
    appliance = world.appliance()
    plan = world.group(group).plan
    claimed = []
    overlapped(
        world,
        first=lambda connection: connection.execute(select(jobs).with_for_update()).one(),
        other=lambda connection: plans.delete(connection, NOW, plan, "somebody"),
        then=lambda connection: claimed.append(claim_with(connection, appliance, NOW)),
    )
    (job,) = claimed
    assert job is not None
    assert appliance.heartbeat(job).cancel


def test_a_claim_waits_for_nobodys_group(world: World) -> None:
    first, second = world.plan(groups_count=2)
    for group in (first, second):
        world.enqueue(group)
    with world.database.write() as connection:
        lock_group(first)(connection)
        assert world.appliance().cycle().group == second


@pytest.mark.parametrize("change", ["pause", "run"])
def test_a_plans_groups_are_locked_by_their_ids(world: World, change: str) -> None:
    plan, low, high = two_groups(world)
    asked: dict[str, Act] = {
        "pause": lambda connection: plans.pause(connection, NOW, plan, "somebody", paused=True),
        "run": lambda connection: plans.run(
            connection, NOW, plan, RunRequest(groups=(GroupId(high), GroupId(low))), "somebody"
        ),
    }  # fmt: skip
    overlapped(world, lock_group(low), asked[change], lock_group(high))


def test_leases_that_ran_out_end_by_their_groups_ids(world: World) -> None:
    _, low, high = two_groups(world)
    for group, s in ((high, 0), (low, 1)):
        world.enqueue(group)
        job = world.appliance(str(s)).cycle(after(s))
        world.cancel(job.job)
    overlapped(world, lock_group(low), lambda connection: leases.reap(connection, after(120)), lock_group(high))
    assert world.states() == ["cancelled", "cancelled"]


def test_offline_cycles_are_kept_by_their_groups_ids(world: World) -> None:
    plan, low, high = two_groups(world)
    appliance = world.appliance()
    cycles = tuple(
        OfflineCycle(
            plan=PlanId(plan), group=GroupId(group), base_cycle=CycleId(uuid4()), successor=1, started_at=NOW,
            ended_at=NOW, outcome=Outcome(epoch=1, result=JobResult.COMPLETED),
        )
        for group in (high, low)
    )  # fmt: skip
    report = OfflineReport(cycles=cycles)
    overlapped(
        world, lock_group(low),
        lambda connection: offline.record_offline(connection, NOW, appliance.node, report),
        lock_group(high),
    )  # fmt: skip
    assert world.states() == ["completed", "completed"]
