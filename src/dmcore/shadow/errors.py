"""What can go wrong between a sealed batch and a recovery point."""

from dataclasses import dataclass

from dmcore.errors import BusyError, DmcoreError, IntegrityError, RefusedError, TargetError


@dataclass(eq=False)
class LogCorrupt(IntegrityError):
    """A staging log is damaged below what was acknowledged: never cut, never skipped. An operator must look."""

    code = "log.corrupt"
    template = "{path}: damaged at {position}, where {durable_to} bytes were durable; keep the files, find the cause"
    path: str
    position: int
    durable_to: int


@dataclass(eq=False)
class LogPoisoned(TargetError):
    """A write or sync of the log failed. Its file is read again from the medium before it is used again."""

    code = "log.poisoned"
    permanent = False
    template = "{path}: {problem}; unacknowledged batches are lost, open the disk again"
    path: str
    problem: str


@dataclass(eq=False)
class StagingFull(TargetError):
    """No room to stage."""

    code = "staging.full"
    permanent = False
    template = "{path}: staging needs {needed_bytes} bytes and {free_bytes} are free; free space or enlarge it"
    path: str
    needed_bytes: int
    free_bytes: int


@dataclass(eq=False)
class StagingReadOnly(TargetError):
    """The file system of the staging logs takes no writes: mounted so, or turned so by the kernel after an error."""

    code = "staging.read-only"
    permanent = False
    template = (
        "{path}: the file system is read-only; look for its errors in the kernel's log, repair it, mount it again"
    )
    path: str


@dataclass(eq=False)
class StateUnreadable(IntegrityError):
    """A state, point or map file is not what this version writes."""

    code = "state.unreadable"
    template = "{path}: {problem}"
    path: str
    problem: str


@dataclass(eq=False)
class PhaseImpossible(DmcoreError):
    """A cycle was to enter a phase that may not follow its own: a fault of dmcore, stopped before it was written."""

    code = "cycle.phase-impossible"
    template = "group {group}: a cycle cannot go from {before} to {after}; this is a fault of dmcore, please report it"
    group: str
    before: str
    after: str


@dataclass(eq=False)
class StaleEpoch(RefusedError):
    """An attempt that a newer one has fenced off."""

    code = "cycle.stale-epoch"
    template = "group {group}: epoch {epoch} is behind the current one, {current}, or another cycle's or node's"
    group: str
    epoch: int
    current: int


@dataclass(eq=False)
class GroupBusy(BusyError):
    """Another cycle of the group is past SEALED and still rolling forward."""

    code = "cycle.busy"
    template = "group {group}: cycle {cycle} is {phase}; try again when it is finished"
    group: str
    cycle: str
    phase: str


@dataclass(eq=False)
class CycleDropped(RefusedError):
    """The cycle was given up; a cycle of a new id takes its place."""

    code = "cycle.dropped"
    template = "group {group}: cycle {cycle} was dropped: {problem}"
    group: str
    cycle: str
    problem: str


@dataclass(eq=False)
class CycleUnknown(RefusedError):
    """A message about a cycle or disk that is not being received."""

    code = "cycle.unknown"
    template = "group {group}: {problem}"
    group: str
    problem: str


@dataclass(eq=False)
class SizeChanged(RefusedError):
    """A disk has another size or block size than its shadow: grown ones are compared, shrunk ones are new disks."""

    code = "disk.size-changed"
    template = "disk {disk}: {was} bytes in the shadow, {now} in the plan, which is no compare of a disk that has grown"
    disk: str
    was: int
    now: int


@dataclass(eq=False)
class BaseDiffers(RefusedError):
    """A cycle was planned on an image that the shadow does not hold."""

    code = "disk.base-differs"
    template = "disk {disk}: planned on image {planned}, the shadow holds {held}"
    disk: str
    planned: str
    held: str


@dataclass(eq=False)
class StreamRefused(RefusedError):
    """A stream header that is not of the attempt, disk and cycle it was opened for, or whose salt was seen before."""

    code = "stream.refused"
    template = "disk {disk}: stream refused: {problem}"
    disk: str
    problem: str


@dataclass(eq=False)
class BlockRepeated(IntegrityError):
    """A frame over a block that this cycle's coverage has already."""

    code = "stream.block-repeated"
    template = "disk {disk}: batch {batch} covers bytes at offset {offset} a second time"
    disk: str
    batch: int
    offset: int


@dataclass(eq=False)
class CoverageDiffers(IntegrityError):
    """`commit` names other coverage than what is durable, or leaves unknown blocks out."""

    code = "commit.coverage"
    permanent = False
    template = "disk {disk}: {problem}"
    disk: str
    problem: str


@dataclass(eq=False)
class PointUnknown(RefusedError):
    """No such recovery point in this connector's catalogue."""

    code = "point.unknown"
    template = "no recovery point {point}; `dmctl connector points` lists them"
    point: str


@dataclass(eq=False)
class PointNotVerifiable(RefusedError):
    """Nobody knows any more which digests a point was committed with."""

    code = "point.not-verifiable"
    template = "point {point} cannot be verified: {why}; a newer one can"
    point: str
    why: str


@dataclass(eq=False)
class ExpiryFailed(TargetError):
    """A point could not be removed, or not yet all of it. It stays listed."""

    code = "point.expiry-failed"
    permanent = False
    template = "point {point} was not removed: {problem}; it stays listed, and asking again goes on"
    point: str
    problem: str


@dataclass(eq=False)
class PointDamaged(IntegrityError):
    """Blocks of a point are not what was committed."""

    code = "point.damaged"
    template = (
        "point {point}: {blocks} blocks are not what was committed, {marked} are marked to be sent again; {where}"
    )
    point: str
    blocks: int
    marked: int
    """Of these: the newest shadow should be the same there."""
    where: str
    """Disks and offsets; this never leaves the data plane."""
