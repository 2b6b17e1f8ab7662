"""What `begin` does with a cycle, decided from its group's state, and whether it has a point: every pair of these."""

from enum import StrEnum

from dmcore.model.enums import Rung
from dmcore.model.ids import NO_IMAGE
from dmcore.model.phase import COMMITTED, FINISHED, Phase
from dmcore.shadow.errors import BaseDiffers, CycleDropped, SizeChanged, StaleEpoch
from dmcore.shadow.state import Cycle, CycleDisk, GroupState, ShadowImage


class Answer(StrEnum):
    """What becomes of a `begin`."""

    START = "start"
    """No cycle is open: this one is."""
    REPLACE = "replace"
    """Drop the one that is receiving, then start this one."""
    CONTINUE = "continue"
    """The same cycle and source snapshot: go on from what is durable."""
    DROP = "drop"
    """The same cycle, but its source snapshot is another one: it ends here."""
    BUSY = "busy"
    """Another cycle rolls forward: nothing may be started, nobody is to be fenced, this attempt may ask again."""
    COMMITTED = "committed"
    """This cycle is past SEALED, or was before others of the group: the attempt only cleans up."""


def check_epoch(state: GroupState, cycle: Cycle, *, made: bool) -> None:
    """Fence: a lower epoch is refused, and the current one belongs to one node, which begins one cycle after another.

    An earlier cycle that is `made` is not begun: its lease says nothing of the cycle that the group holds.

    Raises:
        StaleEpoch: it is behind, or another's.
    """
    held = state.cycle
    presented, asked = (state.epoch, state.successor), (cycle.epoch, cycle.successor)
    others = held is not None and cycle.epoch == state.epoch and cycle.node != state.node
    taken = held is not None and asked == presented and cycle.id != held.id and not made
    if asked < presented or others or taken:
        raise StaleEpoch(group=str(state.group), epoch=cycle.epoch, current=state.epoch)


def decide(state: GroupState, cycle: Cycle, *, made: bool) -> Answer:
    """What `begin` of this cycle means now; `made`: its point is in the catalogue.

    Raises:
        StaleEpoch: a newer attempt has fenced it off. CycleDropped: it was given up before.
    """
    check_epoch(state, cycle, made=made)
    held = state.cycle
    if held is not None and held.id == cycle.id:
        return _same(state, held, cycle)
    if made:
        return Answer.COMMITTED
    if held is None or held.phase in FINISHED:
        return Answer.START
    return Answer.REPLACE if held.phase is Phase.RECEIVING else Answer.BUSY


def _same(state: GroupState, held: Cycle, cycle: Cycle) -> Answer:
    if held.phase in COMMITTED:
        return Answer.COMMITTED
    if held.phase in {Phase.DROPPED, Phase.DROPPING}:
        raise CycleDropped(group=str(state.group), cycle=str(cycle.id), problem=held.problem)
    same_attempt = held.epoch == cycle.epoch and held.node == cycle.node
    asked = cycle.with_direct(held.direct_disks)  # that is the connector's to decide
    same_snapshot = held.snapshot_identity == cycle.snapshot_identity and held.disks == asked.disks
    return Answer.CONTINUE if same_snapshot and (held.resumable or same_attempt) else Answer.DROP


def check_disks(state: GroupState, cycle: Cycle) -> None:
    """Whether each disk's plan fits its shadow.

    Raises:
        BaseDiffers: it was planned on another image.
        SizeChanged: it has grown and is no compare, has shrunk, or its blocks have another size.
    """
    for disk, plan in cycle.disks.items():
        image = state.images.get(disk)
        held = image.image if image else NO_IMAGE
        if plan.base_image != held or (plan.rung is Rung.SEED) != (image is None):
            raise BaseDiffers(disk=str(disk), planned=str(plan.base_image), held=str(held))
        if image is not None:
            _check_size(str(disk), image, plan)


def _check_size(disk: str, image: ShadowImage, plan: CycleDisk) -> None:
    may_grow = plan.rung is Rung.COMPARE and image.disk_bytes < plan.disk_bytes
    if image.disk_bytes != plan.disk_bytes and not may_grow:
        raise SizeChanged(disk=disk, was=image.disk_bytes, now=plan.disk_bytes)
    if image.block_bytes != plan.block_bytes:
        raise SizeChanged(disk=f"{disk} (block size)", was=image.block_bytes, now=plan.block_bytes)
