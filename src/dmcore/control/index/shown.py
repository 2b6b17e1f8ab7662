"""One point as operators see it, with what was asked of its connector about it."""

from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, select

from dmcore.api.jobs import Outcome
from dmcore.api.points import PointJob, PointShown
from dmcore.control.index.points import point_row, view_of
from dmcore.control.store.tables import jobs
from dmcore.model.jobs import JobKind, JobState

MAX_JOBS = 10


def get_point(connection: Connection, point: UUID) -> PointShown:
    """One, also one that has expired.

    Raises:
        NotFound: no connector has stated it.
    """
    found = view_of(point_row(connection, point))
    newest = select(jobs).where(jobs.c.point == point).order_by(jobs.c.due_at.desc(), jobs.c.id.desc()).limit(MAX_JOBS)
    about = tuple(_job(row, point) for row in connection.execute(newest))
    return PointShown(**found.model_dump(), jobs=about)


def _job(row: Row[Any], point: UUID) -> PointJob:
    outcome = Outcome.model_validate(row.outcome) if row.outcome else None
    verdicts = [each.verdict for each in outcome.points if each.point == point] if outcome else []
    return PointJob(
        job=row.id, kind=JobKind(row.kind), state=JobState(row.state), to=row.arguments.get("to"), due_at=row.due_at,
        ended_at=row.ended_at, verdict=verdicts[0] if verdicts else None,
        problem=outcome.problem.code if outcome and outcome.problem else None,
    )  # fmt: skip
