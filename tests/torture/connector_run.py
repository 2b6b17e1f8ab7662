"""One start of the real connector's core on a medium in memory, and a cycle carried by an appliance."""

import random
from pathlib import Path

from dmcore.model.ids import DiskId
from dmcore.model.phase import Phase
from dmcore.shadow.admission import Answer
from dmcore.shadow.group import GroupShadow
from dmcore.shadow.kit import GroupKit, GroupLimits
from dmcore.shadow.places import GroupPlaces
from dmcore.shadow.state import Cycle, GroupState
from tests.shadow.group_lab import GROUP, PLAN, known_keys
from tests.torture import judge
from tests.torture.judge import Promised
from tests.torture.medium import Medium
from tests.torture.medium_target import MediumTarget
from tests.torture.memory_storage import MemoryStorage
from tests.torture.sender import Sender, named, needed, plan_cycle
from tests.torture.story import Part, Story, id_of

ROOT = Path("/")
PLACES = GroupPlaces(ROOT / "state", ROOT / "staging", GROUP)
WAITS = 50
"""After so many times without any room an append is given up."""
OLD_MAPS = 0.3
"""How often the oldest point's digests are looked at, which costs as much as a cycle."""
"""Gaps that were found and are reported: closed here, so that others are found behind them."""


def nothing_woken() -> None:
    pass


class StateStorage(MemoryStorage):
    """Knows which state file was promised, and which is on its way."""

    state: bytes | None = None
    saving: tuple[bytes, ...] = ()

    def replace(self, path: Path, data: bytes) -> None:
        if path.name != "state.json":
            super().replace(path, data)
            return
        self.saving += (data,)
        super().replace(path, data)
        self.state, self.saving = data, ()


class Run:
    """One start of the connector, and what is carried with it."""

    place = ""
    """Where the power was cut before."""
    stumbled = False
    """A call has failed in this process."""

    def __init__(self, story: Story, medium: Medium, promised: Promised, *, device: bool) -> None:
        self.story, self.promised, self.medium = story, promised, medium
        self.rng = random.Random(story.rng.getrandbits(32))
        self.storage = StateStorage(self.medium)
        self.target = MediumTarget(self.storage, ROOT / "target", device=device)
        self.storage.state, self.storage.saving = promised.state, promised.saving
        self.steps = 0
        self.part = promised.part
        self.acked: dict[DiskId, int] = dict(promised.acked)
        self.sealed = promised.sealed
        self.points = set(promised.points)

    def start(self) -> GroupShadow:
        """Check what the power cut has left, and open the group as the connector's start does."""
        seen = judge.check_state_file(self.medium, {self.storage.state, *self.storage.saving})
        limits = GroupLimits(reserve_bytes=0, redo_threads=1, quota_bytes=self.story.quota_bytes)
        self.kit = kit = GroupKit(self.storage, PLACES, self.target, known_keys, limits)
        self.waited = 0
        if seen is None:
            self.shadow = GroupShadow.create(kit, GroupState(plan=PLAN, group=GROUP, target="shadows"))
        else:
            self.shadow = GroupShadow.load(kit)
            self.storage.state, self.storage.saving = seen, ()  # what it goes on from stays
        self.check()
        judge.check_phase(self.shadow.state, self.promised)
        return self.shadow

    def check(self) -> set[int]:
        for check in judge.STATE_CHECKS:
            check(self.medium, self.shadow.state, self.story)
        if self.rng.random() < OLD_MAPS:
            with self.medium.unwatched():
                judge.check_oldest_maps(self.shadow, self.story)
        return judge.check_points(self.medium, self.story, frozenset(self.points))

    def now(self) -> Promised:
        """What a power cut in this moment must not break."""
        return Promised(
            self.part, self.storage.state, self.storage.saving, tuple(self.acked.items()), self.sealed,
            frozenset(self.points),
        )  # fmt: skip

    def said(self, what: str) -> None:
        """Somebody was told something: a place to cut the power as good as a call's end."""
        self.medium.after(what)

    def carry(self, part: Part) -> None:
        """What an appliance does for one cycle, whatever earlier attempts have left, to the cycle's end."""
        if self.part != part.number:
            self.part, self.acked, self.sealed = part.number, {}, False
        held = self.shadow.state.cycle
        ours = held if held is not None and held.id == id_of(part) else None
        if ours is None or ours.phase is Phase.RECEIVING:
            cycle = self._begin(part, ours)
            if not self._send(part, cycle):
                return
        self._roll(part)
        if self.stumbled:
            self.promised = self.now()
            self.start()  # what could not be removed is removed by the next start
        judge.check_end(self.medium, self.shadow, self.story, part.number, spoiled=part.spoiled)
        self.check()

    def _begin(self, part: Part, ours: Cycle | None) -> Cycle:
        epoch = self.shadow.state.epoch + 1
        cycle = ours.model_copy(update={"epoch": epoch}) if ours else plan_cycle(self.shadow, part)
        if self.shadow.begin(cycle) is Answer.BUSY:
            self._roll(part)  # a direct cycle is dropped
            cycle = plan_cycle(self.shadow, part)
            self.shadow.begin(cycle)
        self.said("begun")
        return cycle

    def _send(self, part: Part, cycle: Cycle) -> bool:
        """Send every disk in turn, a few batches each, and commit. False if the cycle is to be left."""
        story, names, sending = self.story, {}, []
        for disk, plan in cycle.disks.items():
            sender = Sender(self.shadow, cycle, disk, part, self._make_room)
            acked = self.acked.get(disk, 0)
            lost = acked & ~sender.durable
            judge.require(holds=not lost, what=f"acknowledged batches of {disk} are lost: blocks {lost:b}")
            self.acked[disk] = sender.durable  # it was answered, and is not sent again
            missing = needed(self.shadow, story, part, disk, plan) & ~sender.durable
            names[disk] = named(sender.durable | missing, plan.disk_bytes)
            sending.append((disk, sender.batches(missing, story.batch_blocks, story.batches_a_sync)))
        self.said("opened")
        rounds = 0
        while sending:
            for pair in list(sending):
                durable = next(pair[1], None)
                if durable is None:
                    sending.remove(pair)
                    continue
                self.acked[pair[0]] = durable
                self.said("acknowledged")
                self._drain(pair[0])
            rounds += 1
            if part.left and rounds == story.rounds:
                return False
        if part.left:
            return False
        self.shadow.commit(cycle.id, cycle.epoch, names)
        self.sealed = True
        self.said("committed")
        return True

    def _drain(self, disk: DiskId) -> None:
        """What the connector's rollers do meanwhile."""
        if self.rng.random() < self.story.going_direct:
            self.shadow.go_direct(disk)
        if self.rng.random() < self.story.draining:
            while self.shadow.drain():
                self.said("drained")

    def _make_room(self, disk: DiskId) -> bool:
        """What the connector does for an append that waits. Says whether to ask again."""
        room = self.kit.room
        room.waits(nothing_woken)
        try:
            self.shadow.go_direct(disk)
            drained = False
            while self.shadow.drain():
                drained = True
                self.said("drained for room")
            self.waited += 1
            return drained or self.waited < WAITS
        finally:
            room.waits_no_more(nothing_woken)

    def _roll(self, part: Part) -> None:
        while (phase := self.shadow.advance(lambda point: None)) is not None:
            if phase is Phase.SNAPSHOTTED:
                self.points.add(part.number)
            self.said(f"advanced to {phase}")
