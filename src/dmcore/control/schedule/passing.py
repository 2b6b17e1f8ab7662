"""What cannot be dealt with is passed by for a while, told of, and stops nothing else of a tick."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from sqlalchemy import Connection, select, update
from sqlalchemy.exc import DBAPIError

from dmcore.api.operators import EventKind
from dmcore.control.reports import events
from dmcore.control.store.failures import is_away, is_full
from dmcore.control.store.tables import groups, jobs

PUT_OFF = timedelta(minutes=15)
"""Until it is tried again: somebody may have mended it."""

log = structlog.get_logger()


def one_by_one(
    connection: Connection, ids: Sequence[UUID], act: Callable[[Sequence[UUID]], int], put_off: Callable[[UUID], None]
) -> int:
    """`act` on these together; if that fails, on each half apart, until what fails is alone: that one is put off.

    Returns the sum of what `act` returned. What the database itself cannot do now is raised.
    """
    if not ids:
        return 0
    try:
        with connection.begin_nested():
            return act(ids)
    except Exception as problem:
        require_passable(problem)
        if len(ids) == 1:
            log.exception("the scheduler passes by what it cannot deal with", id=str(ids[0]))
            put_off(ids[0])
            return 0
    middle = len(ids) // 2
    return sum(one_by_one(connection, half, act, put_off) for half in (ids[:middle], ids[middle:]))


def step(connection: Connection, now: datetime, act: Callable[[Connection, datetime], int]) -> int:
    """One step of a tick. If it fails as a whole, that is logged, nothing of it is kept, and the others go on."""
    try:
        with connection.begin_nested():
            return act(connection, now)
    except Exception as problem:
        require_passable(problem)
        log.exception("a step of the scheduler's tick failed", step=act.__name__)
        return 0


def require_passable(problem: Exception) -> None:
    """Raises the problem again, if it is not of a row but of the database: nothing of the transaction is to be had."""
    if isinstance(problem, DBAPIError) and (is_full(problem.orig) or is_away(problem)):
        raise problem


def put_off_group(connection: Connection, now: datetime, column: str) -> Callable[[UUID], None]:
    """For `one_by_one`: the group's time in this column is later, and an event tells of it."""

    def later(group: UUID) -> None:
        connection.execute(update(groups).where(groups.c.id == group).values({column: now + PUT_OFF}))
        plan = connection.execute(select(groups.c.plan).where(groups.c.id == group)).scalar_one()
        events.record(connection, now, EventKind.GROUP_PASSED_BY, plan=plan, group=group)

    return later


def put_off_job(connection: Connection, now: datetime) -> Callable[[UUID], None]:
    """For `one_by_one`: the job's lease is taken back later, and an event tells of it."""

    def later(job: UUID) -> None:
        connection.execute(update(jobs).where(jobs.c.id == job).values(lease_until=now + PUT_OFF))
        told = select(jobs.c.plan, jobs.c.group, jobs.c.node).where(jobs.c.id == job)
        row = connection.execute(told).mappings().one()
        events.record(connection, now, EventKind.GROUP_PASSED_BY, **row, job=job)

    return later
