"""A target in memory: the oracle of the contract suite, and a fast target for other tests."""

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

from dmcore.blocks import extents as ex
from dmcore.blocks.extents import Extents
from dmcore.model.enums import SnapshotKind
from dmcore.native.batches import Patched, ZeroMode
from dmcore.targets.base import TargetCaps
from dmcore.targets.errors import (
    SnapshotMissing,
    TargetIOFailed,
    TargetNameInvalid,
    VolumeExists,
    VolumeMissing,
)

PATH = "memory"


class MemoryImage:
    def __init__(self, content: bytearray) -> None:
        self.content = content

    @property
    def disk_bytes(self) -> int:
        return len(self.content)

    def read_into(self, offset: int, buffer: Buffer) -> None:
        view = memoryview(buffer).cast("B")
        if not 0 <= offset <= len(self.content) - len(view):
            raise TargetIOFailed(path=PATH, operation="read", offset=offset, problem="outside the volume")
        view[:] = self.content[offset : offset + len(view)]

    def allocated(self) -> Extents:
        return ex.whole(len(self.content))

    def close(self) -> None:
        pass


class MemoryVolume(MemoryImage):
    def patch(self, rows: NDArray[np.int64], raw: Buffer) -> Patched:
        data = memoryview(raw).cast("B")
        written = zeroed = 0
        for offset, length, position in rows[:, :3].tolist():
            if not 0 <= offset <= len(self.content) - length:
                raise TargetIOFailed(path=PATH, operation="patch", offset=offset, problem="outside the volume")
            piece = bytes(length) if position < 0 else data[position : position + length]
            self.content[offset : offset + length] = piece
            zeroed, written = zeroed + length * (position < 0), written + length * (position >= 0)
        return Patched(written, zeroed, len(rows), ZeroMode.PUNCH_HOLE)

    def flush(self) -> None:
        pass


class MemoryTarget:
    """Snapshots are at once and whole, as reflinks are; `kind` says what it claims they are."""

    def __init__(self, kind: SnapshotKind = SnapshotKind.REFLINK) -> None:
        self._caps = TargetCaps(kind)
        self.contents: dict[str, bytearray] = {}
        self.snapshot_contents: dict[str, bytearray] = {}

    @property
    def caps(self) -> TargetCaps:
        return self._caps

    def create(self, volume: str, disk_bytes: int) -> None:
        if not volume or "/" in volume or volume.startswith("."):
            raise TargetNameInvalid(path=PATH, name=volume)
        if volume in self.contents:
            raise VolumeExists(path=PATH, volume=volume)
        if disk_bytes <= 0:
            raise TargetIOFailed(path=PATH, operation="create", offset=0, problem="no size")
        self.contents[volume] = bytearray(disk_bytes)

    def open(self, volume: str) -> MemoryVolume:
        if volume not in self.contents:
            raise VolumeMissing(path=PATH, volume=volume)
        return MemoryVolume(self.contents[volume])

    def grow(self, volume: str, disk_bytes: int) -> None:
        content = self.open(volume).content
        content.extend(bytes(max(disk_bytes - len(content), 0)))

    def volumes(self) -> list[str]:
        return sorted(self.contents)

    def delete(self, volume: str) -> None:
        self.contents.pop(volume, None)

    def free_bytes(self) -> int:
        return 1 << 30

    def snapshot(self, volume: str, tag: str) -> str:
        snapshot = f"{volume}@{tag}"
        if snapshot not in self.snapshot_contents:
            self.snapshot_contents[snapshot] = bytearray(self.open(volume).content)
        return snapshot

    def open_snapshot(self, snapshot: str) -> MemoryImage:
        if snapshot not in self.snapshot_contents:
            raise SnapshotMissing(path=PATH, snapshot=snapshot)
        return MemoryImage(self.snapshot_contents[snapshot])

    def snapshots(self) -> list[str]:
        return sorted(self.snapshot_contents)

    def delete_snapshot(self, snapshot: str) -> None:
        self.snapshot_contents.pop(snapshot, None)

    def close(self) -> None:
        pass
