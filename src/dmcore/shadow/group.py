"""One group's shadows: from `begin` to a recovery point, and from any crash to the same.

    RECEIVING > SEALED > APPLIED > SNAPSHOTTED > PUBLISHED > RECLAIMED        docs/staging-log.md has the commit table

`begin`, `open`, `commit` and `drop` are called for an appliance's messages; `drain` redoes what a direct cycle has
received so far; `advance` rolls a cycle forward that is sealed or given up, one phase a call, and is what restart calls
too. The state file is replaced before anything that it allows, and after anything that it claims.
"""

import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing

from dmcore.blocks.grid import Grid
from dmcore.model.enums import Rung
from dmcore.model.ids import CycleId, DiskId, point_id
from dmcore.model.phase import Phase
from dmcore.shadow import dropping, forward
from dmcore.shadow.admission import Answer, check_disks, decide
from dmcore.shadow.digestmap import DigestMap
from dmcore.shadow.draining import drain
from dmcore.shadow.errors import (
    CycleDropped,
    CycleUnknown,
    GroupBusy,
    PointNotVerifiable,
    StaleEpoch,
)
from dmcore.shadow.forward import Publisher
from dmcore.shadow.keeping import cut_unfinished, forget_unneeded, next_number
from dmcore.shadow.kit import GroupKit
from dmcore.shadow.marking import Damage, Marking, may_mark
from dmcore.shadow.past_maps import past_map
from dmcore.shadow.points import Catalogue, Point, PointDisk
from dmcore.shadow.receiver import DiskReceiver
from dmcore.shadow.receiving import Receivers, admit
from dmcore.shadow.redo import Progress
from dmcore.shadow.sealing import seal_disk
from dmcore.shadow.starting import keep_room, make_shadow
from dmcore.shadow.state import Cycle, CycleDisk, GroupState, load_state, save_state

SNAPSHOT_GONE = "its source snapshot is gone"


class GroupShadow:
    """Thread-safe. `advance` is run by one thread at a time."""

    def __init__(self, kit: GroupKit, state: GroupState) -> None:
        self._kit, self._state = kit, state
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._advancing = threading.Lock()
        self._copying = threading.Lock()
        self._receivers = Receivers(kit, state)
        self.group = kit.places.group
        self.catalogue = Catalogue(kit.storage, kit.places.points)
        self.skipped_bytes = 0
        """How much of its logs the last apply found done already, when it began."""

    @classmethod
    def create(cls, kit: GroupKit, state: GroupState) -> "GroupShadow":
        """Make a new group's directories and state file."""
        kit.storage.make_dir(kit.places.maps)
        save_state(kit.storage, kit.places.folder, state)
        return cls(kit, state)

    @classmethod
    def load(cls, kit: GroupKit) -> "GroupShadow":
        """Open a group as it was left, by a clean stop or a crash: the same."""
        kit.storage.sync_dir(kit.places.folder)  # a killed process may have renamed the state that is gone on from
        shadow = cls(kit, load_state(kit.storage, kit.places.folder))
        cut_unfinished(kit, shadow.state)
        shadow._remove_staging_of_finished()
        if (received := shadow.state.receiving) is not None:
            keep_room(kit, received)
        return shadow

    @property
    def state(self) -> GroupState:
        """What is durable now."""
        with self._lock:
            return self._state

    def has_made(self, cycle: CycleId) -> bool:
        """Whether its point is in the catalogue: true of earlier cycles too, as long as their points are kept."""
        return self.catalogue.holds(point_id(cycle, self.group))

    def begin(self, cycle: Cycle) -> Answer:
        """Fence older attempts and open, go on with, or refuse a cycle. Its answer is durable when this returns.

        Raises:
            StaleEpoch, BaseDiffers, SizeChanged, StagingFull, CycleDropped: nothing was started.
        """
        with self._lock:
            answer = decide(self._state, cycle, made=self.has_made(cycle.id))
            if answer in (Answer.START, Answer.REPLACE):
                check_disks(self._state, cycle)
                if answer is Answer.REPLACE and self._drop("a newer cycle began") is Phase.DROPPING:
                    return Answer.BUSY
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
            receiver = self._receivers.get(cycle, disk)
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
            sealed = {disk: self._seal(current, disk, coverages.get(disk)) for disk in current.disks}
            self._save(self._state.at(Phase.SEALED, disks=sealed))
            self._receivers.close()
            return Phase.SEALED

    def drop(self, why: str, *, lost: bool = False) -> None:
        """Give up a cycle that is receiving. Later phases only roll forward.

        With `lost`, what cannot be read of the logs of one that is SEALED or DROPPING is given up, too.

        Raises:
            GroupBusy: it is past RECEIVING.
        """
        with self._lock:
            held = self._state.open_cycle
            if held is None:
                return
            phase = self._drop(why) if held.phase is Phase.RECEIVING else held.phase
            if lost and phase in {Phase.SEALED, Phase.DROPPING}:
                self._save(self._state.with_cycle(abandoned=True))
            elif phase not in {Phase.DROPPING, Phase.DROPPED}:
                raise GroupBusy(group=str(self.group), cycle=str(held.id), phase=phase)

    # Rolling forward

    def go_direct(self, disk: DiskId) -> None:
        """From now on a disk's log may be redone while it is received: there is no room to stage it whole.

        Raises:
            CycleUnknown: it is not received, any more or yet. OSError: it is not so.
        """
        with self._lock:
            cycle = self._state.receiving
            if cycle is None or disk not in cycle.disks:
                raise CycleUnknown(group=str(self.group), problem=f"disk {disk} is not received")
            if not cycle.disks[disk].direct:
                self._save(self._state.model_copy(update={"cycle": cycle.with_direct([disk])}))

    def drain(self, progress: Progress = lambda _: None) -> bool:
        """Redo one round of each direct disk's log, while it is received. Returns whether there may be more to do.

        Raises:
            DmcoreError, OSError: nothing is lost; call again when the cause is gone.
        """
        with self._advancing:
            with self._lock:
                cycle, disks = self._state.receiving, self._state.direct_disks
                receivers = {disk: self._receivers.get(cycle.id, disk) for disk in disks} if cycle else {}
            if cycle is None or not disks:
                return False
            drained = forward.on_disks(
                self._kit, disks, lambda disk: drain(self._kit, cycle, disk, receivers[disk], progress)
            )
            return any(drained.values())

    def advance(self, publish: Publisher, progress: Progress = lambda _: None) -> Phase | None:
        """Take a sealed or dropping cycle one phase further. Returns the phase reached; None: there is nothing to do.

        Raises:
            DmcoreError, OSError: nothing was claimed; call again when the cause is gone.
        """
        with self._advancing:
            state = self.state
            steps: dict[Phase, Callable[[Cycle], GroupState]] = {
                Phase.SEALED: lambda cycle: self._apply(state, cycle, progress),
                Phase.DROPPING: lambda cycle: dropping.drop(self._kit, state, cycle, progress),
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
        """The digest maps that a point was committed with, whatever a cycle does now: copies, the caller's to close.

        Raises:
            PointNotVerifiable: nobody knows any more what it was. StateUnreadable: what was kept of it is damaged.
        """
        with self._copying, ExitStack() as undo:
            copies: dict[DiskId, DigestMap] = {}
            for disk in point.disks:
                copies[disk.disk] = self._map_of(point, disk)
                undo.callback(copies[disk.disk].close)
            undo.pop_all()
            return copies

    def mark_damaged(self, damaged: Mapping[DiskId, Damage], timeout_s: float) -> int:
        """Mark unknown what of a point was found damaged and should still be the same in the shadow.

        The next cycle of any rung carries it. Returns how many blocks. Waits while the maps are written.

        Raises:
            GroupBusy: that took too long; nothing was marked. StateUnreadable, OSError: not all was. Say it again.
        """
        with self._changed:
            self._changed.wait_for(lambda: may_mark(self._state, damaged), timeout_s)
        if not self._advancing.acquire(timeout=timeout_s):
            raise self._busy()
        try:
            with self._lock:
                if not may_mark(self._state, damaged):
                    raise self._busy()
                marking = Marking(self._kit, self._state, damaged)
                if marking.blocks:
                    self._save(marking.prepare())
                    marking.write()
                return marking.blocks
        finally:
            self._advancing.release()

    def forget_old_digests(self) -> None:
        """Remove what no point needs any more: points have gone. Raises OSError; what is left goes another time."""
        forget_unneeded(self._kit, self.catalogue)

    def digest_map(self, disk: DiskId) -> DigestMap:
        """A disk's map, opened for the caller, who closes it."""
        image = self.state.images.get(disk)
        if image is None:
            raise CycleUnknown(group=str(self.group), problem=f"disk {disk} has no image")
        return DigestMap(
            self._kit.storage, self._kit.places.digest_map(disk), Grid(image.disk_bytes, image.block_bytes)
        )

    def _busy(self) -> GroupBusy:
        cycle = self.state.cycle
        return GroupBusy(group=str(self.group), cycle=str(cycle and cycle.id), phase=cycle.phase if cycle else "none")

    def _map_of(self, point: Point, disk: PointDisk) -> DigestMap:
        state = self.state
        if not point.number:
            raise PointNotVerifiable(point=str(point.id), why="it was made before old digests were kept")
        if disk.disk not in state.images:
            raise PointNotVerifiable(point=str(point.id), why=f"disk {disk.label} has no shadow any more")
        grid, folder = Grid(disk.disk_bytes, disk.block_bytes), self._kit.places.old_digests(disk.disk)
        with closing(self.digest_map(disk.disk)) as newest:
            return past_map(self._kit.storage, newest, folder, point.number, grid, next_number(state))

    def close(self) -> None:
        """Close logs. The state is durable as it is."""
        with self._lock:
            self._receivers.close()

    # begin

    def _start(self, cycle: Cycle) -> None:
        number = self._state.cycles + 1
        begun = admit(self._kit, cycle).model_copy(update={"number": number})
        try:
            for disk, plan in begun.disks.items():
                if plan.rung is Rung.SEED:
                    make_shadow(self._kit, disk, plan)
            self._save(self._state.model_copy(update={"cycle": begun, "cycles": number}).under(cycle))
        except BaseException:
            self._kit.room.remove(self._kit.places.cycle(cycle.id))
            raise
        self._receivers.open(self._state)

    def _fence(self, cycle: Cycle) -> None:
        """From now on only this epoch's messages are heard. Whoever sends under an older one loses the disk."""
        if cycle.epoch == self._state.epoch:
            return
        self._receivers.fence(cycle.epoch)
        self._save(self._state.under(cycle))

    def _drop(self, why: str) -> Phase:
        """End what is received. DROPPING if shadows may have been written: then `advance` has still to do with it."""
        self._receivers.close()
        cycle = self._state.receiving
        phase = Phase.DROPPING if cycle and dropping.needs_accounting(self._kit, cycle) else Phase.DROPPED
        self._save(self._state.at(phase, problem=why))
        if phase is Phase.DROPPED:
            self._remove_staging_of_finished()
        return phase

    # receiving

    def _check_current(self, cycle: CycleId, epoch: int) -> Cycle:
        held = self._state.cycle
        if epoch != self._state.epoch:
            raise StaleEpoch(group=str(self.group), epoch=epoch, current=self._state.epoch)
        if held is None or held.id != cycle or held.phase is not Phase.RECEIVING:
            phase = held.phase if held else "none"
            raise CycleUnknown(group=str(self.group), problem=f"cycle {cycle} is not receiving ({phase})")
        return held

    def _seal(self, cycle: Cycle, disk: DiskId, named: bytes | None) -> CycleDisk:
        receiver = self._receivers.get(cycle.id, disk)
        return seal_disk(self._kit, self._state, disk, cycle.disks[disk], receiver, named)

    def _apply(self, state: GroupState, cycle: Cycle, progress: Progress) -> GroupState:
        self.skipped_bytes = forward.checkpointed_bytes(self._kit, cycle)
        return forward.apply(self._kit, state, cycle, progress)

    def _reclaim(self, cycle: Cycle) -> GroupState:
        self._kit.room.remove(self._kit.places.cycle(cycle.id))
        return self.state.at(Phase.RECLAIMED)

    def _remove_staging_of_finished(self) -> None:
        """Logs of cycles that are not open belong to nobody, and what is promised to them is free."""
        cycle, logs = self._state.cycle, self._kit.places.logs
        left = set(self._kit.storage.names(logs))
        if cycle is not None and cycle.phase is not Phase.RECLAIMED:
            left = left - {str(cycle.id)} if self._state.open_cycle else left | {str(cycle.id)}
        for name in sorted(left):
            self._kit.room.remove(logs / name)

    def _save(self, state: GroupState) -> None:
        save_state(self._kit.storage, self._kit.places.folder, state)
        self._state = state
        self._changed.notify_all()
