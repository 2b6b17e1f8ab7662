"""Recovery points and their catalogue: one immutable file a point. The catalogue is the directory."""

from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from dmcore.model.enums import Consistency, PointState, Reason, Rung, SnapshotKind
from dmcore.model.ids import CycleId, DiskId, GroupId, PlanId, PointId
from dmcore.shadow.errors import PointUnknown, StateUnreadable
from dmcore.shadow.state import StateModel, what_is_wrong
from dmcore.shadow.storage import Storage


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
    source_time: datetime
    """When the source snapshot was made: the point's age counts from here."""
    consistency: Consistency
    target: str
    disks: list[PointDisk]
    lacking: list[str] = Field(default_factory=list)
    """Labels of disks of the group that this cycle did not carry."""
    state: PointState = PointState.AVAILABLE


class Catalogue:
    """A group's points."""

    def __init__(self, storage: Storage, folder: Path) -> None:
        self._storage, self._folder = storage, folder

    def add(self, point: Point) -> None:
        """Write a point durably. Writing the same point again changes nothing."""
        self._storage.make_dir(self._folder)
        self._storage.replace(self._path(point.id), point.model_dump_json(indent=1).encode())

    def all(self) -> list[Point]:
        """All points that can be read, oldest first. A damaged file hides only itself: see `unreadable`."""
        found = [point for point in map(self._try_load, self._paths()) if isinstance(point, Point)]
        return sorted(found, key=lambda point: (point.source_time, point.id))

    def unreadable(self) -> list[StateUnreadable]:
        """What is wrong with the files that `all` leaves out."""
        return [error for error in map(self._try_load, self._paths()) if isinstance(error, StateUnreadable)]

    def get(self, point: PointId) -> Point:
        """One point. Raises PointUnknown, StateUnreadable."""
        path = self._path(point)
        if not path.exists():
            raise PointUnknown(point=str(point))
        return self._load(path)

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob("*.json"))

    def _try_load(self, path: Path) -> Point | StateUnreadable:
        try:
            return self._load(path)
        except StateUnreadable as error:
            return error

    def _path(self, point: PointId) -> Path:
        return self._folder / f"{point}.json"

    def _load(self, path: Path) -> Point:
        try:
            return Point.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise StateUnreadable(path=str(path), problem=what_is_wrong(error)) from error
