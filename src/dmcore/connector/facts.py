"""What the control plane is told of a point: no snapshot names, no sizes of disks, no labels."""

from dmcore.api.points import PointFact
from dmcore.model.points import PointState
from dmcore.shadow.points import Point, PointFlags


def fact_of(point: Point, flags: PointFlags) -> PointFact:
    """A point as it is now."""
    return PointFact(
        id=point.id, plan=point.plan, group=point.group, cycle=point.cycle, source_time=point.source_time,
        consistency=point.consistency, state=flags.state, disks=len(point.disks), lacking=len(point.lacking),
        rungs=tuple(sorted({disk.rung for disk in point.disks})), preserved=flags.preserved,
        verified_at=flags.verified_at, revision=flags.revision,
    )  # fmt: skip


def fact_of_gone(point: Point, flags: PointFlags) -> PointFact:
    """A point that was removed: newer than whatever was said of it before."""
    gone = {"state": PointState.EXPIRED, "revision": flags.revision + 1}
    return fact_of(point, flags).model_copy(update=gone)
