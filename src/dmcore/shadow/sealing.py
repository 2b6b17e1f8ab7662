"""What `commit` checks of each disk before the cycle is SEALED."""

from contextlib import closing

from dmcore.blocks import extents as ex
from dmcore.blocks.extents import Extents
from dmcore.blocks.grid import Grid
from dmcore.model.enums import Rung
from dmcore.model.ids import DiskId
from dmcore.shadow.digestmap import DigestMap
from dmcore.shadow.errors import CoverageDiffers
from dmcore.shadow.kit import GroupKit
from dmcore.shadow.receiver import DiskReceiver
from dmcore.shadow.state import CycleDisk, GroupState


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
    if plan.rung is not Rung.SEED and state.images[disk].unknown_blocks:
        _require_unknown_covered(kit, disk, plan, coverage)
    return plan.model_copy(update={"covered_bytes": covered_bytes, "log_bytes": log_bytes, "log_chain": chain})


def _require_unknown_covered(kit: GroupKit, disk: DiskId, plan: CycleDisk, coverage: Extents) -> None:
    grid = Grid(plan.disk_bytes, plan.block_bytes)
    with closing(DigestMap(kit.storage, kit.places.digest_map(disk), grid)) as digest_map:
        left = ex.subtract(digest_map.unknown(), coverage)
    if len(left):
        raise CoverageDiffers(disk=str(disk), problem=f"unknown blocks at offset {int(left[0, 0])} are not covered")
