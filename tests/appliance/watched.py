"""A source around another that records what is read of it, and lets a test act at a certain read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from typing_extensions import Buffer

from dmcore.blocks import extents as ex
from dmcore.blocks.extents import Extents
from dmcore.model.enums import Consistency
from dmcore.sources.base import DiskInfo, MachineInfo, SnapshotDisk, Source, SourceCaps, SourceSnapshot


class Read(NamedTuple):
    disk: str
    offset: int
    length: int


@dataclass
class Watch:
    """What was read, in order. `act` is called before each read; raising there fails it."""

    reads: list[Read] = field(default_factory=list)
    act: Callable[[Read], None] = lambda _: None

    def read_of(self, disk: str) -> Extents:
        """Each byte once."""
        return ex.from_pairs((read.offset, read.length) for read in self.reads if read.disk == disk)

    def read_bytes(self, disk: str) -> int:
        """Repeated ones counted again."""
        return sum(read.length for read in self.reads if read.disk == disk)

    def at_read(self, number: int, work: Callable[[], None], disk: str = "") -> None:
        """Do something once, before this many reads (of this disk) are over."""
        left = [number]

        def act(read: Read) -> None:
            if not disk or read.disk == disk:
                left[0] -= 1
                if not left[0]:
                    work()

        self.act = act


class WatchedDisk:
    def __init__(self, inner: SnapshotDisk, watch: Watch) -> None:
        self._inner, self._watch = inner, watch

    @property
    def info(self) -> DiskInfo:
        return self._inner.info

    @property
    def next_token(self) -> str | None:
        return self._inner.next_token

    def allocated(self) -> Extents:
        return self._inner.allocated()

    def changed_since(self, token: str) -> Extents:
        return self._inner.changed_since(token)

    def read_into(self, offset: int, buffer: Buffer) -> None:
        read = Read(self.info.identity, offset, memoryview(buffer).nbytes)
        self._watch.act(read)
        self._watch.reads.append(read)
        self._inner.read_into(offset, buffer)


class WatchedSnapshot:
    def __init__(self, inner: SourceSnapshot, watch: Watch) -> None:
        self._inner = inner
        self._disks = {key: WatchedDisk(disk, watch) for key, disk in inner.disks.items()}

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
        self._inner.check_still_valid()

    def close(self) -> None:
        self._inner.close()


class WatchedSource:
    """Wraps any source."""

    def __init__(self, inner: Source) -> None:
        self._inner = inner
        self.watch = Watch()

    @property
    def caps(self) -> SourceCaps:
        return self._inner.caps

    def machines(self) -> list[MachineInfo]:
        return self._inner.machines()

    def snapshot(self, machines: Sequence[str], name: str) -> WatchedSnapshot:
        return WatchedSnapshot(self._inner.snapshot(machines, name), self.watch)

    def find_snapshot(self, name: str) -> WatchedSnapshot | None:
        found = self._inner.find_snapshot(name)
        return None if found is None else WatchedSnapshot(found, self.watch)

    def delete_snapshot(self, name: str) -> None:
        self._inner.delete_snapshot(name)

    def snapshots(self) -> list[str]:
        return self._inner.snapshots()

    def release(self, machine: str, disk: str, token: str) -> None:
        self._inner.release(machine, disk, token)

    def close(self) -> None:
        self._inner.close()
