"""A target whose named calls fail a named number of times: `Target`, `Readable` and `Volume` share one plan."""

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

from dmcore.blocks.extents import Extents
from dmcore.native.batches import Patched
from dmcore.targets.base import Readable, Target, TargetCaps, Volume
from tests.fault_plan import FaultPlan


class FaultyImage:
    def __init__(self, inner: Readable, plan: FaultPlan) -> None:
        self._readable = inner
        self._plan = plan

    @property
    def disk_bytes(self) -> int:
        return self._readable.disk_bytes

    def read_into(self, offset: int, buffer: Buffer) -> None:
        self._plan.reach("read_into")
        self._readable.read_into(offset, buffer)

    def allocated(self) -> Extents:
        self._plan.reach("allocated")
        return self._readable.allocated()

    def close(self) -> None:
        self._readable.close()


class FaultyVolume(FaultyImage):
    def __init__(self, inner: Volume, plan: FaultPlan) -> None:
        super().__init__(inner, plan)
        self._inner = inner

    def patch(self, rows: NDArray[np.int64], raw: Buffer) -> Patched:
        self._plan.reach("patch")
        return self._inner.patch(rows, raw)

    def flush(self) -> None:
        self._plan.reach("flush")
        self._inner.flush()


class FaultyTarget:
    """Wraps any target. `plan.fail("patch", error, times=2, after=1)` arms it; call `plan.verify_exercised()` last."""

    def __init__(self, inner: Target) -> None:
        self._inner = inner
        self.plan = FaultPlan()

    @property
    def caps(self) -> TargetCaps:
        return self._inner.caps

    def create(self, volume: str, disk_bytes: int) -> None:
        self.plan.reach("create")
        self._inner.create(volume, disk_bytes)

    def open(self, volume: str) -> FaultyVolume:
        self.plan.reach("open")
        return FaultyVolume(self._inner.open(volume), self.plan)

    def grow(self, volume: str, disk_bytes: int) -> None:
        self.plan.reach("grow")
        self._inner.grow(volume, disk_bytes)

    def volumes(self) -> list[str]:
        self.plan.reach("volumes")
        return self._inner.volumes()

    def delete(self, volume: str) -> None:
        self.plan.reach("delete")
        self._inner.delete(volume)

    def free_bytes(self) -> int:
        self.plan.reach("free_bytes")
        return self._inner.free_bytes()

    def snapshot(self, volume: str, tag: str) -> str:
        self.plan.reach("snapshot")
        return self._inner.snapshot(volume, tag)

    def open_snapshot(self, snapshot: str) -> FaultyImage:
        self.plan.reach("open_snapshot")
        return FaultyImage(self._inner.open_snapshot(snapshot), self.plan)

    def snapshots(self) -> list[str]:
        self.plan.reach("snapshots")
        return self._inner.snapshots()

    def delete_snapshot(self, snapshot: str) -> None:
        self.plan.reach("delete_snapshot")
        self._inner.delete_snapshot(snapshot)

    def close(self) -> None:
        self._inner.close()
