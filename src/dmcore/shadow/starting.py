"""What is made before a cycle is opened: room for it is found, and shadows of new disks are there."""

from dmcore.blocks.grid import Grid
from dmcore.model.enums import Rung
from dmcore.model.ids import DiskId
from dmcore.shadow.digestmap import DigestMap
from dmcore.shadow.kit import GroupKit
from dmcore.shadow.state import Cycle, CycleDisk


def check_room(kit: GroupKit, cycle: Cycle) -> None:
    """Keep the room that a cycle will need. Seeds and direct disks need none, and of a compare nobody knows.

    Raises:
        StagingFull: what its deltas expect to stage is more than there is room for. They can be taken direct.
    """
    kit.storage.make_dir(kit.places.logs)
    kit.room.reserve(kit.places.cycle(cycle.id), expected_bytes(cycle))


def keep_room(kit: GroupKit, cycle: Cycle) -> None:
    """The same for a cycle that was admitted before a restart: it is not refused any more."""
    kit.room.promise(kit.places.cycle(cycle.id), expected_bytes(cycle))


def expected_bytes(cycle: Cycle) -> int:
    """What a cycle is known to stage until it is SEALED."""
    staged = (plan for plan in cycle.disks.values() if plan.rung is Rung.DELTA and not plan.direct)
    return sum(plan.expected_bytes for plan in staged)


def make_shadow(kit: GroupKit, disk: DiskId, plan: CycleDisk) -> None:
    """A zeroed volume and map, durably. What a seed that was dropped has left holds no image: it is made anew."""
    volume = kit.places.volume(disk)
    kit.target.delete(volume)
    kit.target.create(volume, plan.disk_bytes)
    DigestMap.create(kit.storage, kit.places.digest_map(disk), Grid(plan.disk_bytes, plan.block_bytes))
