"""A target on the medium: volumes with a cache of their own, snapshots that are there at once and whole."""

import contextlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

from dmcore.blocks import extents as ex
from dmcore.blocks.extents import Extents
from dmcore.model.enums import SnapshotKind
from dmcore.native.batches import Patched, ZeroMode
from dmcore.targets.base import TargetCaps
from dmcore.targets.errors import (
    FlushFailed,
    SnapshotMissing,
    TargetIOFailed,
    TargetNameInvalid,
    VolumeExists,
    VolumeMissing,
)
from tests.torture.inodes import File
from tests.torture.memory_storage import ROOM_BYTES, MemoryStorage


class MediumImage:
    """A volume or a snapshot to read."""

    def __init__(self, storage: MemoryStorage, path: Path) -> None:
        self.path, self._storage = path, storage
        self._fd = storage.open(path)

    @property
    def disk_bytes(self) -> int:
        return self._storage.size(self._fd)

    def read_into(self, offset: int, buffer: Buffer) -> None:
        if not 0 <= offset <= self.disk_bytes - memoryview(buffer).nbytes:
            raise self._failed("read", offset, "outside the volume")
        try:
            self._storage.read_into(self._fd, offset, buffer)
        except OSError as error:
            raise self._failed("read", offset, str(error)) from error

    def allocated(self) -> Extents:
        return ex.whole(self.disk_bytes)

    def close(self) -> None:
        if self._fd >= 0:
            self._storage.close(self._fd)
            self._fd = -1

    def _failed(self, operation: str, offset: int, problem: str) -> TargetIOFailed:
        return TargetIOFailed(path=str(self.path), operation=operation, offset=offset, problem=problem)


class MediumVolume(MediumImage):
    """A shadow being written."""

    flush_problem = ""

    def patch(self, rows: NDArray[np.int64], raw: Buffer) -> Patched:
        self._refuse()
        outside = (rows[:, 0] < 0) | (rows[:, 1] > self.disk_bytes - rows[:, 0])
        if outside.any():
            raise self._failed("patch", int(rows[outside][0, 0]), "outside the volume")
        try:
            return self._storage.io.patch(self._fd, rows, raw, ZeroMode.PUNCH_HOLE)
        except OSError as error:
            raise self._failed("patch", 0, str(error)) from error

    def flush(self) -> None:
        self._refuse()
        try:
            self._storage.io.sync(self._fd)
        except OSError as error:
            self.flush_problem = str(error)
            raise FlushFailed(path=str(self.path), problem=self.flush_problem) from error

    def _refuse(self) -> None:
        if self.flush_problem:
            raise FlushFailed(path=str(self.path), problem=self.flush_problem)


class MediumTarget:
    """Volumes and snapshots on the medium. What is made or removed is so at once, durably, as the contract has it.

    As a device (EBS) a snapshot holds what the volume has been flushed; as a folder, what was written to it.
    """

    def __init__(self, storage: MemoryStorage, root: Path, *, device: bool = False) -> None:
        self._storage, self._medium, self._device = storage, storage.medium, device
        self._volumes, self._snapshots = root / "volumes", root / "snapshots"
        for folder in (self._volumes, self._snapshots):
            storage.make_dir(folder)

    @property
    def caps(self) -> TargetCaps:
        return TargetCaps(SnapshotKind.REFLINK)

    def create(self, volume: str, disk_bytes: int) -> None:
        path = self._path(self._volumes, volume)
        if str(path) in self._medium.nodes:
            raise VolumeExists(path=str(path), volume=volume)
        if disk_bytes <= 0:
            raise TargetIOFailed(path=str(path), operation="create", offset=0, problem="no size")
        self._appear(path, bytes(disk_bytes))

    def open(self, volume: str) -> MediumVolume:
        try:
            return MediumVolume(self._storage, self._path(self._volumes, volume))
        except FileNotFoundError:
            raise VolumeMissing(path=str(self._volumes), volume=volume) from None

    def grow(self, volume: str, disk_bytes: int) -> None:
        with contextlib.closing(self.open(volume)) as held:
            path, missing = held.path, disk_bytes - held.disk_bytes
        if missing > 0:
            file = self._medium.file(str(path))
            self._may_fail(f"grow {volume}")
            file.durable += bytes(missing)
            file.writable().extend(bytes(missing))
            self._medium.after(f"grow {volume}")

    def volumes(self) -> list[str]:
        return self._storage.names(self._volumes)

    def delete(self, volume: str) -> None:
        self._vanish(self._path(self._volumes, volume))

    def free_bytes(self) -> int:
        return ROOM_BYTES

    def snapshot(self, volume: str, tag: str) -> str:
        snapshot = f"{volume}@{tag}"
        path = self._path(self._snapshots, snapshot)
        if str(path) not in self._medium.nodes:
            self.open(volume).close()
            file = self._medium.file(str(self._path(self._volumes, volume)))
            self._appear(path, file.durable if self._device else bytes(file.content))
        return snapshot

    def open_snapshot(self, snapshot: str) -> MediumImage:
        try:
            return MediumImage(self._storage, self._path(self._snapshots, snapshot))
        except FileNotFoundError:
            raise SnapshotMissing(path=str(self._snapshots), snapshot=snapshot) from None

    def snapshots(self) -> list[str]:
        return self._storage.names(self._snapshots)

    def delete_snapshot(self, snapshot: str) -> None:
        self._vanish(self._path(self._snapshots, snapshot))

    def close(self) -> None:
        pass

    @staticmethod
    def _path(folder: Path, name: str) -> Path:
        if not name or "/" in name or name.startswith("."):
            raise TargetNameInvalid(path=str(folder), name=name)
        return folder / name

    def _may_fail(self, what: str) -> None:
        try:
            self._medium.before(what)
        except OSError as error:
            raise TargetIOFailed(path=what, operation="change", offset=0, problem=str(error)) from error

    def _appear(self, path: Path, content: bytes) -> None:
        self._may_fail(f"{path.parent.name}: {path.name}")
        folder = self._medium.dir(str(path.parent))
        folder.entries[path.name] = folder.durable[path.name] = self._medium.nodes[str(path)] = File(content)
        self._medium.after(f"{path.parent.name}: {path.name}")

    def _vanish(self, path: Path) -> None:
        if str(path) in self._medium.nodes:
            self._may_fail(f"remove {path.name}")
            folder = self._medium.dir(str(path.parent))
            del self._medium.nodes[str(path)], folder.entries[path.name], folder.durable[path.name]
            self._medium.after(f"remove {path.name}")
