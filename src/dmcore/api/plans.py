"""Sites and plans as operators define and see them."""

from enum import StrEnum
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import Field, model_validator

from dmcore.api.base import Count, Duration, Message, Moment
from dmcore.api.jobs import MAX_MACHINES, Codec
from dmcore.api.labels import Alias, Label, NodeIdText, Site
from dmcore.api.limits import NO_LIMIT, Limit
from dmcore.model.enums import Rung
from dmcore.model.ids import GroupId, PlanId, PointId
from dmcore.model.jobs import JobState

MIN_RPO_S, MAX_RPO_S = 5, 30 * 86_400


class GroupMode(StrEnum):
    """Which of a plan's machines commit together."""

    MACHINE = "machine"
    """Each alone."""
    PLAN = "plan"
    """All."""


class Tier(Message):
    """Of the points younger than `for_s`, one every `every_s` is kept."""

    every_s: Annotated[int, Field(strict=True, ge=1, le=366 * 86_400)]
    for_s: Annotated[int, Field(strict=True, ge=60, le=3660 * 86_400)]

    @model_validator(mode="after")
    def _keeps_something(self) -> Self:
        if self.every_s > self.for_s:
            raise ValueError("a tier that keeps one point every so often must last at least that long")
        return self


DEFAULT_TIERS = (Tier(every_s=600, for_s=3600), Tier(every_s=3600, for_s=86_400), Tier(every_s=86_400, for_s=604_800))
"""Ten-minute points for an hour, hourly for a day, daily for a week."""

Retain = Annotated[tuple[Tier, ...], Field(min_length=1, max_length=8)]
Machines = Annotated[tuple[Label, ...], Field(min_length=1, max_length=MAX_MACHINES)]
Rpo = Annotated[int, Field(strict=True, ge=MIN_RPO_S, le=MAX_RPO_S)]


class SiteSpec(Message):
    """A place where nodes live."""

    name: Site
    limit: Limit = NO_LIMIT
    """Of all that its appliances send together."""


class SiteEdit(Message):
    """What may be changed of a site."""

    limit: Limit


class SiteView(SiteSpec):
    """A site and what is there."""

    appliances: Count
    connectors: Count


class Verify(Message):
    """How much of its groups' newest points a plan has verified, as samples of random blocks."""

    percent_per_day: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = 0.0
    """0: nothing by itself."""


NO_VERIFY = Verify()


class PlanSpec(Message):
    """What to protect, where to, how often. Site and connector may be left out where the alias names only one."""

    name: Label
    source: Alias
    target: Alias
    machines: Machines
    rpo_s: Rpo
    site: Site | None = None
    connector: NodeIdText | None = None
    codec: Codec = Codec.LZ4
    group_mode: GroupMode = GroupMode.MACHINE
    retain: Retain = DEFAULT_TIERS
    limit: Limit = NO_LIMIT
    verify: Verify = NO_VERIFY

    @model_validator(mode="after")
    def _no_machine_twice(self) -> Self:
        if len(set(self.machines)) < len(self.machines):
            raise ValueError("a machine is named twice")
        return self


class PlanEdit(Message):
    """What may be changed of a plan; what is left out stays. Source, target and grouping stay for good."""

    name: Label | None = None
    machines: Machines | None = None
    rpo_s: Rpo | None = None
    codec: Codec | None = None
    retain: Retain | None = None
    limit: Limit | None = None
    verify: Verify | None = None


class GroupView(Message):
    """How a group of a plan is doing. Lag, backlog and ETA are three numbers."""

    id: GroupId
    machines: tuple[Label, ...]
    epoch: Count
    last_point: PointId | None
    last_point_time: Moment | None
    lag_s: Duration | None
    """How old the newest point is; None: there is none yet."""
    breached: bool
    """Older than the RPO, or no point within an RPO of the plan's making."""
    next_start: Moment | None
    """None while a job is in flight."""
    job: UUID | None
    """The one in flight."""
    job_state: JobState | None
    backlog_bytes: Count | None
    """What the running cycle has still to read; None: nothing runs, or it is not known yet."""
    eta_s: Duration | None
    achievable_rpo_s: Duration | None
    """What the recent cycles could keep up with; None: too few."""
    problem: str | None
    """The code of the last job's error, if it failed."""


class PlanView(PlanSpec):
    """A plan as it is kept."""

    id: PlanId
    site: Site
    connector: NodeIdText
    paused: bool
    created_at: Moment
    groups: tuple[GroupView, ...]


class PlanStatus(Message):
    """A plan's line of `dmctl status`."""

    id: PlanId
    name: Label
    paused: bool
    rpo_s: int
    groups: Count
    running: Count
    lag_s: Duration | None
    """Of the group that is furthest behind."""
    last_point_time: Moment | None
    breached: Count
    achievable_rpo_s: Duration | None
    problems: tuple[str, ...]
    """Codes, each once."""


class NodeStatus(Message):
    """A node's line of `dmctl status`."""

    node: NodeIdText
    site: Site
    role: str
    live: bool
    seen_at: Moment | None


class Status(Message):
    """One screen: what is going on, and what is wrong."""

    now: Moment
    plans: tuple[PlanStatus, ...]
    """By name."""
    more_plans: bool = False
    nodes: tuple[NodeStatus, ...]
    """By site."""
    more_nodes: bool = False
    queued: Count
    running: Count


class SitesReply(Message):
    """All sites."""

    sites: tuple[SiteView, ...]


class PlansReply(Message):
    """Plans, by name; `more` if there are others behind the last one."""

    plans: tuple[PlanView, ...]
    more: bool = False


class RunRequest(Message):
    """Run a plan's groups now, all or those named; RPO or not."""

    groups: Annotated[tuple[GroupId, ...], Field(max_length=MAX_MACHINES)] = ()
    resync: Literal[Rung.COMPARE] | None = None
    """Compare whole disks, whatever is tracked."""
    against_source: bool = False
    """Compare whole disks, and tell what their sources' tracking has missed."""
