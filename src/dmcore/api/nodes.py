"""What nodes and the control plane say to each other: enrolment, polls, heartbeats, plans, outcomes."""

from typing import Annotated
from uuid import UUID

from pydantic import FailFast, Field, StringConstraints

from dmcore.api.base import Count, Duration, Message, Moment
from dmcore.api.jobs import MAX_MACHINES, ConnectorJob, Job, Outcome, Progress
from dmcore.api.labels import Alias, Epoch, Label, NodeIdText, Site
from dmcore.api.limits import Limit
from dmcore.api.plans import Rpo
from dmcore.model.enums import Role
from dmcore.model.ids import CycleId, GroupId, PlanId

MAX_ALIASES = 256
MAX_BUSY = 256
MAX_OFFLINE = 100
MAX_WAIT_S = 30
MAX_GROUPS = 10_000
"""Of one appliance."""

Version = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z.+-]{1,32}$")]
Aliases = Annotated[tuple[Alias, ...], Field(max_length=MAX_ALIASES)]


class EnrollRequest(Message):
    """Signed with the key it brings, which proves that the sender has it."""

    secret: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{22,86}$")] = Field(repr=False)
    public_key: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/=]{64,512}$")]
    """SubjectPublicKeyInfo, DER, base64."""
    site: Site
    role: Role
    version: Version


class EnrollReply(Message):
    """The node is known from now on."""

    control: UUID
    node: NodeIdText
    ticket_key: Annotated[str, StringConstraints(max_length=1024)]
    """PEM; its fingerprint was in the join token."""


class PollRequest(Message):
    """A node asks for work. It waits up to `wait_s` for some."""

    incarnation: UUID
    """Of this process: a node that runs twice is found out by it."""
    version: Version
    sources: Aliases = ()
    targets: Aliases = ()
    recoveries: Aliases = ()
    busy: Annotated[tuple[GroupId, ...], Field(max_length=MAX_BUSY)] = ()
    """Groups that it has a cycle of, jobs of its own clock included."""
    slots: Annotated[int, Field(strict=True, ge=0, le=1024)] = 1
    """How many more it would take; 0: it only says that it lives."""
    plans_version: Count = 0
    wait_s: Annotated[float, Field(ge=0, le=MAX_WAIT_S)] = 0


class PollReply(Message):
    """At most one job, leased to the asker."""

    job: Job | None = None
    work: ConnectorJob | None = None
    lease_s: Duration = 60
    heartbeat_s: Duration = 15
    plans_version: Count
    """If it is not the asker's, the asker gets its plans anew."""


class AssignedGroup(Message):
    """A group that this appliance may run: enough to go on without a control plane."""

    plan: PlanId
    group: GroupId
    machines: Annotated[tuple[Label, ...], Field(max_length=MAX_MACHINES)]
    rpo_s: Rpo
    paused: bool
    limit: Limit


class AssignedPlans(Message):
    """All of a node's."""

    version: Count
    site_limit: Limit
    """This node's share of it."""
    groups: Annotated[tuple[AssignedGroup, ...], Field(max_length=MAX_GROUPS), FailFast()]
    """Refused at the first that is wrong: a list of all faults takes a hundred times the memory of the answer."""


class HeartbeatRequest(Message):
    """A node still has a job."""

    incarnation: UUID
    epoch: Epoch
    progress: Progress


class HeartbeatReply(Message):
    """Directives. A limit of None is none."""

    cancel: bool = False
    pause: bool = False
    limit: Limit
    site_limit: Limit
    lease_s: Duration = 60
    heartbeat_s: Duration = 15


class OutcomeRequest(Message):
    """An attempt is over."""

    incarnation: UUID
    outcome: Outcome


class OfflineCycle(Message):
    """A cycle that an appliance ran on its own clock."""

    plan: PlanId
    group: GroupId
    base_cycle: CycleId
    """The cycle of the ticket that it went on under."""
    successor: Annotated[int, Field(strict=True, ge=1, lt=1 << 32)]
    started_at: Moment
    ended_at: Moment
    outcome: Outcome


class OfflineReport(Message):
    """What an appliance did meanwhile."""

    cycles: Annotated[tuple[OfflineCycle, ...], Field(min_length=1, max_length=MAX_OFFLINE)]


class NodeView(Message):
    """A node as operators see it."""

    node: NodeIdText
    site: Site
    role: Role
    version: Version
    enrolled_at: Moment
    seen_at: Moment | None
    live: bool
    revoked: bool
    sources: Aliases
    targets: Aliases
    recoveries: Aliases


class NodesReply(Message):
    """Nodes, by site and role; `more` if there are others behind the last one."""

    nodes: tuple[NodeView, ...]
    more: bool = False
