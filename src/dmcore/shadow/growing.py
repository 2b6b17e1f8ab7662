"""A disk that is larger than its shadow: what of it is unknown, and how target and map follow.

Any change of size is a compare. What lies behind the old end, and the old last block if it was short, is unknown, so
that the cycle carries it. A disk that has shrunk is another disk.
"""

from contextlib import closing

from dmcore.blocks import extents as ex
from dmcore.blocks.constants import DIGEST_BYTES
from dmcore.blocks.extents import Extents
from dmcore.blocks.grid import Grid
from dmcore.model.ids import DiskId
from dmcore.shadow.kit import GroupKit
from dmcore.shadow.segments import opened
from dmcore.shadow.state import CycleDisk, ShadowImage


def grown(plan: CycleDisk, image: ShadowImage | None) -> Extents:
    """What a cycle's disk has beyond the whole blocks of the image it is planned on; nothing of a seed."""
    if image is None or plan.disk_bytes == image.disk_bytes:
        return ex.empty()
    first = image.disk_bytes // plan.block_bytes * plan.block_bytes
    return ex.from_pairs([(first, plan.disk_bytes - first)])


def fit(kit: GroupKit, disk: DiskId, plan: CycleDisk) -> None:
    """Lengthen the volume, then the map, durably, before anything is written past their ends. Idempotent."""
    name, path = kit.places.volume(disk), kit.places.digest_map(disk)
    with closing(kit.target.open(name)) as volume:
        volume_bytes = volume.disk_bytes
    if volume_bytes < plan.disk_bytes:
        kit.target.grow(name, plan.disk_bytes)
    with opened(kit.storage, path) as fd:
        map_bytes = kit.storage.size(fd)
    needed_bytes = Grid(plan.disk_bytes, plan.block_bytes).blocks * DIGEST_BYTES
    if map_bytes < needed_bytes:
        kit.storage.truncate(path, needed_bytes)
