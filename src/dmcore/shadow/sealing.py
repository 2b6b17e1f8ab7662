"""What `commit` checks of each disk before the cycle is SEALED."""

from contextlib import closing

from dmcore.blocks import extents as ex
from dmcore.blocks.extents import Extents
from dmcore.blocks.grid import Grid
from dmcore.model.enums import Rung
from dmcore.model.ids import DiskId
from dmcore.shadow.digestmap import DigestMap
from dmcore.shadow.errors import CoverageDiffers
from dmcore.shadow.growing import grown
from dmcore.shadow.kit import GroupKit
from dmcore.shadow.receiver import DiskReceiver
from dmcore.shadow.state import CycleDisk, GroupState, ShadowImage


def seal_disk(
    kit: GroupKit, state: GroupState, disk: DiskId, plan: CycleDisk, receiver: DiskReceiver, named: bytes | None
) -> CycleDisk:
    """Sync a disk's log and give what the state file says of it at SEALED.

    Raises:
        CoverageDiffers: what is durable is not what `commit` names, or leaves unknown blocks out.
    """
    coverage, log_bytes, chain = receiver.seal()
    covered_bytes = ex.total_bytes(coverage)
    if named != ex.coverage_hash(coverage):
        durable = f"the {covered_bytes} bytes that are durable are not what commit names"
        raise CoverageDiffers(disk=str(disk), problem=durable)
    if plan.rung is not Rung.SEED:
        _require_unknown_covered(_unknown(kit, disk, plan, state.images[disk]), disk, coverage)
    return plan.model_copy(update={"covered_bytes": covered_bytes, "log_bytes": log_bytes, "log_chain": chain})


def _unknown(kit: GroupKit, disk: DiskId, plan: CycleDisk, image: ShadowImage) -> Extents:
    """What the cycle must carry whatever has changed. The map is read only where it has unknown blocks."""
    larger = grown(plan, image)
    if not image.unknown_blocks:
        return larger
    held = Grid(image.disk_bytes, image.block_bytes)
    with closing(DigestMap(kit.storage, kit.places.digest_map(disk), held)) as digest_map:
        return ex.union(digest_map.unknown(), larger)


def _require_unknown_covered(unknown: Extents, disk: DiskId, coverage: Extents) -> None:
    left = ex.subtract(unknown, coverage)
    if len(left):
        raise CoverageDiffers(disk=str(disk), problem=f"unknown blocks at offset {int(left[0, 0])} are not covered")
