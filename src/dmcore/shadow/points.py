"""Recovery points and their catalogue: one immutable file a point. The catalogue is the directory.

What does change about a point is in a second, small file beside it, replaced whole: its flags.
"""

import threading
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from dmcore.model.enums import Consistency, Reason, Rung, SnapshotKind
from dmcore.model.ids import CycleId, DiskId, GroupId, PlanId, PointId
from dmcore.model.points import GOOD, PointState
from dmcore.shadow.errors import PointUnknown, StateUnreadable
from dmcore.shadow.state import StateModel, what_is_wrong
from dmcore.shadow.storage import Storage

FLAGS_SUFFIX = ".flags"

Kept = TypeVar("Kept", bound=StateModel)


class PointDisk(StateModel):
    """One disk of a point: the snapshot that holds it, and how it came to be."""

    disk: DiskId
    machine: str
    label: str
    disk_bytes: int
    block_bytes: int
    snapshot: str
    snapshot_kind: SnapshotKind
    rung: Rung
    reason: Reason
    covered_bytes: int


class Point(StateModel):
    """The snapshots of all of a group's disks from one cycle."""

    version: Literal[1] = 1
    id: PointId
    plan: PlanId
    group: GroupId
    cycle: CycleId
    number: int = 0
    """The cycle's number in its group: what later cycles have overwritten is looked up by it."""
    source_time: datetime
    """When the source snapshot was made: the point's age counts from here."""
    consistency: Consistency
    target: str
    disks: list[PointDisk]
    lacking: list[str] = Field(default_factory=list)
    """Labels of disks of the group that this cycle did not carry."""
    state: PointState = PointState.AVAILABLE


class PointFlags(StateModel):
    """What may change about a point."""

    version: Literal[1] = 1
    revision: int = 0
    """Grows with every change."""
    state: PointState = PointState.AVAILABLE
    """AVAILABLE, or DEGRADED once a verification has found damage."""
    verified_at: datetime | None = None
    preserved: bool = False
    """An operator wants it kept, whatever its age."""
    locked: bool = False
    """It is kept, and no operator of this program can change that."""
    expiring: bool = False
    """It is being removed: its snapshots may be gone already."""

    @property
    def good(self) -> bool:
        """Whether it counts when the last good points are kept."""
        return self.state is GOOD and not self.expiring


UNREADABLE = PointFlags(preserved=True)
"""How flags count that cannot be read: whatever they say, the point stays."""


class Catalogue:
    """A group's points. Thread-safe."""

    def __init__(self, storage: Storage, folder: Path) -> None:
        self._storage, self._folder = storage, folder
        self._changing = threading.Lock()

    def add(self, point: Point) -> None:
        """Write a point durably. Writing the same point again changes nothing."""
        self._storage.make_dir(self._folder)
        self._storage.replace(self._path(point.id), point.model_dump_json(indent=1).encode())

    def all(self) -> list[Point]:
        """All points that can be read, oldest first. A damaged file hides only itself: see `unreadable`."""
        found = [point for path in self._paths() if isinstance(point := self._try_load(path, Point), Point)]
        return sorted(found, key=lambda point: (point.source_time, point.id))

    def count(self) -> int:
        """How many points there are, the damaged ones too. Reads no file."""
        return len(self._paths())

    def holds(self, point: PointId) -> bool:
        """Whether there is this point, damaged or not. Reads no file."""
        return self._storage.exists(self._path(point))

    def unreadable(self) -> list[StateUnreadable]:
        """What is wrong with the files that `all` leaves out, and with flags."""
        tried = [self._try_load(path, Point) for path in self._paths()]
        tried_flags = [self._try_load(path, PointFlags) for path in self._flags_paths()]
        return [error for error in [*tried, *tried_flags] if isinstance(error, StateUnreadable)]

    def get(self, point: PointId) -> Point:
        """One point. Raises PointUnknown, StateUnreadable."""
        try:
            return self._load(self._path(point), Point)
        except FileNotFoundError as missing:
            raise PointUnknown(point=str(point)) from missing

    def made_at(self, point: PointId) -> datetime:
        """When it came into the catalogue, by this machine's clock. Raises PointUnknown."""
        try:
            return self._storage.modified_at(self._path(point))
        except FileNotFoundError as missing:
            raise PointUnknown(point=str(point)) from missing

    # Flags

    def flags(self, point: PointId) -> PointFlags:
        """A point's flags. Damaged ones count as UNREADABLE, and are named by `unreadable`."""
        found = self._try_load(self._flags_path(point), PointFlags)
        return UNREADABLE if isinstance(found, StateUnreadable) else found or PointFlags()

    def change(self, point: PointId, **changes: Any) -> PointFlags:
        """Change a point's flags, durably. Changing nothing writes nothing.

        Raises:
            PointUnknown: there is no such point. StateUnreadable: its flags are damaged; nothing was changed.
        """
        with self._changing:
            self.made_at(point)
            path = self._flags_path(point)
            try:
                held = self._load(path, PointFlags)
            except FileNotFoundError:
                held = PointFlags()
            wanted = held.model_copy(update=changes)
            if wanted != held:
                wanted = wanted.model_copy(update={"revision": held.revision + 1})
                self._storage.replace(path, wanted.model_dump_json(indent=1).encode())
            return wanted

    def changed(self) -> list[PointFlags]:
        """The flags of all points whose flags were ever changed."""
        return [
            flags for path in self._flags_paths() if isinstance(flags := self._try_load(path, PointFlags), PointFlags)
        ]

    def expiring(self) -> list[Point]:
        """The points whose removal has begun."""
        marked = [path for path in self._flags_paths() if getattr(self._try_load(path, PointFlags), "expiring", False)]
        found = [self._try_load(path.with_suffix(".json"), Point) for path in marked]
        return [point for point in found if isinstance(point, Point)]

    def remove(self, point: PointId) -> None:
        """Forget a point, durably; then its flags, which mean nothing without it. No error if there is none."""
        with self._changing:
            self._storage.unlink(self._path(point))
            self._storage.unlink(self._flags_path(point))

    def remove_stray_flags(self) -> None:
        """Remove the flags of points that are gone: what a crash within `remove` has left."""
        for path in self._flags_paths():
            if not self._storage.exists(path.with_suffix(".json")):
                self._storage.unlink(path)

    def _paths(self) -> list[Path]:
        return self._files(".json")

    def _flags_paths(self) -> list[Path]:
        return self._files(FLAGS_SUFFIX)

    def _files(self, suffix: str) -> list[Path]:
        return [self._folder / name for name in self._storage.names(self._folder) if name.endswith(suffix)]

    def _path(self, point: PointId) -> Path:
        return self._folder / f"{point}.json"

    def _flags_path(self, point: PointId) -> Path:
        return self._path(point).with_suffix(FLAGS_SUFFIX)

    def _try_load(self, path: Path, kind: type[Kept]) -> Kept | StateUnreadable | None:
        """What is in a file, what is wrong with it, or None: it is not there (any more)."""
        try:
            return self._load(path, kind)
        except FileNotFoundError:
            return None
        except StateUnreadable as error:
            return error

    def _load(self, path: Path, kind: type[Kept]) -> Kept:
        try:
            return kind.model_validate_json(self._storage.read_file(path))
        except FileNotFoundError:
            raise
        except (OSError, ValidationError) as error:
            raise StateUnreadable(path=str(path), problem=what_is_wrong(error)) from error
