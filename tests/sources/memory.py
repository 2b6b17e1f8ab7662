"""A source in memory, tracked or not, with snapshots or without: the oracle of the contract suite."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import uuid4

from typing_extensions import Buffer

from dmcore.blocks import extents as ex
from dmcore.blocks.extents import Extents
from dmcore.model.enums import Consistency, Reason, SnapshotKind
from dmcore.sources.base import DiskInfo, MachineInfo, SourceCaps
from dmcore.sources.errors import SnapshotFailed, SourceChanged, SourceMissing, SourceReadFailed, TrackingLost

Key = tuple[str, str]


@dataclass
class MemoryDisk:
    """A protected disk: what it holds, and all that was ever written to it."""

    content: bytearray
    written: list[tuple[int, int]] = field(default_factory=list)
    journal: str = field(default_factory=lambda: uuid4().hex)
    base: int = 0

    @property
    def token(self) -> str:
        return f"{self.journal}:{len(self.written)}"


class MemorySnapshotDisk:
    def __init__(self, key: Key, disk: MemoryDisk, *, tracking: bool, live: bool) -> None:
        self._path = "/".join(key)
        self._disk = disk
        self._content = disk.content if live else bytearray(disk.content)
        self._token = disk.token if tracking else None
        self.info = DiskInfo(identity=key[1], label=key[1], disk_bytes=len(disk.content))

    @property
    def next_token(self) -> str | None:
        return self._token

    def allocated(self) -> Extents:
        return ex.whole(self.info.disk_bytes)

    def changed_since(self, token: str) -> Extents:
        if self._token is None:
            raise TrackingLost(path=self._path, token=token, problem="no tracking", reason=Reason.NO_TRACKING)
        journal, _, position = token.partition(":")
        if journal != self._disk.journal:
            raise TrackingLost(path=self._path, token=token, problem="reset", reason=Reason.TRACKING_RESET)
        start, end = int(position), int(self._token.partition(":")[2])
        if not self._disk.base <= start <= end:
            raise TrackingLost(path=self._path, token=token, problem="released, or not yet")
        return ex.from_pairs(self._disk.written[start:end])

    def read_into(self, offset: int, buffer: Buffer) -> None:
        view = memoryview(buffer).cast("B")
        if not 0 <= offset <= self.info.disk_bytes - len(view):
            raise SourceReadFailed(path=self._path, offset=offset, length=len(view), problem="outside the disk")
        view[:] = self._content[offset : offset + len(view)]


class MemorySnapshot:
    consistency = Consistency.CRASH

    def __init__(self, name: str, disks: dict[Key, MemorySnapshotDisk], versions: dict[Key, int] | None) -> None:
        self.name = name
        self.identity = uuid4().hex
        self.taken_at = datetime.now(UTC)
        self.disks = disks
        self._versions = versions

    def check_still_valid(self) -> None:
        for key, version in (self._versions or {}).items():
            if len(self.disks[key]._disk.written) != version:
                raise SourceChanged(path="/".join(key), problem="written")

    def close(self) -> None:
        pass


class MemorySource:
    """Machines and disks are added with `add`, changed with `write`."""

    def __init__(self, kind: SnapshotKind = SnapshotKind.REFLINK, *, tracking: bool = True) -> None:
        self.caps = SourceCaps(kind, tracking)
        self._disks: dict[Key, MemoryDisk] = {}
        self._snapshots: dict[str, MemorySnapshot] = {}

    def add(self, machine: str, disk: str, content: bytes) -> None:
        self._disks[machine, disk] = MemoryDisk(bytearray(content))

    def write(self, machine: str, disk: str, offset: int, data: bytes) -> None:
        found = self._disks[machine, disk]
        found.content[offset : offset + len(data)] = data
        found.written.append((offset, len(data)))

    def reset_tracking(self, machine: str, disk: str) -> None:
        """As a machine that was restored or migrated: older tokens mean nothing any more."""
        self._disks[machine, disk].journal = uuid4().hex

    def machines(self) -> list[MachineInfo]:
        names = sorted({machine for machine, _ in self._disks})
        return [MachineInfo(name, name, tuple(self._infos(name))) for name in names]

    def _infos(self, machine: str) -> list[DiskInfo]:
        mine = sorted((key[1], disk) for key, disk in self._disks.items() if key[0] == machine)
        return [DiskInfo(name, name, len(disk.content)) for name, disk in mine]

    def snapshot(self, machines: Sequence[str], name: str) -> MemorySnapshot:
        if name in self._snapshots:
            raise SnapshotFailed(path="memory", name=name, problem="exists already")
        for machine in machines:
            if not self._infos(machine):
                raise SourceMissing(path=machine)
        live = self.caps.snapshots is SnapshotKind.NONE
        chosen = {key: disk for key, disk in self._disks.items() if key[0] in machines}
        disks = {
            key: MemorySnapshotDisk(key, disk, tracking=self.caps.tracking, live=live) for key, disk in chosen.items()
        }
        versions = {key: len(disk.written) for key, disk in chosen.items()} if live else None
        made = MemorySnapshot(name, disks, versions)
        if not live:
            self._snapshots[name] = made
        return made

    def find_snapshot(self, name: str) -> MemorySnapshot | None:
        return self._snapshots.get(name)

    def delete_snapshot(self, name: str) -> None:
        self._snapshots.pop(name, None)

    def snapshots(self) -> list[str]:
        return sorted(self._snapshots)

    def release(self, machine: str, disk: str, token: str) -> None:
        found = self._disks[machine, disk]
        journal, _, position = token.partition(":")
        if journal == found.journal and found.base < int(position) <= len(found.written):
            found.base = int(position)

    def close(self) -> None:
        pass
