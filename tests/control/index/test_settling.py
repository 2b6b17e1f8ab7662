"""What the ends of connectors' jobs mean to the index, before their facts come."""

import pytest

from dmcore.api.jobs import JobResult, Outcome, PointOutcome, PointVerdict
from dmcore.api.points import PointFact
from dmcore.control.index.points import settle
from dmcore.control.store.database import Database
from dmcore.model.enums import Role
from dmcore.model.jobs import JobKind
from dmcore.model.points import PointState
from tests.control.queue_kit import CONNECTOR, NOW, Worker, World, after, new_world
from tests.control.schedule_kit import fact, point_row, state, states_of


@pytest.fixture
def world(database: Database) -> World:
    return new_world(database)


def settled(
    world: World, said: PointFact, kind: JobKind, verdict: PointVerdict, *, preserved: bool | None = None
) -> None:
    """A job about a point, answered so."""
    job = world.work(kind, points=[said.id], preserved=preserved)
    outcome = Outcome(epoch=1, result=JobResult.COMPLETED, points=(PointOutcome(point=said.id, verdict=verdict),))
    with world.database.write() as connection:
        settle(connection, after(5), world.job(job), outcome)


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (PointVerdict.DONE, (PointState.EXPIRED, None)),
        (PointVerdict.UNKNOWN, (PointState.EXPIRED, None)),
        (PointVerdict.KEPT, (PointState.AVAILABLE, after(5 + 86_400))),
        (PointVerdict.BUSY, (PointState.AVAILABLE, after(5 + 300))),
    ],
)
def test_what_was_to_expire(world: World, verdict: PointVerdict, expected: tuple[PointState, object]) -> None:
    said = fact()
    state(world, [said])
    settled(world, said, JobKind.EXPIRE, verdict)
    row = point_row(world, said.id)
    assert (row.state, row.expire_after) == expected


@pytest.mark.parametrize(
    ("until_s", "asked_s"),
    [(7200, 7200), (3604, 5 + 3600), (-86_400, 5 + 3600), (40 * 86_400, 5 + 30 * 86_400), (30 * 86_400, 30 * 86_400)],
)
def test_a_young_point_is_asked_of_when_it_is_not_young_any_more(world: World, until_s: int, asked_s: int) -> None:
    """Not within the hour and not later than in a month, whatever a connector's clock says."""
    one, other = fact(), fact()
    state(world, [one, other])
    job = world.work(JobKind.EXPIRE, points=[one.id, other.id])
    kept = [PointOutcome(point=each.id, verdict=PointVerdict.KEPT, kept_until=at)
            for each, at in ((one, after(until_s)), (other, None))]  # fmt: skip
    with world.database.write() as connection:
        settle(connection, after(5), world.job(job), Outcome(epoch=1, result=JobResult.COMPLETED, points=tuple(kept)))
    assert [point_row(world, each.id).expire_after for each in (one, other)] == [after(asked_s), after(5 + 86_400)]


def test_a_verified_point_shows_when(world: World) -> None:
    said = fact()
    state(world, [said])
    settled(world, said, JobKind.VERIFY, PointVerdict.DONE)
    assert point_row(world, said.id).verified_at == after(5)


def test_a_point_that_was_busy_is_not_verified(world: World) -> None:
    said = fact()
    state(world, [said])
    settled(world, said, JobKind.VERIFY, PointVerdict.BUSY)
    assert point_row(world, said.id).verified_at is None


@pytest.mark.parametrize("preserved", [True, False])
def test_a_preserved_point_shows_it(world: World, preserved: bool) -> None:
    said = fact(preserved=not preserved)
    state(world, [said])
    settled(world, said, JobKind.PRESERVE, PointVerdict.DONE, preserved=preserved)
    assert point_row(world, said.id).preserved is preserved


@pytest.mark.parametrize("kind", [JobKind.VERIFY, JobKind.PRESERVE, JobKind.RECOVER])
def test_a_point_that_its_connector_does_not_have_is_no_more(world: World, kind: JobKind) -> None:
    (group,) = world.plan()
    older, said = fact(world, group, at=after(-60)), fact(world, group)
    state(world, [older, said])
    settled(world, said, kind, PointVerdict.UNKNOWN)
    assert states_of(world, [older, said]) == [PointState.AVAILABLE, PointState.EXPIRED]
    assert world.group(group).last_point == older.id


def test_a_recovery_changes_no_point(world: World) -> None:
    said = fact()
    state(world, [said])
    before = point_row(world, said.id)
    settled(world, said, JobKind.RECOVER, PointVerdict.DONE)
    assert point_row(world, said.id) == before


def test_a_connector_changes_only_its_own_points(world: World) -> None:
    """Also if a job names another's."""
    world.node("d" * 64, Role.CONNECTOR)
    theirs = fact()
    state(world, [theirs], NOW, "d" * 64)
    settled(world, theirs, JobKind.EXPIRE, PointVerdict.DONE)
    assert states_of(world, [theirs]) == [PointState.AVAILABLE]


def test_a_job_that_failed_settles_what_was_done_before(world: World) -> None:
    done, left = fact(), fact()
    state(world, [done, left])
    world.work(JobKind.EXPIRE, points=[done.id, left.id])
    connector = Worker(world.database, CONNECTOR)
    said = (PointOutcome(point=done.id, verdict=PointVerdict.DONE),)
    connector.finish(connector.work(), after(5), result=JobResult.FAILED, points=said)
    assert states_of(world, [done, left]) == [PointState.EXPIRED, PointState.AVAILABLE]
