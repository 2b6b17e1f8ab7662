"""Recovery points as the control plane knows them: facts that a connector states. No snapshot names, no disk sizes."""

from typing import Annotated
from uuid import UUID

from pydantic import Field

from dmcore.api.base import Count, ErrorCode, Message, Moment
from dmcore.api.jobs import Percent, PointVerdict
from dmcore.api.labels import Alias, NodeIdText
from dmcore.model.enums import Consistency, Rung
from dmcore.model.ids import CycleId, GroupId, PlanId, PointId
from dmcore.model.jobs import JobKind, JobState
from dmcore.model.points import PointState

MAX_POINTS = 500
"""In one message."""


class PointFact(Message):
    """What a connector says of one of its points. Stating it again changes nothing; a later revision replaces it."""

    id: PointId
    plan: PlanId
    group: GroupId
    cycle: CycleId
    source_time: Moment
    consistency: Consistency
    state: PointState
    disks: Count
    lacking: Count = 0
    rungs: Annotated[tuple[Rung, ...], Field(max_length=3)] = ()
    preserved: bool = False
    verified_at: Moment | None = None
    revision: Count = 0
    """Grows with every change of what can change: state, preserved, verified_at."""


class PointsReport(Message):
    """Points to the control plane, at most so many at once."""

    points: Annotated[tuple[PointFact, ...], Field(max_length=MAX_POINTS)]


class PointView(PointFact):
    """A point as operators see it."""

    connector: NodeIdText


class PointJob(Message):
    """A job about one point, or the cycle that made it."""

    job: UUID
    kind: JobKind
    state: JobState
    to: Alias | None
    """Where a recovery goes, or went, to."""
    due_at: Moment
    ended_at: Moment | None
    verdict: PointVerdict | None
    """What its connector says became of the point."""
    problem: ErrorCode | None


class PointShown(PointView):
    """One point, with the newest jobs about it."""

    jobs: tuple[PointJob, ...] = ()


class VerifyRequest(Message):
    """How much of a point is read."""

    sample_percent: Percent | None = None
    """None: all of it."""


class RecoverRequest(Message):
    """Where to, by an alias of the connector's own configuration (`[recoveries.ALIAS]`)."""

    to: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")


class PreserveRequest(Message):
    """Whether a point is kept whatever its age."""

    preserved: bool


class PointsReply(Message):
    """Points, newest first; `more` if there are older ones."""

    points: tuple[PointView, ...]
    more: bool
