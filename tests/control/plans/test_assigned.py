"""What an appliance may run while it cannot ask, and the number that tells it to ask again."""

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Row, event, select

from dmcore.api.plans import PlanEdit
from dmcore.control.plans import plans
from dmcore.control.plans.assigned import assigned_plans, assigned_version
from dmcore.control.store.database import Database
from dmcore.control.store.tables import nodes
from tests.control.queue_kit import CONNECTOR, NOW, SOURCE, World, new_world


@pytest.fixture
def world(database: Database) -> World:
    return new_world(database)


def row_of(world: World, node: str) -> Row[Any]:
    with world.database.read() as connection:
        return connection.execute(select(nodes).where(nodes.c.id == node)).one()


def pause(world: World, plan: UUID) -> None:
    with world.database.write() as connection:
        plans.pause(connection, NOW, plan, "somebody", paused=True)


def test_what_changes_while_it_is_read_is_asked_for_again(world: World) -> None:
    """On PostgreSQL each statement sees what was committed before it."""
    (group,) = world.plan()
    node = row_of(world, world.appliance().node)
    left = [world.group(group).plan]

    def change(*told: Any) -> None:
        if left and "FROM groups" in told[2]:
            pause(world, left.pop())

    with world.database.read() as connection:
        event.listen(connection, "after_cursor_execute", change)
        found = assigned_plans(connection, NOW, node, [SOURCE])
    assert not left
    with world.database.read() as connection:
        now_version = assigned_version(connection, NOW, node, [SOURCE])
        assert found.version != now_version
        again = assigned_plans(connection, NOW, node, [SOURCE])
    assert (again.version, again.groups[0].paused) == (now_version, True)


@pytest.mark.parametrize("change", [PlanEdit(machines=("new",)), PlanEdit(rpo_s=60)])
def test_an_edit_is_another_version(world: World, change: PlanEdit) -> None:
    (group,) = world.plan()
    node = row_of(world, world.appliance().node)
    with world.database.write() as connection:
        before = assigned_version(connection, NOW, node, [SOURCE])
        plans.edit(connection, NOW, world.group(group).plan, change, "somebody")
        assert assigned_version(connection, NOW, node, [SOURCE]) != before


def version_of(world: World, node: str, *sources: str) -> int:
    row = row_of(world, node)
    with world.database.read() as connection:
        return assigned_version(connection, NOW, row, sources)


def test_a_version_is_the_same_until_something_changes(world: World) -> None:
    world.plan()
    node = world.appliance().node
    assert version_of(world, node, SOURCE) == version_of(world, node, SOURCE) != 0


def test_a_new_plan_and_a_deleted_one_are_other_versions(world: World) -> None:
    node = world.appliance().node
    (group,) = world.plan()
    versions = [version_of(world, node, SOURCE)]
    world.plan()
    versions.append(version_of(world, node, SOURCE))
    with world.database.write() as connection:
        plans.delete(connection, NOW, world.group(group).plan, "somebody")
    versions.append(version_of(world, node, SOURCE))
    assert len(set(versions)) == 3


def test_plans_of_other_sources_are_no_other_version(world: World) -> None:
    node = world.appliance().node
    world.plan()
    before = version_of(world, node, SOURCE)
    world.plan(source="other")
    assert version_of(world, node, SOURCE) == before
    assert version_of(world, node, SOURCE, "other") != before


def test_another_appliance_is_another_version(world: World) -> None:
    """Its share of the site's limit is."""
    node = world.appliance("a").node
    before = version_of(world, node, SOURCE)
    world.appliance("b")
    assert version_of(world, node, SOURCE) != before


def test_a_connector_is_told_of_none(world: World) -> None:
    world.plan()
    assert version_of(world, CONNECTOR, SOURCE) == 0
