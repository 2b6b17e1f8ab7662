"""What every target is. One contract suite (tests/targets/contract.py) holds for all of them."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

from dmcore.blocks.extents import Extents
from dmcore.model.enums import SnapshotKind
from dmcore.native.batches import Patched


@dataclass(frozen=True)
class TargetCaps:
    """What a target can do, decided when it is opened."""

    snapshots: SnapshotKind


class Readable(Protocol):
    """A volume or snapshot to read. One thread at a time."""

    @property
    def disk_bytes(self) -> int:
        """Its size."""
        ...

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill the whole buffer from offset, or raise a TargetError."""
        ...

    def allocated(self) -> Extents:
        """Where it may hold anything but zeros; the whole of it where that cannot be told."""
        ...

    def close(self) -> None:
        """Free the handle; never flushes. Idempotent."""
        ...


class Volume(Readable, Protocol):
    """A shadow being written."""

    def patch(self, rows: NDArray[np.int64], raw: Buffer) -> Patched:
        """Write rows of (offset, length, position in raw or -1 for zeros). All or a TargetError; keeps no reference.

        Nothing is durable before `flush`.
        """
        ...

    def flush(self) -> None:
        """Returns only when every earlier patch is durable.

        Raises:
            FlushFailed: earlier patches may be lost. The volume refuses all that follows; open it again and redo.
        """
        ...


class Target(Protocol):
    """Where shadows are kept. Names of volumes are made of ids by the caller, never by a peer."""

    @property
    def caps(self) -> TargetCaps:
        """What it can do."""
        ...

    def create(self, volume: str, disk_bytes: int) -> None:
        """Make a zeroed volume, durably. Raises VolumeExists if there is one of that name."""
        ...

    def open(self, volume: str) -> Volume:
        """Open a volume to write. Raises VolumeMissing."""
        ...

    def grow(self, volume: str, disk_bytes: int) -> None:
        """Lengthen a volume by zeros, durably. One that is as long already is left as it is. Raises VolumeMissing."""
        ...

    def volumes(self) -> list[str]:
        """The names of all volumes."""
        ...

    def delete(self, volume: str) -> None:
        """Remove a volume; its snapshots stay. No error if there is none."""
        ...

    def free_bytes(self) -> int:
        """What can still be written here."""
        ...

    def snapshot(self, volume: str, tag: str) -> str:
        """Snapshot a volume under a tag, durably, and return the snapshot's id. A finished one of that tag is kept."""
        ...

    def open_snapshot(self, snapshot: str) -> Readable:
        """Open a snapshot by its id. Raises SnapshotMissing."""
        ...

    def snapshots(self) -> list[str]:
        """The ids of all finished snapshots."""
        ...

    def delete_snapshot(self, snapshot: str) -> None:
        """Remove a snapshot. No error if there is none."""
        ...

    def close(self) -> None:
        """Free what the target holds, its lock too. Idempotent."""
        ...
