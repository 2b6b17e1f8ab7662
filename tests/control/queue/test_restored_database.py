"""An operator puts an older copy of the database back: its epochs are behind what connectors have seen."""

import shutil
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from dmcore.api.jobs import Job, JobResult, Outcome
from dmcore.api.nodes import OfflineCycle, OfflineReport
from dmcore.control.errors import LeaseLost
from dmcore.control.queue import offline
from dmcore.control.store.database import Database
from dmcore.control.store.tables import groups, jobs
from dmcore.model.jobs import IN_FLIGHT
from tests.control.queue_kit import Worker, World, after, failed, new_world, with_point


class Gate:
    """A connector's memory of a group, which no restored database takes back: the highest epoch presented."""

    def __init__(self) -> None:
        self.highest, self.ran = 0, list[int]()

    def run(self, worker: Worker, job: Job, now: float) -> None:
        """As an appliance would: a lower epoch is refused, and the current one handed back."""
        if job.epoch <= self.highest:
            worker.finish(job, after(now), **failed("epoch.stale", permanent=True, epoch_floor=self.highest))
            return
        self.highest = job.epoch
        self.ran.append(job.epoch)
        worker.finish(job, after(now), **with_point(after(now)))


def cycles(world: World, worker: Worker, gate: Gate, begin: int, count: int) -> None:
    (group,) = {row.id for row in all_rows(world)}
    for number in range(count):
        world.enqueue(group, after(begin + number))
        gate.run(worker, worker.cycle(after(begin + number)), begin + number)


def all_rows(world: World) -> list[Any]:
    with world.database.read() as connection:
        return list(connection.execute(groups.select()).all())


def restored(database: Database, copy: Path) -> Database:
    """Another process on the old copy, as after the machine was set up anew."""
    path = Path(database.engine.url.database or "")
    database.close()
    for leftover in path.parent.glob(f"{path.name}-*"):
        leftover.unlink()
    shutil.copyfile(copy, path)
    return Database(f"sqlite:///{path}")


@pytest.fixture
def copied(sqlite_database: Database, tmp_path: Path) -> tuple[World, Worker, Gate, Path]:
    """A world that ran three cycles, was copied, and ran four more."""
    world, gate, copy = new_world(sqlite_database), Gate(), tmp_path / "copy.db"
    worker = world.appliance()
    world.plan()
    cycles(world, worker, gate, 0, 3)
    sqlite_database.close()
    shutil.copyfile(sqlite_database.engine.url.database or "", copy)
    cycles(world, worker, gate, 100, 4)
    assert gate.ran == [1, 2, 3, 4, 5, 6, 7]
    return world, worker, gate, copy


def test_epochs_go_on_above_what_the_connector_saw(copied: tuple[World, Worker, Gate, Path]) -> None:
    world, worker, gate, copy = copied
    world.database = worker.database = restored(world.database, copy)
    (group,) = all_rows(world)
    assert group.epoch == 3
    cycles(world, worker, gate, 200, 1)
    assert gate.ran[-1] == 7  # refused; the same cycle waits, and is claimed above it
    gate.run(worker, worker.cycle(after(201)), 201)
    assert gate.ran[-1] == 8
    cycles(world, worker, gate, 300, 2)
    assert gate.ran == sorted(set(gate.ran))
    assert world.events() == ["epoch.behind"]
    with world.database.read() as connection:
        assert not [row for row in connection.execute(jobs.select()) if row.state in IN_FLIGHT]
    world.database.close()


def test_a_lease_that_the_copy_does_not_know_is_refused_and_its_cycle_not_lost(
    copied: tuple[World, Worker, Gate, Path],
) -> None:
    world, worker, gate, copy = copied
    (group,) = all_rows(world)
    job_id = world.enqueued(group.id, after(150))
    running = worker.cycle(after(150))
    gate.highest = running.epoch
    world.database = worker.database = restored(world.database, copy)
    for act in (worker.heartbeat, worker.finish):
        with pytest.raises(LeaseLost):
            act(running, after(151))
    cycles(world, worker, gate, 200, 1)
    gate.run(worker, worker.cycle(after(201)), 201)
    assert gate.ran[-1] == running.epoch + 1
    assert world.group(group.id).last_point_time == after(201)
    assert job_id not in {row.id for row in _jobs(world)}
    world.database.close()


def test_what_an_appliance_did_by_itself_tells_the_epoch_too(copied: tuple[World, Worker, Gate, Path]) -> None:
    world, worker, gate, copy = copied
    world.database = worker.database = restored(world.database, copy)
    (group,) = all_rows(world)
    said = Outcome(epoch=gate.highest, result=JobResult.COMPLETED, **with_point(after(160)))
    cycle = OfflineCycle(
        plan=group.plan, group=group.id, base_cycle=uuid4(), successor=1, started_at=after(150),
        ended_at=after(170), outcome=said,
    )  # fmt: skip
    with world.database.write() as connection:
        offline.record_offline(connection, after(180), worker.node, OfflineReport(cycles=(cycle,)))
    cycles(world, worker, gate, 200, 1)
    assert gate.ran[-1] == 8
    world.database.close()


def _jobs(world: World) -> list[Any]:
    with world.database.read() as connection:
        return list(connection.execute(jobs.select()).all())
