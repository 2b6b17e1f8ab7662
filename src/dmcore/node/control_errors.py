"""What can come between a node and its control plane, beside what any client meets (api/client_errors.py)."""

from dataclasses import dataclass

from dmcore.errors import ConfigurationError, RefusedError, TrustError

SUPERSEDED = "node.superseded"
"""The control plane's word for a process whose place another one has taken."""


@dataclass(eq=False)
class JoinElsewhere(TrustError):
    """The join token is for a node of another site or role."""

    code = "join.elsewhere"
    template = "this join token is for {wanted}, this node is {own}; make one for it with `dmctl join create`"
    wanted: str
    own: str


@dataclass(eq=False)
class EnrolledElsewhere(ConfigurationError):
    """The node belongs to another control plane already."""

    code = "enrolment.exists"
    template = (
        "this node is enrolled at control plane {control} ({url}); with --force it leaves that one, forgets its plans"
        " and reports nothing more to it"
    )
    control: str
    url: str


@dataclass(eq=False)
class EnrolmentBroken(TrustError):
    """What answered is not what the join token promised."""

    code = "enrolment.broken"
    template = "{url} is not the control plane that made this join token: {problem}; nothing was kept"
    url: str
    problem: str


@dataclass(eq=False)
class NotEnrolled(ConfigurationError):
    """The node has no control plane."""

    code = "enrolment.missing"
    template = "this node is not enrolled; `dmctl {role} enroll` with a token made by `dmctl join create`"
    role: str


@dataclass(eq=False)
class NodeReplaced(RefusedError):
    """A later process with this node's key has polled: a clone, since a restart would have ended this one."""

    code = "node.replaced"
    template = (
        "another process runs as node {node}, so this one stops. If a machine was cloned, delete the copy's state"
        " directory and enroll it as a node of its own"
    )
    node: str
