"""What a connector refuses beside trust (trust_errors.py) and what its shadows refuse (shadow/errors.py)."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dmcore.errors import (
    BusyError,
    ConfigurationError,
    ConnectionFailed,
    DmcoreError,
    ExitCode,
    RefusedError,
    TargetError,
)


@dataclass(eq=False)
class GroupBroken(ConfigurationError):
    """A group could not be opened at start; the log says why, and so does this."""

    code = "connector.group-broken"
    template = "group {group} is not served: {problem}"
    group: str
    problem: str


@dataclass(eq=False)
class NotBegun(RefusedError):
    """A message about a cycle on a connection that has not begun it, or from another node than did."""

    code = "cycle.not-begun"
    template = "{problem}"
    problem: str


@dataclass(eq=False)
class ConnectorNotRunning(ConnectionFailed):
    """Nobody answers on the connector's local socket."""

    code = "connector.not-running"
    template = "{path}: no connector answers ({problem}); start it with `dmctl connector serve`"
    path: str
    problem: str


@dataclass(eq=False)
class RecoveryRefused(TargetError):
    """Where a point should be recovered to is not free, or cannot be written."""

    code = "recover.refused"
    template = "{path}: {problem}"
    path: str
    problem: str


@dataclass(eq=False)
class OperationMalformed(RefusedError):
    """A line on the local socket that is no request of this version."""

    code = "operator.malformed"
    template = "the connector does not know this request ({problem}); are dmctl and the connector of one version?"
    problem: str


@dataclass(eq=False)
class OperationRefused(RefusedError):
    """What the connector answered to its operator. Its code, exit code and permanence stand in for this class's own."""

    code = "operator.refused"
    template = "{message}"
    message: str
    connector_code: str
    connector_exit_code: ExitCode
    connector_permanent: bool

    def __post_init__(self) -> None:
        vars(self).update(
            code=self.connector_code, exit_code=self.connector_exit_code, permanent=self.connector_permanent
        )

    @classmethod
    def of(cls, fields: dict[str, Any]) -> "OperationRefused":
        """The error of an answer."""
        return cls(
            str(fields["message"]), str(fields["code"]), ExitCode(fields["exit_code"]), bool(fields["permanent"]),
            correlation=str(fields["correlation"]),
        )  # fmt: skip


@dataclass(eq=False)
class ListenFailed(ConfigurationError):
    """An address or path that this connector should listen on cannot be had."""

    code = "connector.listen"
    template = "cannot listen on {address}: {problem}; stop what uses it, or change the configuration"
    address: str
    problem: str


@dataclass(eq=False)
class PointKept(RefusedError):
    """A point that this connector's own rules keep, whoever asks for its removal."""

    code = "point.kept"
    template = "point {point} stays: {why}"
    point: str
    why: str
    until: datetime | None = field(default=None, kw_only=True)
    """Before this it will not go; None: nobody knows when it may."""


@dataclass(eq=False)
class PointBusy(BusyError):
    """A point that is being verified, recovered, published or removed."""

    code = "point.busy"
    template = "point {point} is being {doing}; try again when that is done"
    point: str
    doing: str


@dataclass(eq=False)
class JobCancelled(ConnectionFailed):
    """The control plane, or this connector's end, stops a job. What it had half made is removed."""

    code = "job.cancelled"
    template = "job {job} was stopped"
    job: str


@dataclass(eq=False)
class JobMalformed(RefusedError):
    """A job that lacks what its kind needs."""

    code = "job.malformed"
    template = "job {job}: {problem}"
    job: str
    problem: str


@dataclass(eq=False)
class ClockJumped(ConfigurationError):
    """The clock is more than a day ahead of what it should be: no point expires until an operator has looked."""

    code = "clock.jumped"
    template = "the clock says {now}, but was last seen at {seen}: nothing expires; if {now} is right, remove {path}"
    now: str
    seen: str
    path: str


@dataclass(eq=False)
class TicketKeyMissing(ConfigurationError):
    """This connector knows no key that tickets are to be signed with."""

    code = "ticket.no-key"
    template = (
        "no control plane's key is known here: enroll this connector (`dmctl connector enroll`), or set "
        "control.ticket_key to the PEM file of the key"
    )


@dataclass(eq=False)
class ConnectorFault(DmcoreError):
    """Something that this connector did not expect: a bug. Its log has the traceback under the correlation id."""

    code = "connector.fault"
    template = "unexpected {problem} at the connector; its log has more under {correlation}"
    problem: str


@dataclass(eq=False)
class OperationAbandoned(ConnectionFailed):
    """The operator went away, or the connector stops, before a request was done. What it had half made is removed."""

    code = "operator.abandoned"
    template = "the request was abandoned: {problem}"
    problem: str
