"""Short words for what time and connectors bring: whole cycles, ticks, facts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Row, event, select

from dmcore.api.points import PointFact
from dmcore.control.index.points import state_points
from dmcore.control.schedule import pace
from dmcore.control.schedule.scheduler import TickResult, tick
from dmcore.control.store.database import Database
from dmcore.control.store.tables import events, points
from dmcore.model.enums import Consistency, Rung
from dmcore.model.ids import CycleId, GroupId, PlanId, PointId
from dmcore.model.points import PointState
from tests.control.queue_kit import CONNECTOR, NOW, Worker, World, after, with_point


def run_cycle(appliance: Worker, group: UUID, begin_s: float, took_s: float, snapshot_s: float = 1) -> None:
    """A whole one that was due at `begin_s`, its snapshot made so much later."""
    World(appliance.database).enqueued(group, after(begin_s))
    job = appliance.cycle(after(begin_s))
    appliance.finish(job, after(begin_s + took_s), **with_point(after(begin_s + snapshot_s)))


def ticked(world: World, now: datetime) -> TickResult:
    with world.database.write() as connection:
        return tick(connection, now)


def reschedule(world: World, group: UUID, now: datetime = NOW) -> None:
    with world.database.write() as connection:
        pace.reschedule(connection, now, group)


def fact(world: World | None = None, group: UUID | None = None, at: datetime = NOW, **more: Any) -> PointFact:
    """Of a group of this world; or of one that nobody here knows."""
    plan = world.group(group).plan if world and group else uuid4()
    values: dict[str, Any] = {
        "id": PointId(uuid4()), "plan": PlanId(plan), "group": GroupId(group or uuid4()), "cycle": CycleId(uuid4()),
        "source_time": at, "consistency": Consistency.CRASH, "state": PointState.AVAILABLE, "disks": 2,
        "rungs": (Rung.DELTA,), "revision": 1,
    }  # fmt: skip
    return PointFact(**(values | more))


def changed(before: PointFact, **more: Any) -> PointFact:
    """The same point, later."""
    return before.model_copy(update={"revision": before.revision + 1} | more)


def state(
    world: World, facts: Sequence[PointFact], now: datetime = NOW, connector: str = CONNECTOR
) -> tuple[UUID, ...]:
    with world.database.write() as connection:
        return state_points(connection, now, connector, facts)


def point_row(world: World, point: UUID) -> Row[Any]:
    with world.database.read() as connection:
        return connection.execute(select(points).where(points.c.id == point)).one()


def states_of(world: World, facts: Sequence[PointFact]) -> list[str]:
    return [point_row(world, each.id).state for each in facts]


def told(world: World) -> list[tuple[str, int]]:
    """Kinds and values of the events."""
    with world.database.read() as connection:
        rows = connection.execute(select(events.c.kind, events.c.value).order_by(events.c.number))
        return [(row.kind, row.value) for row in rows]


@contextmanager
def noted(database: Database) -> Iterator[list[tuple[str, Any]]]:
    """Every statement with its parameters."""
    asked: list[tuple[str, Any]] = []

    def hear(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", hear)
    yield asked
    event.remove(database.engine, "before_cursor_execute", hear)
