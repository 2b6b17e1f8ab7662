"""Where a group's files lie under the connector's state directory. Every name is an id: nothing a peer typed."""

from dataclasses import dataclass
from pathlib import Path

from dmcore.model.ids import CycleId, DiskId, GroupId


@dataclass(frozen=True)
class GroupPlaces:
    """The directory of one group."""

    folder: Path
    staging: Path
    """Where sealed batches of all groups are staged; may be another file system."""
    group: GroupId

    @property
    def points(self) -> Path:
        """The catalogue."""
        return self.folder / "points"

    @property
    def maps(self) -> Path:
        """The digest maps of its disks."""
        return self.folder / "maps"

    def digest_map(self, disk: DiskId) -> Path:
        """A disk's digest map."""
        return self.maps / f"{disk}.map"

    @property
    def old(self) -> Path:
        """What cycles have overwritten of maps, as long as a point needs it."""
        return self.folder / "old"

    def old_digests(self, disk: DiskId) -> Path:
        """A disk's part of that."""
        return self.old / str(disk)

    @property
    def logs(self) -> Path:
        """Staged cycles of this group."""
        return self.staging / str(self.group)

    def cycle(self, cycle: CycleId) -> Path:
        """The staging logs of one cycle."""
        return self.logs / str(cycle)

    def log(self, cycle: CycleId, disk: DiskId) -> Path:
        """One disk's staging log in one cycle."""
        return self.cycle(cycle) / str(disk)

    def volume(self, disk: DiskId) -> str:
        """The name of a disk's shadow on its target."""
        return f"{disk}"
