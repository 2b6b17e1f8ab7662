"""Events: in the transaction of what they tell of, listed newest first."""

from uuid import uuid4

import pytest

from dmcore.api.operators import EventKind
from dmcore.control.reports import events
from dmcore.control.store.database import Database
from tests.control.queue_kit import NOW, World, new_world


@pytest.fixture
def world(database: Database) -> World:
    return new_world(database)


def test_an_event_is_told_as_it_was_recorded(world: World) -> None:
    plan, group, job = uuid4(), uuid4(), uuid4()
    with world.database.write() as connection:
        events.record(
            connection, NOW, EventKind.JOB_STALLED, plan=plan, group=group, node="a" * 64, job=job, value=7
        )  # fmt: skip
    with world.database.read() as connection:
        (found,) = events.list_events(connection).events
    assert found.model_dump() == {
        "number": found.number, "at": NOW, "kind": EventKind.JOB_STALLED, "plan": plan, "group": group,
        "node": "a" * 64, "job": job, "value": 7,
    }  # fmt: skip


def test_an_event_of_something_that_did_not_happen_is_not_there(world: World) -> None:
    with world.database.write() as connection:
        events.record(connection, NOW, EventKind.JOB_FAILED)
        connection.rollback()
    assert world.events() == []


def test_pages_of_events(world: World) -> None:
    with world.database.write() as connection:
        events.record_all(connection, NOW, EventKind.RPO_BREACHED, [{"value": number} for number in range(5)])
        events.record_all(connection, NOW, EventKind.RPO_KEPT, [])
        first = events.list_events(connection, limit=2)
        rest = events.list_events(connection, limit=3, before=first.events[-1].number)
        least = events.list_events(connection, limit=0)
    assert [event.value for event in first.events + rest.events] == [4, 3, 2, 1, 0]
    assert (first.more, rest.more, len(least.events)) == (True, False, 1)


def test_a_value_is_never_negative(world: World) -> None:
    with world.database.write() as connection:
        events.record(connection, NOW, EventKind.CLOCK_SKEWED, value=-5)
        assert events.list_events(connection).events[0].value == 0
