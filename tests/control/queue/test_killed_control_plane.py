"""The control plane is killed between every two statements of what it does to a job; then another one goes on."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection

from dmcore.api.jobs import ConnectorJob, Job, JobResult, Outcome, Progress
from dmcore.api.nodes import HeartbeatRequest
from dmcore.control.queue import leases, outcomes, queue
from dmcore.control.store.database import Database
from dmcore.control.store.tables import groups, jobs
from dmcore.model.jobs import HELD, IN_FLIGHT
from tests.control.queue.killed import dies_before
from tests.control.queue_kit import (
    LEASES,
    NOW,
    Worker,
    World,
    after,
    claim_with,
    failed,
    new_world,
    with_point,
)

LATER = 1000
"""When every lease of before is over, and every wait."""
MOST_STATEMENTS = 60


@dataclass
class Scene:
    """Three groups: one whose lease has run out, one held by a process that is gone, one that waits."""

    world: World
    appliance: Worker
    group_ids: list[UUID]
    leased: list[Job]
    waiting: UUID
    other: Worker = field(init=False)

    def __post_init__(self) -> None:
        self.other = self.world.appliance("b")

    @classmethod
    def made(cls, database: Database) -> "Scene":
        world = new_world(database)
        appliance, group_ids = world.appliance(), world.plan(3)
        leased: list[Job] = []
        for group in group_ids[:2]:
            world.enqueued(group, after(-200))
            leased.append(appliance.cycle(after(-200 + 100 * len(leased))))
        appliance.heartbeat(leased[1], NOW)
        scene = cls(world, appliance.restarted(), group_ids, leased, world.enqueued(group_ids[2]))
        database.close()  # nothing is open when the process forks
        return scene


def epochs_of(world: World) -> dict[UUID, int]:
    with world.database.read() as connection:
        return {row.id: row.epoch for row in connection.execute(groups.select())}


def in_flight(world: World) -> list[Any]:
    with world.database.read() as connection:
        return [row for row in connection.execute(jobs.select()) if row.state in IN_FLIGHT]


def require_sound(world: World, before: dict[UUID, int]) -> None:
    """No lost job, no two of a group, no lease without its end, no epoch that went back."""
    found = in_flight(world)
    assert len({row.group for row in found}) == len(found)
    assert all((row.lease_until is not None) == (row.state in HELD) for row in found)
    now = epochs_of(world)
    assert all(now[group] >= epoch for group, epoch in before.items())
    assert all(row.epoch <= now[row.group] for row in found)


def require_that_all_goes_on(scene: Scene) -> None:
    """Whatever was lost with the process, each job is run by somebody, under an epoch that nobody had before."""
    world, before = scene.world, epochs_of(scene.world)
    expected = {row.id for row in in_flight(world)}
    world.reap(after(LATER))
    done = set()
    for _ in expected:
        job = scene.other.cycle(after(2 * LATER))
        assert job.epoch == before[job.group] + 1
        scene.other.finish(job, after(2 * LATER), **with_point(after(2 * LATER)))
        done.add(job.job)
    assert done == expected
    assert all(world.job(job).state == "completed" for job in done)
    assert all(world.enqueue(group, after(2 * LATER)) is not None for group in scene.group_ids)


def act_claim(scene: Scene, connection: Connection) -> None:
    claim_with(connection, scene.appliance, NOW)


def act_finish(scene: Scene, connection: Connection) -> None:
    job = scene.leased[1]
    said = Outcome(epoch=job.epoch, result=JobResult.COMPLETED, **with_point(NOW))
    outcomes.finish(connection, NOW, scene.appliance.node, job.job, scene.appliance.incarnation, said)


def act_fail(scene: Scene, connection: Connection) -> None:
    job = scene.leased[1]
    said = Outcome(epoch=job.epoch, **failed(epoch_floor=9))
    outcomes.finish(connection, NOW, scene.appliance.node, job.job, scene.appliance.incarnation, said)


def act_heartbeat(scene: Scene, connection: Connection) -> None:
    job, who = scene.leased[1], scene.appliance
    request = HeartbeatRequest(incarnation=who.incarnation, epoch=job.epoch, progress=Progress(counter=5))
    leases.heartbeat(connection, NOW, who.node, job.job, request, LEASES)


def act_reap(scene: Scene, connection: Connection) -> None:
    leases.reap(connection, after(LATER))


def act_cancel(scene: Scene, connection: Connection) -> None:
    outcomes.cancel(connection, NOW, scene.waiting)


def act_enqueue(scene: Scene, connection: Connection) -> None:
    outcomes.cancel(connection, NOW, scene.waiting)
    queue.enqueue_cycles(connection, NOW, [scene.group_ids[2]], due_at=NOW)


ACTS: dict[str, Callable[[Scene, Connection], None]] = {
    name.removeprefix("act_"): act for name, act in sorted(globals().items()) if name.startswith("act_")
}


def rows(world: World) -> list[Any]:
    with world.database.read() as connection:
        return [connection.execute(table.select().order_by(table.c.id)).all() for table in (jobs, groups)]


def test_what_is_claimed_there() -> None:
    assert set(ACTS) == {"cancel", "claim", "enqueue", "fail", "finish", "heartbeat", "reap"}


@pytest.mark.parametrize("act", ACTS)
def test_killed_before_each_statement(database: Database, act: str) -> None:
    """All or nothing, up to the commit nothing; and whatever it was, all goes on."""
    scene = Scene.made(database)
    world, first, before = scene.world, rows(scene.world), epochs_of(scene.world)
    database.close()
    changed = []
    for statement in range(1, MOST_STATEMENTS):
        if not dies_before(database, statement, lambda connection: ACTS[act](scene, connection)):
            break
        changed.append(rows(world) != first)
        require_sound(world, before)
        database.close()
        if changed[-1]:  # it died behind its commit: this was the last one
            break
    assert changed.count(True) == 1
    assert len(changed) >= 3
    require_that_all_goes_on(scene)


def test_an_answer_that_was_lost_leaves_a_lease_that_ends(database: Database) -> None:
    """Killed behind the commit: nobody knows of the lease, and nobody is ever given its epoch again."""
    scene = Scene.made(database)
    before = epochs_of(scene.world)
    database.close()
    reached = 1
    while dies_before(database, reached, lambda connection: act_claim(scene, connection)):
        reached += 1
        if epochs_of(scene.world) != before:
            break
        database.close()
    (lost,) = [row for row in in_flight(scene.world) if row.state == "leased" and row.leased_at == NOW]
    assert isinstance(scene.other.claim(NOW), Job | ConnectorJob)
    scene.world.reap(after(LATER))
    while (again := scene.other.cycle(after(2 * LATER))).job != lost.id:
        pass
    assert again.epoch == lost.epoch + 1
