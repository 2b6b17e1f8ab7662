"""The disks of the cycle that a group is receiving, each with its receiver."""

from dmcore.model.enums import Rung
from dmcore.model.ids import CycleId, DiskId
from dmcore.shadow.errors import CycleUnknown, StagingFull
from dmcore.shadow.kit import GroupKit
from dmcore.shadow.receiver import DiskReceiver
from dmcore.shadow.records import MAX_BODY_BYTES
from dmcore.shadow.starting import check_room, expected_bytes
from dmcore.shadow.state import Cycle, GroupState


def admit(kit: GroupKit, cycle: Cycle) -> Cycle:
    """Find room for a cycle. Seeds are direct, and so are all disks if there is not enough to stage the others whole.

    Raises:
        StagingFull: there is no room for even one batch. The cycle is not begun.
    """
    direct = cycle.with_direct(disk for disk, plan in cycle.disks.items() if plan.rung is Rung.SEED)
    try:
        check_room(kit, direct)
    except StagingFull:
        direct = cycle.with_direct(cycle.disks)
    if direct.direct_disks:
        kit.room.reserve(kit.places.cycle(cycle.id), max(expected_bytes(direct), MAX_BODY_BYTES))
    return direct


def make_receiver(kit: GroupKit, state: GroupState, cycle: Cycle, disk: DiskId) -> DiskReceiver:
    """What receives a disk, or reads back what was received."""
    folder = kit.places.log(cycle.id, disk)
    return DiskReceiver(kit.storage, folder, kit.keys, state.plan, cycle.id, disk, cycle.disks[disk], kit.room)


class Receivers:
    """Not thread-safe: the group's lock guards it. The receivers themselves are."""

    def __init__(self, kit: GroupKit, state: GroupState) -> None:
        self._kit = kit
        self._held: dict[DiskId, DiskReceiver] = {}
        self.open(state)

    def open(self, state: GroupState) -> None:
        """One for each disk of the cycle that the state says is received."""
        cycle = state.receiving
        if cycle is not None:
            self._held = {disk: make_receiver(self._kit, state, cycle, disk) for disk in cycle.disks}

    def get(self, cycle: CycleId, disk: DiskId) -> DiskReceiver:
        """A disk's. Raises CycleUnknown."""
        if disk not in self._held:
            raise CycleUnknown(group=str(self._kit.places.group), problem=f"disk {disk} is not in cycle {cycle}")
        return self._held[disk]

    def fence(self, epoch: int) -> None:
        """Whoever sends under an older epoch loses the disk."""
        for receiver in self._held.values():
            receiver.fence(epoch)

    def close(self) -> None:
        """Not one byte is added to these logs any more."""
        for receiver in self._held.values():
            receiver.retire()
        self._held = {}
