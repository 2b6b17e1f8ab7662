"""What is made before a cycle is opened: room for it is found, and shadows of new disks are there."""

from dmcore.blocks.grid import Grid
from dmcore.model.ids import DiskId
from dmcore.shadow.digestmap import DigestMap
from dmcore.shadow.errors import StagingFull
from dmcore.shadow.kit import GroupKit
from dmcore.shadow.state import Cycle, CycleDisk


def check_room(kit: GroupKit, cycle: Cycle) -> None:
    """A cycle that does not fit is refused before it starts.

    Raises:
        StagingFull: what it expects to stage is more than there is room for.
    """
    kit.storage.make_dir(kit.places.logs)
    needed = sum(plan.expected_bytes for plan in cycle.disks.values())
    free = kit.storage.free_bytes(kit.places.logs) - kit.limits.reserve_bytes
    if kit.limits.quota_bytes is not None:
        free = min(free, kit.limits.quota_bytes - kit.storage.used_bytes(kit.places.staging))
    if needed > free:
        raise StagingFull(path=str(kit.places.staging), needed_bytes=needed, free_bytes=max(free, 0))


def make_shadow(kit: GroupKit, disk: DiskId, plan: CycleDisk) -> None:
    """A zeroed volume and map, durably. What a seed that was dropped has left holds no image: it is made anew."""
    volume = kit.places.volume(disk)
    kit.target.delete(volume)
    kit.target.create(volume, plan.disk_bytes)
    DigestMap.create(kit.storage, kit.places.digest_map(disk), Grid(plan.disk_bytes, plan.block_bytes))
