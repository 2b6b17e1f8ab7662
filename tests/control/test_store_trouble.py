"""The queue on a database that is full, locked or restarted: said so, nothing half-done, and all goes on after it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from dmcore.control.errors import StoreBusy, StoreFull
from dmcore.control.store.database import Database
from dmcore.control.store.tables import groups, jobs
from tests.control.databases import PostgresqlServer, patiently
from tests.control.queue_kit import NOW, Worker, World, after, failed, new_world, with_point
from tests.filesystems import small_file_system

__all__ = ["small_file_system"]


def snapshot(world: World) -> list[Any]:
    with world.database.read() as connection:
        return [connection.execute(table.select().order_by(table.c.id)).all() for table in (jobs, groups)]


def fill(folder: Path) -> Path:
    """A file that takes all there is."""
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return path


@pytest.fixture
def small(sqlite_template: Path, small_file_system: Path) -> Iterator[World]:
    path = small_file_system / "control.db"
    path.write_bytes(sqlite_template.read_bytes())
    database = Database(f"sqlite:///{path}")
    yield new_world(database)
    database.close()


def test_a_full_disk_loses_no_job_and_gives_no_lease(small: World, small_file_system: Path) -> None:
    appliance, (one, other) = small.appliance(), small.plan(2)
    small.enqueued(one)
    running = appliance.cycle()
    small.enqueued(other)
    before, ballast = snapshot(small), fill(small_file_system)
    acts: list[Callable[[], Any]] = [
        appliance.claim,
        lambda: appliance.heartbeat(running, counter=1),
        lambda: appliance.finish(running, **failed()),
        lambda: small.cancel(running.job),
        lambda: small.reap(after(60)),
    ]
    for act in acts:
        with pytest.raises(StoreFull):
            act()
        assert snapshot(small) == before
    ballast.unlink()
    appliance.finish(running, **with_point(NOW))
    assert appliance.cycle().group == other


@pytest.mark.parametrize("act", ["claim", "finish", "enqueue"])
def test_a_locked_sqlite_is_busy_and_nothing_was_done(sqlite_database: Database, act: str) -> None:
    world = new_world(sqlite_database)
    appliance, (one, other) = world.appliance(), world.plan(2)
    world.enqueued(one)
    running = appliance.cycle()
    impatient = Worker(Database(str(sqlite_database.engine.url), busy_s=1), appliance.node, appliance.incarnation)
    acts: dict[str, Callable[[], Any]] = {
        "claim": impatient.claim,
        "finish": lambda: impatient.finish(running),
        "enqueue": lambda: World(impatient.database).enqueue(other),
    }
    before = snapshot(world)
    with world.database.write(), pytest.raises(StoreBusy):
        acts[act]()
    assert snapshot(world) == before
    acts[act]()
    impatient.database.close()


class TestPostgresqlRestarted:
    """In the middle of each transaction that nodes begin."""

    @pytest.mark.parametrize("act", ["claim", "heartbeat", "finish", "fail", "enqueue", "reap"])
    @pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
    def test_after_the_first_change(
        self, postgresql: PostgresqlServer, postgresql_database: Database, act: str, kill: bool
    ) -> None:
        world = new_world(postgresql_database)
        appliance, (one, other, third) = world.appliance(), world.plan(3)
        world.enqueued(one)
        running = appliance.cycle()
        world.enqueued(other)
        acts: dict[str, Callable[[], Any]] = {
            "claim": appliance.claim,
            "heartbeat": lambda: appliance.heartbeat(running, counter=1),
            "finish": lambda: appliance.finish(running, **with_point(NOW)),
            "fail": lambda: appliance.finish(running, **failed(permanent=True)),
            "enqueue": lambda: world.enqueue(third),
            "reap": lambda: world.reap(after(60)),
        }
        before = snapshot(world)
        with restarted_once(postgresql, postgresql_database, kill=kill), pytest.raises(StoreBusy):
            acts[act]()
        assert snapshot(world) == before
        acts[act]()
        assert snapshot(world) != before

    def test_while_many_work(self, postgresql: PostgresqlServer, postgresql_database: Database) -> None:
        """Everybody tries again, as nodes do, and each job is done by exactly one of them."""
        world = new_world(postgresql_database)
        for group in world.plan(30):
            world.enqueued(group)
        done: list[Any] = []
        begun = threading.Semaphore(0)

        def work(worker: Worker) -> None:
            while job := patiently(worker.claim):
                begun.release()
                patiently(partial(worker.finish, job, **with_point(NOW)))
                done.append(job)

        threads = [threading.Thread(target=work, args=(world.appliance(letter),)) for letter in "ab"]
        for thread in threads:
            thread.start()
        for _ in range(5):
            begun.acquire()
        postgresql.restart(kill=True)
        for thread in threads:
            thread.join()
        world.reap(after(60))
        last = world.appliance("e")
        while job := last.claim(after(120)):  # what was leased while the answer was lost
            last.finish(job, after(120), **with_point(after(120)))
            done.append(job)
        assert world.states() == ["completed"] * 30
        assert len({job.cycle for job in done}) == 30


@contextmanager
def restarted_once(server: PostgresqlServer, database: Database, *, kill: bool) -> Iterator[None]:
    """Inside, the server is restarted right after the first statement that changes something."""
    left = [kill]

    def restart(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if left and statement.startswith(("UPDATE", "INSERT")):
            server.restart(kill=left.pop())

    event.listen(database.engine, "after_cursor_execute", restart)
    yield
    event.remove(database.engine, "after_cursor_execute", restart)
    assert not left
