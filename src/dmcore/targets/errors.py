"""What can be wrong with the place that keeps shadows."""

from dataclasses import dataclass

from dmcore.errors import BusyError, ConfigurationError, TargetError


@dataclass(eq=False)
class TargetMissing(TargetError):
    """The folder or volume group is not there, or is not one."""

    code = "target.missing"
    template = "{path}: {problem}"
    path: str
    problem: str


@dataclass(eq=False)
class TargetInUse(BusyError):
    """Another connector has this target open."""

    code = "target.in-use"
    template = "{path}: in use by another connector; two must never write one shadow"
    path: str


@dataclass(eq=False)
class VolumeExists(TargetError):
    """A volume of this name is there already."""

    code = "target.volume-exists"
    template = "{path}: volume {volume} exists already"
    path: str
    volume: str


@dataclass(eq=False)
class VolumeMissing(TargetError):
    """No volume of this name."""

    code = "target.volume-missing"
    template = "{path}: no volume {volume}"
    path: str
    volume: str


@dataclass(eq=False)
class SnapshotMissing(TargetError):
    """No finished snapshot of this id."""

    code = "target.snapshot-missing"
    template = "{path}: no snapshot {snapshot}"
    path: str
    snapshot: str


@dataclass(eq=False)
class TargetIOFailed(TargetError):
    """A read, write or snapshot failed. Redo from the log may succeed once the cause is gone."""

    code = "target.io"
    permanent = False
    template = "{path}: {operation} at offset {offset}: {problem}"
    path: str
    operation: str
    offset: int
    problem: str


@dataclass(eq=False)
class FlushFailed(TargetError):
    """A sync failed: earlier writes may be lost. Never retried; the volume is reopened and redone."""

    code = "target.flush"
    permanent = False
    template = "{path}: sync failed: {problem}; earlier writes count as lost and are redone from the log"
    path: str
    problem: str


@dataclass(eq=False)
class TargetNameInvalid(TargetError):
    """A name that could leave the target's folder, or be taken for something else in it."""

    code = "target.name"
    template = "{path}: {name!r} names no volume, tag or snapshot; letters, digits, '.', '_' and '-' do, at most 100"
    path: str
    name: str


@dataclass(eq=False)
class TargetKindUnknown(ConfigurationError):
    """A target's alias names a kind that there is none of."""

    code = "target.kind"
    template = "target {path}: no kind {kind}; known are {known}"
    path: str
    kind: str
    known: str
