"""Which rung of the resync ladder each disk is taken on, and why: the cheapest that is safe."""

from dataclasses import dataclass

import structlog

from dmcore.blocks import extents as ex
from dmcore.blocks.extents import Extents
from dmcore.blocks.grid import Grid
from dmcore.errors import SourceError
from dmcore.model.enums import Reason, Rung
from dmcore.sources.base import SnapshotDisk
from dmcore.sources.errors import TrackingLost
from dmcore.wire.messages import DiskState

log = structlog.get_logger()

LADDER = [Rung.DELTA, Rung.COMPARE, Rung.SEED]


@dataclass(frozen=True)
class RungChoice:
    """A disk's rung. `extents` is what it must look at, on the grid: a delta's changes, else the whole disk."""

    rung: Rung
    reason: Reason
    extents: Extents
    tracked: Extents | None = None
    """Of a compare against the source: what its tracking says has changed, on the grid."""


def choose(disk: SnapshotDisk, held: DiskState | None, grid: Grid, wish: Rung | None) -> RungChoice:
    """The rung of one disk. A source error that may mean "tracking lost" costs one rung, never the machine."""
    whole = ex.whole(grid.disk_bytes)
    if held is None:
        return RungChoice(Rung.SEED, Reason.NO_IMAGE, whole)
    why = _why_not_delta(disk, held, wish)
    if why is not None or held.token is None:
        return RungChoice(Rung.COMPARE, why or Reason.NO_TOKEN, whole)
    try:
        return RungChoice(Rung.DELTA, Reason.TRACKED, grid.align(disk.changed_since(held.token)))
    except TrackingLost as lost:
        log.warning("tracking lost", disk=disk.info.label, reason=lost.reason, problem=str(lost))
        return RungChoice(Rung.COMPARE, lost.reason, whole)
    except SourceError as error:
        log.warning("tracking failed", disk=disk.info.label, code=error.code, problem=str(error))
        return RungChoice(Rung.COMPARE, Reason.TRACKING_LOST, whole)


def choose_against_source(disk: SnapshotDisk, held: DiskState | None, grid: Grid) -> RungChoice:
    """A compare that knows, too, what a delta would have carried; where there could be none, as `choose`."""
    choice = choose(disk, held, grid, None)
    if choice.rung is not Rung.DELTA:
        return choice
    return RungChoice(Rung.COMPARE, Reason.REQUESTED, ex.whole(grid.disk_bytes), choice.extents)


def _why_not_delta(disk: SnapshotDisk, held: DiskState, wish: Rung | None) -> Reason | None:
    """What rules a delta out before the source is asked."""
    if held.disk_bytes != disk.info.disk_bytes:
        return Reason.RESIZED
    return Reason.REQUESTED if wish is not None and LADDER.index(wish) > LADDER.index(Rung.DELTA) else None
