"""Jobs as nodes get them and as operators see them. All of it is names, ids and enums, totals and times."""

from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, StringConstraints

from dmcore.api.base import Count, Duration, Message, Moment, Problem
from dmcore.api.labels import Alias, Epoch, Label, NodeIdText
from dmcore.model.enums import Reason, Rung, Stage
from dmcore.model.ids import CycleId, DiskId, GroupId, PlanId, PointId
from dmcore.model.jobs import JobKind, JobState

MAX_MACHINES = 256
MAX_DISKS = 1024
MAX_EXPIRING = 256


Percent = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]


class Codec(StrEnum):
    """How a plan wants its disks compressed."""

    NONE = "none"
    LZ4 = "lz4"
    ZSTD = "zstd"


class Job(Message):
    """What an appliance is to replicate, under which lease. The ticket is for the connector."""

    job: UUID
    ticket: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,4096}$")] = Field(repr=False)
    plan: PlanId
    group: GroupId
    cycle: CycleId
    epoch: Epoch
    connector: NodeIdText
    machines: Annotated[tuple[Label, ...], Field(min_length=1, max_length=MAX_MACHINES)]
    source: Alias
    target: Alias
    codec: Codec | None = None
    """None: the appliance's own default."""
    resync: Rung | None = None
    """An operator's wish for a costlier rung than the disks need; None: the cheapest that is safe."""
    against_source: bool = False
    """Compare every disk, and ask the source what has changed, too: what differs elsewhere, its tracking has missed."""
    successor: Count = 0
    """Cycles since the ticket's own that this node began by itself, while there was no control plane."""


class ConnectorJob(Message):
    """What a connector is to do. `epoch` fences its answers, as of a cycle."""

    job: UUID
    kind: Literal[JobKind.VERIFY, JobKind.RECOVER, JobKind.EXPIRE, JobKind.PRESERVE, JobKind.INDEX]
    epoch: Epoch
    points: Annotated[tuple[PointId, ...], Field(max_length=MAX_EXPIRING)] = ()
    to: Alias | None = None
    """Of a recovery."""
    preserved: bool | None = None
    sample_percent: Percent | None = None
    """Of a verification: of the point's blocks, chosen at random by the job's id. None: all."""


class DiskTotals(Message):
    """One disk's part of a cycle in totals."""

    disk: DiskId
    rung: Rung
    reason: Reason
    to_read_bytes: Count = 0
    read_bytes: Count = 0
    changed_bytes: Count = 0
    zero_bytes: Count = 0
    sealed_bytes: Count = 0
    wire_bytes: Count = 0
    resumed_bytes: Count = 0
    untracked_bytes: Count | None = None
    """Of a cycle against the source: what differed where its tracking told of no change. None: nobody asked that."""


class Progress(Message):
    """How far a job is. `counter` grows with whatever is got done: bytes, records, answers."""

    stage: Stage | None = None
    counter: Count = 0
    done_bytes: Count = 0
    total_bytes: Count = 0
    disks: Annotated[tuple[DiskTotals, ...], Field(max_length=MAX_DISKS)] = ()
    applied_bytes: Count = 0
    to_apply_bytes: Count = 0


class JobResult(StrEnum):
    """What a job came to, as its node says."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class PointVerdict(StrEnum):
    """What became of one point of an expire, verify or recover job."""

    DONE = "done"
    KEPT = "kept"
    """The connector's own retention keeps it, whoever asks."""
    BUSY = "busy"
    """It is being recovered or verified."""
    UNKNOWN = "unknown"


class PointOutcome(Message):
    """One point's."""

    point: PointId
    verdict: PointVerdict
    kept_until: Moment | None = None
    """Of a point that is kept: it is too young to go before this. None: what keeps it has no end that is known."""


class Outcome(Message):
    """The end of one attempt at a job. Saying it again changes nothing."""

    epoch: Epoch
    result: JobResult
    problem: Problem | None = None
    point: PointId | None = None
    source_time: Moment | None = None
    progress: Progress = Progress()
    seconds: dict[Stage, Duration] = Field(default_factory=dict)
    points: Annotated[tuple[PointOutcome, ...], Field(max_length=MAX_EXPIRING)] = ()
    epoch_floor: Count = 0
    """The group's epoch as its connector knows it: the control plane goes on above it."""


class JobView(Message):
    """A job as operators see it."""

    id: UUID
    kind: JobKind
    state: JobState
    plan: PlanId | None
    plan_name: Label | None
    group: GroupId | None
    machines: tuple[Label, ...]
    cycle: CycleId | None
    node: NodeIdText | None
    """Who has or had it last."""
    epoch: Count
    attempts: Count
    offline: bool
    """Run by its appliance while it could not reach the control plane."""
    due_at: Moment
    started_at: Moment | None
    ended_at: Moment | None
    cancelling: bool
    against_source: bool = False
    """A cycle that verifies: it compares whole disks, and what their sources' tracking says."""
    sample_percent: Percent | None = None
    """Of a verification that reads a sample only."""
    progress: Progress
    rate_bytes_s: Duration | None
    eta_s: Duration | None
    problem: Problem | None
    point: PointId | None
    """The one that a cycle made, or that a connector's job is about, if it is about one."""
    to: Alias | None = None
    """Where a recovery goes to: the connector's own name for it."""
    source_time: Moment | None
    seconds: dict[Stage, Duration]
    points: tuple[PointOutcome, ...]


class JobsReply(Message):
    """Jobs, newest first, without their disks' totals; `more` if there are older ones."""

    jobs: tuple[JobView, ...]
    more: bool
