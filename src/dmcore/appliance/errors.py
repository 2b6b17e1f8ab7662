"""What ends a cycle at the appliance beside its source, the wire and the keys."""

from dataclasses import dataclass

from dmcore.errors import BusyError, ConfigurationError, DmcoreError, ExitCode, IntegrityError, RefusedError


@dataclass(eq=False)
class JobUnreadable(ConfigurationError):
    """A job file that is missing or no job."""

    code = "job.unreadable"
    template = "{path}: {problem}"
    path: str
    problem: str


@dataclass(eq=False)
class MachineUnknown(ConfigurationError):
    """A job names a machine that its source does not have."""

    code = "job.machine-unknown"
    template = "source {source} has no machine {machine}; it has: {known}"
    source: str
    machine: str
    known: str


@dataclass(eq=False)
class MachineUnfit(ConfigurationError):
    """A job names a machine that cannot be protected as it is."""

    code = "job.machine-unfit"
    template = "machine {machine} of source {source} cannot be protected: {problem}"
    source: str
    machine: str
    problem: str


@dataclass(eq=False)
class GroupUnfit(ConfigurationError):
    """A disk whose name, size or token cannot be told to a connector, or too many disks."""

    code = "job.group-unfit"
    template = "machines {machines} of source {source} cannot be protected together: {problem}"
    source: str
    machines: str
    problem: str


@dataclass(eq=False)
class ConnectorBusy(BusyError):
    """Another cycle of the group is rolling forward at the connector."""

    code = "cycle.connector-busy"
    template = "group {group}: the connector is still finishing another cycle; try again later"
    group: str


@dataclass(eq=False)
class EpochBehind(RefusedError):
    """The connector knows a later lease of the group: another node has it, or the control plane's database is old."""

    code = "cycle.epoch-behind"
    permanent = False
    template = "group {group}: this lease is epoch {epoch}, but the connector knows epoch {current}"
    group: str
    epoch: int
    current: int


@dataclass(eq=False)
class CycleFailed(IntegrityError):
    """The connector took the cycle but made no point of it."""

    code = "cycle.failed"
    permanent = False
    template = "cycle {cycle} ended as {phase}: {problem}"
    cycle: str
    phase: str
    problem: str


@dataclass(eq=False)
class ConnectorForgets(RefusedError):
    """The connector names durable blocks that this cycle never planned: it holds another cycle's."""

    code = "cycle.durable-differs"
    template = "disk {disk}: the connector holds {count} bytes of this cycle that it does not cover"
    disk: str
    count: int


@dataclass(eq=False)
class OpenedOtherwise(RefusedError):
    """The connector opened a disk as another than the one that `begin` has described."""

    code = "cycle.opened-otherwise"
    template = "disk {disk}: planned with {planned}, but the connector opened it with {opened}"
    disk: str
    planned: str
    opened: str


@dataclass(eq=False)
class Cancelled(DmcoreError):
    """The cycle was stopped from outside, or because another of its disks failed."""

    code = "cycle.cancelled"
    exit_code = ExitCode.INTERRUPTED
    permanent = False
    template = "cancelled: {problem}"
    problem: str
