"""What only the command line can be wrong about, and how it puts what the operating system or a fault of ours says."""

from dataclasses import dataclass

from dmcore.errors import ConfigurationError, DmcoreError, ExitCode, IntegrityError, RefusedError, TrustError


@dataclass(eq=False)
class NameUnknown(RefusedError):
    """Nothing has, or begins with, the name that the operator typed."""

    code = "name.unknown"
    template = "no {noun} {name!r}; `dmctl {listing}` lists them"
    noun: str
    name: str
    listing: str


@dataclass(eq=False)
class NameAmbiguous(RefusedError):
    """Several begin with what the operator typed."""

    code = "name.ambiguous"
    template = "{count} {noun}s begin with {name!r}: {some}; type more of the id"
    noun: str
    name: str
    count: int
    some: str


@dataclass(eq=False)
class NotLoggedIn(ConfigurationError):
    """A command for the control plane, and no profile."""

    code = "login.missing"
    template = "no control plane is known here ({path} is not there); `dmctl login URL` first"
    path: str


@dataclass(eq=False)
class FingerprintUnconfirmed(TrustError):
    """Nobody said that this certificate is the control plane's."""

    code = "login.unconfirmed"
    template = (
        "{url} shows the certificate {fingerprint}, and nobody confirmed it; compare it with what the control plane"
        " printed at its start, then give it with --fingerprint, or give --ca-file"
    )
    url: str
    fingerprint: str


@dataclass(eq=False)
class NotConfirmed(RefusedError):
    """What is lost for good is deleted only by who names it."""

    code = "delete.unconfirmed"
    template = "nothing was deleted: {noun} {name} was not confirmed; type {expected}, or give --yes"
    noun: str
    name: str
    expected: str


@dataclass(eq=False)
class WatchInterrupted(DmcoreError):
    """Ctrl-C while jobs were watched. They know nothing of it."""

    code = "watch.interrupted"
    exit_code = ExitCode.INTERRUPTED
    permanent = False
    template = "still under way: {jobs}; `dmctl job watch {first}` looks again, `dmctl job cancel {first}` ends it"
    jobs: str
    first: str


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


@dataclass(eq=False)
class AuditBroken(IntegrityError):
    """The audit log is not as it was written."""

    code = "audit.broken"
    template = "entry {number} of the audit log is missing or was changed; compare the database with its copies"
    number: int
