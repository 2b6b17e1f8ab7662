"""What only the command line can be wrong about, and how it puts what the operating system or a fault of ours says."""

from dataclasses import dataclass

from dmcore.errors import ConfigurationError, DmcoreError, ExitCode, RefusedError


@dataclass(eq=False)
class NameUnknown(RefusedError):
    """No point, group or node begins with what the operator typed."""

    code = "name.unknown"
    template = "no {noun} {name!r}; `dmctl connector {listing}` lists them"
    noun: str
    name: str
    listing: str


@dataclass(eq=False)
class NameAmbiguous(RefusedError):
    """Several points, groups or nodes begin with what the operator typed."""

    code = "name.ambiguous"
    template = "{count} {noun}s begin with {name!r}: {some}; type more of the id"
    noun: str
    name: str
    count: int
    some: str


@dataclass(eq=False)
class Interrupted(DmcoreError):
    """The operator, or whoever runs the service, asked an appliance to stop in the middle of a cycle."""

    code = "cycle.interrupted"
    exit_code = ExitCode.INTERRUPTED
    permanent = False
    template = "stopped; cycle {cycle} goes on with its next attempt, or anew where the source keeps no snapshot"
    cycle: str


@dataclass(eq=False)
class SystemRefused(ConfigurationError):
    """The operating system said no: a permission, a full disk, an address that is taken."""

    code = "system.refused"
    template = "{problem}"
    problem: str


@dataclass(eq=False)
class UsageWrong(DmcoreError):
    """The command line is wrong, for a script that asked for JSON."""

    code = "usage"
    exit_code = ExitCode.USAGE
    template = "{problem}"
    problem: str


@dataclass(eq=False)
class Unexpected(DmcoreError):
    """An exception that nobody foresaw: a fault of dmcore."""

    code = "internal"
    template = "{kind}: {problem}; this is a fault of dmcore: run again with DMCTL_DEBUG=1 for the traceback"
    kind: str
    problem: str
