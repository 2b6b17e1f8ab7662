"""One group's shadows: from `begin` to a recovery point, and from any crash to the same.

    RECEIVING > SEALED > APPLIED > SNAPSHOTTED > PUBLISHED > RECLAIMED        docs/staging-log.md has the commit table

`begin`, `open`, `commit` and `drop` are called for an appliance's messages; `advance` rolls a sealed cycle forward, one
phase a call, and is what restart calls too. The state file is replaced before anything that it allows, and after
anything that it claims.
"""

import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing

from dmcore.blocks.grid import Grid
from dmcore.model.enums import Rung
from dmcore.model.ids import CycleId, DiskId, image_of, point_id
from dmcore.model.phase import Phase
from dmcore.shadow import forward
from dmcore.shadow.admission import Answer, check_disks, decide
from dmcore.shadow.digestmap import DigestMap
from dmcore.shadow.errors import (
    CycleDropped,
    CycleUnknown,
    GroupBusy,
    PointNotVerifiable,
    StaleEpoch,
)
from dmcore.shadow.forward import Publisher
from dmcore.shadow.kit import GroupKit
from dmcore.shadow.points import Catalogue, Point
from dmcore.shadow.receiver import DiskReceiver
from dmcore.shadow.redo import Progress
from dmcore.shadow.sealing import seal_disk
from dmcore.shadow.starting import check_room, make_shadow
from dmcore.shadow.state import Cycle, GroupState, load_state, save_state

SNAPSHOT_GONE = "its source snapshot is gone"


class GroupShadow:
    """Thread-safe. `advance` is run by one thread at a time."""

    def __init__(self, kit: GroupKit, state: GroupState) -> None:
        self._kit, self._state = kit, state
        self._lock = threading.RLock()
        self._advancing = threading.Lock()
        self._receivers: dict[DiskId, DiskReceiver] = {}
        self.catalogue = Catalogue(kit.storage, kit.places.points)
        self._open_receivers()

    @classmethod
    def create(cls, kit: GroupKit, state: GroupState) -> "GroupShadow":
        """Make a new group's directories and state file."""
        kit.storage.make_dir(kit.places.maps)
        save_state(kit.storage, kit.places.folder, state)
        return cls(kit, state)

    @classmethod
    def load(cls, kit: GroupKit) -> "GroupShadow":
        """Open a group as it was left, by a clean stop or a crash: the same."""
        shadow = cls(kit, load_state(kit.places.folder))
        shadow._remove_staging_of_finished()
        return shadow

    @property
    def state(self) -> GroupState:
        """What is durable now."""
        with self._lock:
            return self._state

    def has_made(self, cycle: CycleId) -> bool:
        """Whether its point is in the catalogue: true of earlier cycles too, as long as their points are kept."""
        return self.catalogue.holds(point_id(cycle, self._kit.places.group))

    def begin(self, cycle: Cycle) -> Answer:
        """Fence older attempts and open, go on with, or refuse a cycle. Its answer is durable when this returns.

        Raises:
            StaleEpoch, BaseDiffers, SizeChanged, StagingFull, CycleDropped: nothing was started.
        """
        with self._lock:
            answer = decide(self._state, cycle, made=self.has_made(cycle.id))
            if answer in (Answer.START, Answer.REPLACE):
                check_disks(self._state, cycle)
                if answer is Answer.REPLACE:
                    self._drop("a newer cycle began")
                self._start(cycle)
            elif answer is Answer.DROP:
                self._fence(cycle)
                self._drop(SNAPSHOT_GONE)
                raise CycleDropped(group=str(self._state.group), cycle=str(cycle.id), problem=SNAPSHOT_GONE)
            elif answer is not Answer.BUSY:
                self._fence(cycle)
            return answer

    def open(self, cycle: CycleId, epoch: int, disk: DiskId) -> tuple[DiskReceiver, int]:
        """Give a disk of the open cycle to one sender. Returns its receiver and the attempt's number.

        Raises:
            StaleEpoch, CycleUnknown, StreamRefused: not this sender, not now. LogCorrupt: an operator must look.
        """
        with self._lock:
            self._check_current(cycle, epoch)
            receiver = self._receivers.get(disk)
        if receiver is None:
            raise CycleUnknown(group=str(self._kit.places.group), problem=f"disk {disk} is not in cycle {cycle}")
        return receiver, receiver.open(epoch)

    def commit(self, cycle: CycleId, epoch: int, coverages: Mapping[DiskId, bytes]) -> Phase:
        """Seal the cycle if what is durable of every disk is what `coverages` names. Repeatable.

        Raises:
            CoverageDiffers: something is missing; send it and commit again. CycleUnknown, StaleEpoch.
        """
        with self._lock:
            held = self._state.cycle
            if held is not None and held.id == cycle and held.phase is not Phase.RECEIVING:
                return held.phase
            if self.has_made(cycle):
                return Phase.RECLAIMED
            current = self._check_current(cycle, epoch)
            sealed = {
                disk: seal_disk(self._kit, self._state, disk, plan, self._receivers[disk], coverages.get(disk))
                for disk, plan in current.disks.items()
            }
            self._save(self._state.at(Phase.SEALED, disks=sealed))
            self._close_receivers()
            return Phase.SEALED

    def drop(self, why: str) -> None:
        """Give up a cycle that is receiving. Later phases only roll forward.

        Raises:
            GroupBusy: it is past RECEIVING.
        """
        with self._lock:
            held = self._state.open_cycle
            if held is not None and held.phase is not Phase.RECEIVING:
                raise GroupBusy(group=str(self._kit.places.group), cycle=str(held.id), phase=held.phase)
            if held is not None:
                self._drop(why)

    def advance(self, publish: Publisher, progress: Progress = lambda _: None) -> Phase | None:
        """Take a sealed cycle one phase further. Returns the phase reached; None if there is nothing to do.

        Raises:
            DmcoreError, OSError: nothing was claimed; call again when the cause is gone.
        """
        with self._advancing:
            state = self.state
            steps: dict[Phase, Callable[[Cycle], GroupState]] = {
                Phase.SEALED: lambda cycle: forward.apply(self._kit, state, cycle, progress),
                Phase.APPLIED: lambda cycle: forward.snapshot(self._kit, state, cycle, self.catalogue),
                Phase.SNAPSHOTTED: lambda cycle: forward.publish(state, cycle, self.catalogue, publish),
                Phase.PUBLISHED: self._reclaim,
            }
            if state.open_cycle is None or state.open_cycle.phase not in steps:
                return None
            after = steps[state.open_cycle.phase](state.open_cycle)
            with self._lock:
                # An attempt may have raised the epoch meanwhile: that is never taken back.
                self._save(after.under(self._state))
            if after.open_cycle is None:
                self._remove_staging_of_finished()
            return after.cycle.phase if after.cycle else None

    def maps_of(self, point: Point) -> dict[DiskId, DigestMap]:
        """The digest maps that a point was committed with: copies, the caller's to close.

        Raises:
            PointNotVerifiable: the shadows have moved on from the point, or are moving now.
        """
        with self._advancing, ExitStack() as undo:
            state = self.state
            held = {state.image_of(disk.disk) for disk in point.disks}
            if state.dirty or held != {image_of(point.cycle)}:
                raise PointNotVerifiable(point=str(point.id))
            copies: dict[DiskId, DigestMap] = {}
            for disk in point.disks:
                with closing(self.digest_map(disk.disk)) as digest_map:
                    copies[disk.disk] = digest_map.copy()
                undo.callback(copies[disk.disk].close)
            undo.pop_all()
            return copies

    def digest_map(self, disk: DiskId) -> DigestMap:
        """A disk's map, opened for the caller, who closes it."""
        image = self.state.images.get(disk)
        if image is None:
            raise CycleUnknown(group=str(self._kit.places.group), problem=f"disk {disk} has no image")
        return DigestMap(
            self._kit.storage, self._kit.places.digest_map(disk), Grid(image.disk_bytes, image.block_bytes)
        )

    def close(self) -> None:
        """Close logs. The state is durable as it is."""
        with self._lock:
            self._close_receivers()

    # begin

    def _start(self, cycle: Cycle) -> None:
        check_room(self._kit, cycle)
        for disk, plan in cycle.disks.items():
            if plan.rung is Rung.SEED:
                make_shadow(self._kit, disk, plan)
        self._save(self._state.model_copy(update={"cycle": cycle}).under(cycle))
        self._open_receivers()

    def _fence(self, cycle: Cycle) -> None:
        """From now on only this epoch's messages are heard. Whoever sends under an older one loses the disk."""
        if cycle.epoch == self._state.epoch:
            return
        for receiver in self._receivers.values():
            receiver.fence(cycle.epoch)
        self._save(self._state.under(cycle))

    def _drop(self, why: str) -> None:
        self._close_receivers()
        self._save(self._state.at(Phase.DROPPED, problem=why))
        self._remove_staging_of_finished()

    # receiving

    def _check_current(self, cycle: CycleId, epoch: int) -> Cycle:
        held = self._state.cycle
        if epoch != self._state.epoch:
            raise StaleEpoch(group=str(self._kit.places.group), epoch=epoch, current=self._state.epoch)
        if held is None or held.id != cycle or held.phase is not Phase.RECEIVING:
            phase = held.phase if held else "none"
            raise CycleUnknown(group=str(self._kit.places.group), problem=f"cycle {cycle} is not receiving ({phase})")
        return held

    def _open_receivers(self) -> None:
        cycle = self._state.open_cycle
        if cycle is None or cycle.phase is not Phase.RECEIVING:
            return
        self._receivers = {
            disk: DiskReceiver(
                self._kit.storage,
                self._kit.places.log(cycle.id, disk),
                self._kit.keys,
                self._state.plan,
                cycle.id,
                disk,
                plan,
            )
            for disk, plan in cycle.disks.items()
        }

    def _close_receivers(self) -> None:
        for receiver in self._receivers.values():
            receiver.retire()
        self._receivers = {}

    def _reclaim(self, cycle: Cycle) -> GroupState:
        self._kit.storage.remove_tree(self._kit.places.cycle(cycle.id))
        return self.state.at(Phase.RECLAIMED)

    def _remove_staging_of_finished(self) -> None:
        """Logs of cycles that are not open belong to nobody."""
        cycle = self._state.open_cycle
        kept = str(cycle.id) if cycle else ""
        for folder in self._kit.places.logs.glob("*"):
            if folder.name != kept:
                self._kit.storage.remove_tree(folder)

    def _save(self, state: GroupState) -> None:
        save_state(self._kit.storage, self._kit.places.folder, state)
        self._state = state
