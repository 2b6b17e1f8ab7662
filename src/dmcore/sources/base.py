"""What every source is. One contract suite (tests/sources/contract.py) holds for all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from typing_extensions import Buffer

from dmcore.blocks.extents import Extents
from dmcore.model.enums import Consistency, SnapshotKind


@dataclass(frozen=True)
class SourceCaps:
    """What a source can do, decided when it is opened."""

    snapshots: SnapshotKind
    """NONE: the disk must be idle while it is read, and a cycle never resumes across attempts."""
    tracking: bool
    """Whether `changed_since` can answer."""


@dataclass(frozen=True)
class DiskInfo:
    """One disk of a machine. `identity` is stable and names it under the machine; `label` is for people."""

    identity: str
    label: str
    disk_bytes: int


@dataclass(frozen=True)
class MachineInfo:
    """One machine that could be protected, and why it cannot if `problem` is not empty."""

    identity: str
    label: str
    disks: tuple[DiskInfo, ...]
    problem: str = ""


class SnapshotDisk(Protocol):
    """One disk as it was at the snapshot. One thread at a time; closed with its snapshot."""

    @property
    def info(self) -> DiskInfo:
        """The disk, with its size at the snapshot."""
        ...

    @property
    def next_token(self) -> str | None:
        """The tracking token that stands for this snapshot; None if the source does not track."""
        ...

    def allocated(self) -> Extents:
        """Where the disk may hold anything but zeros. Sorted and merged; not aligned to any grid."""
        ...

    def changed_since(self, token: str) -> Extents:
        """What may have changed between the token and this snapshot. Sorted and merged; not aligned.

        Raises:
            TrackingLost: the source cannot say (reset, other disk, other size, damaged): take the disk a rung down.
        """
        ...

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill the whole buffer from offset, or raise a SourceError. Keeps no reference to the buffer."""
        ...


class SourceSnapshot(Protocol):
    """A group's machines at one moment. Closing it frees handles; it does not delete the snapshot."""

    @property
    def name(self) -> str:
        """What it was asked to be called."""
        ...

    @property
    def identity(self) -> str:
        """What only this very snapshot has: another one of the same name has another identity."""
        ...

    @property
    def taken_at(self) -> datetime:
        """When (UTC): the time of the recovery point."""
        ...

    @property
    def consistency(self) -> Consistency:
        """What was achieved."""
        ...

    @property
    def disks(self) -> Mapping[tuple[str, str], SnapshotDisk]:
        """The disks by (machine identity, disk identity)."""
        ...

    def check_still_valid(self) -> None:
        """Called when everything has been read, before `commit`.

        Raises:
            SourceChanged: a source without snapshots saw its disk change while it was read.
        """
        ...

    def close(self) -> None:
        """Free file handles. Idempotent."""
        ...


class Source(Protocol):
    """Where machines are. Opened from a node's own alias; paths never come from elsewhere."""

    @property
    def caps(self) -> SourceCaps:
        """What it can do."""
        ...

    def machines(self) -> list[MachineInfo]:
        """All machines, those that cannot be protected with the reason."""
        ...

    def snapshot(self, machines: Sequence[str], name: str) -> SourceSnapshot:
        """Snapshot the machines (by identity) together, under a name that no snapshot has yet.

        Raises:
            SourceError: a machine is missing or cannot be protected, or the snapshot failed (nothing is left behind).
        """
        ...

    def find_snapshot(self, name: str) -> SourceSnapshot | None:
        """The existing snapshot of this name, opened again with the same identity; None if it is gone."""
        ...

    def delete_snapshot(self, name: str) -> None:
        """Delete it and check that it is gone. No error if there is none."""
        ...

    def snapshots(self) -> list[str]:
        """The names of all snapshots that dmcore made here."""
        ...

    def release(self, machine: str, disk: str, token: str) -> None:
        """The connector holds this token: what is only needed to answer since older ones may go. Idempotent."""
        ...

    def close(self) -> None:
        """Free what the source holds. Idempotent."""
        ...
