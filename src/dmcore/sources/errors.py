"""What can be wrong with a protected disk."""

from dataclasses import dataclass
from typing import ClassVar

from dmcore.errors import ConfigurationError, SourceError
from dmcore.model.enums import Reason


@dataclass(eq=False)
class SourceMissing(SourceError):
    """A source, machine or disk is not there."""

    code = "source.missing"
    template = "{path}: no such source, machine or disk"
    path: str


@dataclass(eq=False)
class SourceUnfit(SourceError):
    """A disk that cannot be protected as it is: empty, no multiple of 512 bytes, no regular file."""

    code = "source.unfit"
    template = "{path}: {problem}"
    path: str
    problem: str


@dataclass(eq=False)
class SourceReadFailed(SourceError):
    """Reading failed or ended early."""

    code = "source.read"
    permanent = False
    template = "{path}: reading {length} bytes at offset {offset}: {problem}"
    path: str
    offset: int
    length: int
    problem: str


@dataclass(eq=False)
class SourceChanged(SourceError):
    """A disk that cannot be snapshotted changed while it was read. Its cycle is dropped; the next starts anew."""

    code = "source.changed"
    permanent = False
    template = (
        "{path}: changed while it was read ({problem}); "
        "stop its writer during a cycle, or use a file system with reflinks"
    )
    path: str
    problem: str


@dataclass(eq=False)
class SnapshotFailed(SourceError):
    """The source snapshot could not be made or removed."""

    code = "source.snapshot"
    permanent = False
    template = "{path}: snapshot {name}: {problem}"
    path: str
    name: str
    problem: str


@dataclass(eq=False)
class TrackingLost(SourceError):
    """The source cannot say what changed since a token. Never fatal: the disk goes one rung down."""

    code = "source.tracking-lost"
    template = "{path}: changes since {token} are not known: {problem}"
    path: str
    token: str
    problem: str
    reason: Reason = Reason.TRACKING_LOST

    permanent: ClassVar[bool] = True


@dataclass(eq=False)
class DiskWriteFailed(SourceError):
    """The tracked writer could not write. The journal may name the extent already; that costs a re-read."""

    code = "source.write"
    permanent = False
    template = "{path}: writing {length} bytes at offset {offset}: {problem}"
    path: str
    offset: int
    length: int
    problem: str


@dataclass(eq=False)
class JournalFailed(SourceError):
    """A journal of changes could not be made or shortened. What it says stays true."""

    code = "source.journal"
    permanent = False
    template = "{path}: {problem}"
    path: str
    problem: str


@dataclass(eq=False)
class JournalUnsound(SourceError):
    """A journal that says nothing about its disk as it is. Caught in the package: the disk is untracked."""

    code = "source.journal-unsound"
    template = "{path}: {problem}"
    path: str
    problem: str


@dataclass(eq=False)
class SourceKindUnknown(ConfigurationError):
    """A source's alias names a kind that there is none of."""

    code = "source.kind"
    template = "source {path}: no kind {kind}; known are {known}"
    path: str
    kind: str
    known: str
