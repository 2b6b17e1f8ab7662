"""Removing a recovery point, in an order that any crash leaves to be finished (docs/staging-log.md, section 7).

Whether a point may go is decided before, by who calls this: it goes from the moment that it is marked.
"""

from collections.abc import Callable

from dmcore.errors import DmcoreError
from dmcore.shadow.errors import ExpiryFailed
from dmcore.shadow.points import Catalogue, Point, PointFlags
from dmcore.targets.base import Target

Gone = Callable[[Point, PointFlags], None]
"""Tells whoever keeps an index that a point is gone. Returns only when they have it; may be told again."""


def mark(catalogue: Catalogue, point: Point) -> None:
    """From here on it is no good point any more. Raises PointUnknown, StateUnreadable."""
    catalogue.change(point.id, expiring=True)


def finish(catalogue: Catalogue, target: Target, point: Point, gone: Gone) -> None:
    """Remove a marked point: its snapshots, then word of it, then itself. The same again after a crash.

    Raises:
        ExpiryFailed: it could not be done. If all its snapshots are still there, the mark is taken back.
    """
    try:
        for disk in point.disks:
            target.delete_snapshot(disk.snapshot)
        gone(point, catalogue.flags(point.id))
        catalogue.remove(point.id)
    except (DmcoreError, OSError) as error:
        if _is_whole(target, point):
            catalogue.change(point.id, expiring=False)
        raise ExpiryFailed(point=str(point.id), problem=str(error)) from error


def _is_whole(target: Target, point: Point) -> bool:
    try:
        return {disk.snapshot for disk in point.disks} <= set(target.snapshots())
    except (DmcoreError, OSError):
        return False
