"""Giving up a direct cycle: what it had written to shadows is accounted for, then it is DROPPED."""

from contextlib import closing

from dmcore.blocks import extents as ex
from dmcore.blocks.extents import Extents
from dmcore.errors import IntegrityError
from dmcore.model.ids import DiskId
from dmcore.model.phase import Phase
from dmcore.shadow.forward import image_after, lose, on_disks, redo_of, rest_of, saver_of, unknown_blocks
from dmcore.shadow.growing import grown
from dmcore.shadow.kit import GroupKit
from dmcore.shadow.receiving import make_receiver
from dmcore.shadow.redo import Progress, Redo
from dmcore.shadow.state import Cycle, GroupState, ShadowImage


def needs_accounting(kit: GroupKit, cycle: Cycle) -> bool:
    """Whether a shadow may have been written on behalf of a cycle that is received."""
    return any(kit.storage.exists(kit.places.log(cycle.id, disk)) for disk in cycle.direct_disks)


def drop(kit: GroupKit, state: GroupState, cycle: Cycle, progress: Progress) -> GroupState:
    """Take a cycle from DROPPING to DROPPED. Disks that were not direct are as they were.

    A disk with an image keeps it and its token, but what was logged of it is unknown. A seed's shadow is what its map
    says: it holds an image without a token, so that its next cycle is a compare.

    Raises:
        IntegrityError: a log is damaged, and nobody has given it up. TargetError, OSError: call it again.
    """
    after = on_disks(kit, cycle.direct_disks, lambda disk: _account_for(kit, state, cycle, disk, progress))
    images = {disk: image for disk, image in {**state.images, **after}.items() if image is not None}
    return state.at(Phase.DROPPED).with_images(images)


def _account_for(
    kit: GroupKit, state: GroupState, cycle: Cycle, disk: DiskId, progress: Progress
) -> ShadowImage | None:
    """What a direct disk's shadow holds now."""
    held = state.images.get(disk)
    with redo_of(kit, cycle, disk) as redo:
        try:
            logged = _redo_durable(kit, state, cycle, disk, redo, progress)
        except IntegrityError:
            if not cycle.abandoned:
                raise
            return lose(kit, cycle, disk, redo, held)
        larger = grown(cycle.disks[disk], held)
        if not len(logged) and not len(larger):
            return held
        if held is not None:
            redo.mark_unknown(ex.union(logged, larger))
    unknown = unknown_blocks(kit, disk, cycle.disks[disk]) if held is not None or redo.failed_frames else 0
    if held is not None:
        return held.model_copy(update={"unknown_blocks": unknown, "disk_bytes": cycle.disks[disk].disk_bytes})
    return image_after(cycle, disk, None, unknown)


def _redo_durable(
    kit: GroupKit, state: GroupState, cycle: Cycle, disk: DiskId, redo: Redo, progress: Progress
) -> Extents:
    """Redo what is durable of a log. Returns what it covers, what lies before its checkpoint too."""
    with closing(make_receiver(kit, state, cycle, disk)) as receiver:
        covered, log_bytes, log_chain = receiver.seal()
    if log_bytes:
        rest = rest_of(kit, cycle, disk)
        redo.run(rest, log_bytes, saver_of(kit, cycle, disk), progress)
        rest.log.check_sealed(log_bytes, log_chain)
    return covered
