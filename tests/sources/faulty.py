"""A source whose named calls fail a named number of times: source, snapshots and disks share one plan."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from typing_extensions import Buffer

from dmcore.blocks.extents import Extents
from dmcore.model.enums import Consistency
from dmcore.sources.base import DiskInfo, MachineInfo, SnapshotDisk, Source, SourceCaps, SourceSnapshot
from tests.fault_plan import FaultPlan


class FaultyDisk:
    def __init__(self, inner: SnapshotDisk, plan: FaultPlan) -> None:
        self._inner = inner
        self._plan = plan

    @property
    def info(self) -> DiskInfo:
        return self._inner.info

    @property
    def next_token(self) -> str | None:
        return self._inner.next_token

    def allocated(self) -> Extents:
        self._plan.reach("allocated")
        return self._inner.allocated()

    def changed_since(self, token: str) -> Extents:
        self._plan.reach("changed_since")
        return self._inner.changed_since(token)

    def read_into(self, offset: int, buffer: Buffer) -> None:
        self._plan.reach("read_into")
        self._inner.read_into(offset, buffer)


class FaultySnapshot:
    def __init__(self, inner: SourceSnapshot, plan: FaultPlan) -> None:
        self._inner = inner
        self._plan = plan
        self._disks = {key: FaultyDisk(disk, plan) for key, disk in inner.disks.items()}

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def identity(self) -> str:
        return self._inner.identity

    @property
    def taken_at(self) -> datetime:
        return self._inner.taken_at

    @property
    def consistency(self) -> Consistency:
        return self._inner.consistency

    @property
    def disks(self) -> Mapping[tuple[str, str], SnapshotDisk]:
        return self._disks

    def check_still_valid(self) -> None:
        self._plan.reach("check_still_valid")
        self._inner.check_still_valid()

    def close(self) -> None:
        self._inner.close()


class FaultySource:
    """Wraps any source. `plan.fail("read_into", error, times=2, after=1)` arms it; `plan.verify_exercised()` last."""

    def __init__(self, inner: Source) -> None:
        self._inner = inner
        self.plan = FaultPlan()

    @property
    def caps(self) -> SourceCaps:
        return self._inner.caps

    def machines(self) -> list[MachineInfo]:
        self.plan.reach("machines")
        return self._inner.machines()

    def snapshot(self, machines: Sequence[str], name: str) -> FaultySnapshot:
        self.plan.reach("snapshot")
        return FaultySnapshot(self._inner.snapshot(machines, name), self.plan)

    def find_snapshot(self, name: str) -> FaultySnapshot | None:
        self.plan.reach("find_snapshot")
        found = self._inner.find_snapshot(name)
        return None if found is None else FaultySnapshot(found, self.plan)

    def delete_snapshot(self, name: str) -> None:
        self.plan.reach("delete_snapshot")
        self._inner.delete_snapshot(name)

    def snapshots(self) -> list[str]:
        self.plan.reach("snapshots")
        return self._inner.snapshots()

    def release(self, machine: str, disk: str, token: str) -> None:
        self.plan.reach("release")
        self._inner.release(machine, disk, token)

    def close(self) -> None:
        self._inner.close()
