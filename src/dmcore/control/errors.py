"""What the control plane refuses. Each becomes an HTTP status (`status`) and a body of code, message, correlation."""

from dataclasses import dataclass
from typing import ClassVar

from dmcore.errors import BusyError, ConfigurationError, RefusedError, TrustError


@dataclass(eq=False)
class NotAuthenticated(TrustError):
    """No token, or none that is known, fresh and not revoked. Which of these is in the log only."""

    code = "auth.required"
    status: ClassVar[int] = 401
    template = "no valid token; `dmctl login` with one"


@dataclass(eq=False)
class ClockSkewed(TrustError):
    """A node's signature is from another time. Its client measures the skew by the answer's Date and tries again."""

    code = "clock.skewed"
    status: ClassVar[int] = 401
    template = "the request was signed {skew_s} seconds from this clock; set the node's clock"
    skew_s: int


@dataclass(eq=False)
class SignatureRefused(TrustError):
    """A node's request that its key did not sign, or signed for another request, or that came before."""

    code = "auth.signature"
    status: ClassVar[int] = 401
    template = "the request's signature is not valid: {problem}"
    problem: str


@dataclass(eq=False)
class NodeRevoked(TrustError):
    """The node was revoked, or was never enrolled here."""

    code = "node.unknown"
    status: ClassVar[int] = 401
    template = "node {node} is not enrolled here, or revoked; enroll it with a new join token"
    node: str


@dataclass(eq=False)
class NodeSuperseded(RefusedError):
    """A later process with the same key has polled: a restart, or a clone. The earlier one must stop."""

    code = "node.superseded"
    status: ClassVar[int] = 409
    template = "another process runs as node {node}: stop one of them; a cloned machine needs an enrolment of its own"
    node: str


@dataclass(eq=False)
class JoinRefused(TrustError):
    """A join token that is unknown, used, expired, or for another site or role."""

    code = "join.refused"
    status: ClassVar[int] = 403
    template = "the join token is not valid here, is used up or expired, or is for another site or role; make a new one"


@dataclass(eq=False)
class RoleMissing(RefusedError):
    """A token whose role may not do this."""

    code = "auth.role"
    status: ClassVar[int] = 403
    template = "this needs the role {needed}; the token's is {held}"
    needed: str
    held: str


@dataclass(eq=False)
class NotFound(RefusedError):
    """No such site, plan, job, point, node or token."""

    code = "object.unknown"
    status: ClassVar[int] = 404
    template = "there is no {noun} {name}"
    noun: str
    name: str


@dataclass(eq=False)
class NameTaken(RefusedError):
    """Another one has this name."""

    code = "name.taken"
    status: ClassVar[int] = 409
    template = "there is a {noun} {name} already"
    noun: str
    name: str


@dataclass(eq=False)
class AliasNowhere(RefusedError):
    """No live node has told of such an alias."""

    code = "alias.nowhere"
    status: ClassVar[int] = 409
    template = "no enrolled {role} has a {noun} {alias!r}; enroll it and start it first: it tells what it has"
    role: str
    noun: str
    alias: str


@dataclass(eq=False)
class AliasAmbiguous(RefusedError):
    """Several sites or connectors have an alias of this name."""

    code = "alias.ambiguous"
    status: ClassVar[int] = 409
    template = "{noun} {alias!r} is known at {where}; name one with {option}"
    noun: str
    alias: str
    where: str
    option: str


@dataclass(eq=False)
class MachineProtected(RefusedError):
    """Another plan has this machine."""

    code = "machine.protected"
    status: ClassVar[int] = 409
    template = "machine {machine!r} is protected by plan {plan!r} already; take it out there first"
    machine: str
    plan: str


@dataclass(eq=False)
class StateConflict(RefusedError):
    """What was asked for cannot be done to an object in this state."""

    code = "state.conflict"
    status: ClassVar[int] = 409
    template = "{noun} {name} is {state}: {problem}"
    noun: str
    name: str
    state: str
    problem: str


@dataclass(eq=False)
class LeaseLost(RefusedError):
    """A node speaks of a job under an epoch that is not the job's, or after its end."""

    code = "lease.lost"
    status: ClassVar[int] = 409
    template = "job {job} is not leased to this node under epoch {epoch}; stop, and keep the source snapshot"
    job: str
    epoch: int


@dataclass(eq=False)
class RequestInvalid(RefusedError):
    """A body, path or query that the API does not have."""

    code = "request.invalid"
    status: ClassVar[int] = 422
    template = "{problem}"
    problem: str


@dataclass(eq=False)
class VersionRefused(RefusedError):
    """A client of another major version, or of a newer or much older minor one."""

    code = "api.version"
    status: ClassVar[int] = 426
    template = "API version {asked} is not served here; this is {served}: upgrade the older side"
    asked: str
    served: str


@dataclass(eq=False)
class StoreBusy(BusyError):
    """The database is locked, restarting or gone. Nothing was done, unless it went away while it committed."""

    code = "store.busy"
    status: ClassVar[int] = 503
    template = "the database does not answer now; try again"


@dataclass(eq=False)
class StoreFull(ConfigurationError):
    """The database cannot write: its disk is full, or it is read-only."""

    code = "store.full"
    status: ClassVar[int] = 507
    template = "the database cannot be written (its disk is full, or it is read-only); nothing was changed"


@dataclass(eq=False)
class StoreOutdated(ConfigurationError):
    """The database's schema is not this version's."""

    code = "store.schema"
    status: ClassVar[int] = 503
    template = "the database is at schema {found}, this version needs {needed}; run `dmctl control upgrade`"
    found: str
    needed: str


@dataclass(eq=False)
class StoreNewer(ConfigurationError):
    """The database's schema was made by a later version."""

    code = "store.newer"
    status: ClassVar[int] = 503
    template = "the database is at schema {found}, which this version does not know; install the version that made it"
    found: str


@dataclass(eq=False)
class StoreRefused(ConfigurationError):
    """PostgreSQL is there, and does not let this control plane in."""

    code = "store.refused"
    status: ClassVar[int] = 503
    template = (
        "the database refuses this control plane: {problem}; check `database` in its settings, then PGPASSWORD or"
        " ~/.pgpass, then the server's pg_hba.conf"
    )
    problem: str


@dataclass(eq=False)
class StoreInUse(BusyError):
    """A control plane works with the database whose tables should be changed."""

    code = "store.in-use"
    status: ClassVar[int] = 503
    template = "a control plane works with this database; stop every replica of it, then run this again"
