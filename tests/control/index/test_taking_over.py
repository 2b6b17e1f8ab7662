"""The points of a connector that was revoked are listed again once another states them: a machine restored anew."""

import pytest

from dmcore.control.queue.queue import enqueue_work
from dmcore.control.store.database import Database
from dmcore.control.store.tables import nodes
from dmcore.model.enums import Role
from dmcore.model.jobs import JobKind
from dmcore.model.points import PointState
from tests.control.queue_kit import CONNECTOR, NOW, Worker, World, after, new_world
from tests.control.schedule_kit import changed, fact, point_row, state, states_of, ticked

SUCCESSOR = "d" * 64


@pytest.fixture
def world(database: Database) -> World:
    made = new_world(database)
    made.node(SUCCESSOR, Role.CONNECTOR)
    return made


def test_only_if_the_other_one_is_revoked(world: World) -> None:
    (group,) = world.plan()
    said = fact(world, group)
    state(world, [said])
    assert state(world, [changed(said)], connector=SUCCESSOR) == (said.id,)
    assert point_row(world, said.id).connector == CONNECTOR
    world.change(nodes, CONNECTOR, revoked_at=NOW)
    assert state(world, [changed(said)], connector=SUCCESSOR) == ()
    assert point_row(world, said.id).connector == SUCCESSOR
    assert state(world, [changed(changed(said))], connector=CONNECTOR) == (said.id,)  # and not back again


def test_what_it_says_counts_also_if_it_is_older(world: World) -> None:
    """Its catalogue is of the backup that it was restored from."""
    (group,) = world.plan()
    said = fact(world, group)
    state(world, [changed(changed(said), preserved=True)])
    world.change(nodes, CONNECTOR, revoked_at=NOW)
    state(world, [said], connector=SUCCESSOR)
    row = point_row(world, said.id)
    assert (row.connector, row.revision, row.preserved) == (SUCCESSOR, said.revision, False)


def test_a_rebuild_brings_all_of_them(world: World) -> None:
    """Those too that nobody has stated before; those that are not there stay as they were, under the revoked one."""
    (group,) = world.plan()
    kept, lost, unheard = (fact(world, group, at=after(number)) for number in range(3))
    state(world, [kept, lost])
    world.change(nodes, CONNECTOR, revoked_at=NOW)
    with world.database.write() as connection:
        enqueue_work(connection, NOW, SUCCESSOR, JobKind.INDEX)
    successor = Worker(world.database, SUCCESSOR)
    job = successor.work()
    assert state(world, [kept, unheard], connector=SUCCESSOR) == ()
    successor.finish(job, after(5))
    assert states_of(world, [kept, lost, unheard]) == [PointState.AVAILABLE] * 3
    owners = [point_row(world, each.id).connector for each in (kept, lost, unheard)]
    assert owners == [SUCCESSOR, CONNECTOR, SUCCESSOR]


def test_one_that_comes_back_is_not_asked_of_what_is_anothers_now(world: World) -> None:
    """Enrolled again with its old key, after another has taken its points over."""
    (group,) = world.plan()
    old, newest = fact(world, group, at=after(-90 * 86_400)), fact(world, group)
    state(world, [old, newest])
    world.change(nodes, CONNECTOR, revoked_at=NOW)
    state(world, [old, newest], connector=SUCCESSOR)
    world.change(nodes, CONNECTOR, revoked_at=None)
    assert ticked(world, after(60)).expiring == 0
