"""Who operates the control plane: tokens and their roles, join tokens, the audit log, events."""

from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import Field

from dmcore.api.base import Count, Message, Moment
from dmcore.api.labels import Label, NodeIdText, Site
from dmcore.model.enums import Role
from dmcore.model.ids import GroupId, PlanId


class OperatorRole(StrEnum):
    """What a token's holder may do; each may what those before it may."""

    VIEWER = "viewer"
    """Look."""
    OPERATOR = "operator"
    """Plans, jobs; verify, recover and preserve points."""
    ADMIN = "admin"
    """Sites, nodes, tokens; delete points and plans."""


RANK = {role: number for number, role in enumerate(OperatorRole)}


class TokenSpec(Message):
    """A token to make for an operator or a script."""

    name: Label
    role: OperatorRole
    days: Annotated[int, Field(strict=True, ge=1, le=3650)] = 90


class TokenView(Message):
    """A token, without its secret."""

    id: UUID
    name: Label
    role: OperatorRole
    created_at: Moment
    expires_at: Moment
    revoked: bool
    used_at: Moment | None


class NewToken(TokenView):
    """The one answer that has the secret."""

    secret: str = Field(repr=False)


class JoinSpec(Message):
    """A join token to make: single use, an hour."""

    site: Site
    role: Role


class NewJoin(Message):
    """Give `token` to the node: `dmctl appliance enroll` or `dmctl connector enroll`."""

    token: str = Field(repr=False)
    expires_at: Moment


class Action(StrEnum):
    """What the audit log tells of."""

    TOKEN_CREATED = "token.created"  # noqa: S105 - an action's name
    TOKEN_REVOKED = "token.revoked"  # noqa: S105 - an action's name
    SITE_CREATED = "site.created"
    SITE_EDITED = "site.edited"
    JOIN_CREATED = "join.created"
    NODE_ENROLLED = "node.enrolled"
    NODE_REVOKED = "node.revoked"
    PLAN_CREATED = "plan.created"
    PLAN_EDITED = "plan.edited"
    PLAN_PAUSED = "plan.paused"
    PLAN_RESUMED = "plan.resumed"
    PLAN_DELETED = "plan.deleted"
    PLAN_RUN = "plan.run"
    JOB_CANCELLED = "job.cancelled"
    POINT_VERIFY = "point.verify"
    POINT_RECOVER = "point.recover"
    POINT_PRESERVE = "point.preserve"
    POINT_DELETE = "point.delete"
    INDEX_REBUILD = "index.rebuild"
    REFUSED = "refused"
    """Somebody known tried what their role may not."""


class AuditEntry(Message):
    """One line: who did what to what. Chained: each has the hash of the one before."""

    number: Count
    at: Moment
    actor: str
    action: Action
    object: str
    detail: dict[str, str]
    hash: str


class EventKind(StrEnum):
    """What operators should know of without asking."""

    RPO_BREACHED = "rpo.breached"
    RPO_KEPT = "rpo.kept"
    """A point is within the RPO again."""
    JOB_FAILED = "job.failed"
    JOB_STALLED = "job.stalled"
    LEASE_LOST = "lease.lost"
    NODE_CLONED = "node.cloned"
    CLOCK_SKEWED = "clock.skewed"
    EPOCH_BEHIND = "epoch.behind"
    """A connector knows a higher epoch than the database: it was restored from an older copy."""
    POINT_DAMAGED = "point.damaged"
    TRACKING_LIED = "tracking.lied"
    """A verification found bytes that had changed where the source's tracking told of no change: how many."""
    GROUP_PASSED_BY = "group.passed-by"
    """The scheduler could not deal with this group, or job: its log says why. The others went on."""


class Event(Message):
    """One of them."""

    number: Count
    at: Moment
    kind: EventKind
    plan: PlanId | None
    group: GroupId | None
    node: NodeIdText | None
    job: UUID | None
    value: Count
    """Seconds of lag, of skew, of a stall, bytes: what the kind speaks of."""


class TokensReply(Message):
    """Tokens, oldest first; `more` if there are others behind the last one."""

    tokens: tuple[TokenView, ...]
    more: bool = False


class AuditReply(Message):
    """Entries, newest first."""

    entries: tuple[AuditEntry, ...]
    more: bool


class EventsReply(Message):
    """Events, newest first."""

    events: tuple[Event, ...]
    more: bool


class Health(Message):
    """Whether it answers, and who it is. Needs no token."""

    control: UUID
    api: str
