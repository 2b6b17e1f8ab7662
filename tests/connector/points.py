"""Points that no cycle has made, for tests of what is done about points."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from dmcore.api.points import PointFact
from dmcore.connector.facts import fact_of
from dmcore.connector.retention import Held
from dmcore.model.enums import Consistency, Reason, Rung, SnapshotKind
from dmcore.model.ids import CycleId, DiskId, GroupId, PlanId, point_id
from dmcore.shadow.points import Point, PointDisk, PointFlags

START = datetime(2026, 5, 1, 12, tzinfo=UTC)
GROUP, PLAN = GroupId(UUID(int=2)), PlanId(UUID(int=1))


def disk(number: int, rung: Rung = Rung.SEED) -> PointDisk:
    disk_id = DiskId(UUID(int=0xD000 + number))
    return PointDisk(
        disk=disk_id, machine="canary-machine", label="canary-label", disk_bytes=4096 * 77, block_bytes=4096,
        snapshot=f"{disk_id}@canary-snapshot", snapshot_kind=SnapshotKind.REFLINK, rung=rung, reason=Reason.NO_IMAGE,
        covered_bytes=4096 * 13,
    )  # fmt: skip


def a_point(number: int, hours: float = 0) -> Point:
    """The point of a cycle of this number, whose source snapshot was made so many hours after START."""
    cycle = CycleId(UUID(int=0xC000 + number))
    return Point(
        id=point_id(cycle, GROUP), plan=PLAN, group=GROUP, cycle=cycle, source_time=START + timedelta(hours=hours),
        consistency=Consistency.CRASH, target="shadows", disks=[disk(0), disk(1, Rung.DELTA)],
        lacking=["canary-lacking"],
    )  # fmt: skip


def held(number: int, hours: float = 0, **flags: object) -> Held:
    point = a_point(number, hours)
    return Held(point, PointFlags().model_copy(update=flags), point.source_time)


def a_fact(number: int, revision: int = 0) -> PointFact:
    return fact_of(a_point(number, number), PointFlags(revision=revision))
