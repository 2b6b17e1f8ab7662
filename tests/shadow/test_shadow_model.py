"""Cycles in any order, cut at any durable call, with any part of the unsynced writes lost: Hypothesis looks for the
sequence that loses something acknowledged or makes a wrong point.
"""

import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dmcore.blocks import extents as ex
from dmcore.model.ids import CycleId, DiskId, ImageId, PointId, image_of, point_id
from dmcore.model.phase import COMMITTED, FINISHED, Phase
from dmcore.shadow import redo, segments
from dmcore.shadow.admission import Answer
from dmcore.shadow.group import GroupShadow
from dmcore.shadow.state import Cycle
from tests.shadow.faults import PowerCut, SteppedStorage, SteppedTarget, Trigger, cut
from tests.shadow.group_lab import (
    BLOCK,
    DISK_A,
    DISK_B,
    GROUP,
    DiskContent,
    GroupLab,
    Sender,
    content,
    coverage_of,
    recovered,
)

pytestmark = pytest.mark.timeout(600)
"""Passing takes seconds; a failure is made small first, so that it can be read."""

SIZES = {DISK_A: 20 * BLOCK, DISK_B: 9 * BLOCK + 512}
DISKS = st.sampled_from(sorted(SIZES, key=str))
Blocks = set[int]


@dataclass
class Carried:
    """A cycle as its appliance knows it: what each disk held at its snapshot, and which blocks it carries."""

    cycle: Cycle
    disks: dict[DiskId, DiskContent]
    blocks: dict[DiskId, Blocks]

    def extents(self, disk: DiskId) -> ex.Extents:
        return extents_of(disk, self.blocks[disk])

    def coverages(self) -> dict[DiskId, bytes]:
        return {disk: coverage_of(held, self.extents(disk)) for disk, held in self.disks.items()}


def extents_of(disk: DiskId, blocks: Blocks) -> ex.Extents:
    return ex.from_pairs((block * BLOCK, min(BLOCK, SIZES[disk] - block * BLOCK)) for block in blocks)


def blocks_of(extents: ex.Extents) -> Blocks:
    return {int(at) // BLOCK for at, _ in ex.split(extents, BLOCK)}


def differing(now: bytearray, then: bytearray) -> Blocks:
    return {at // BLOCK for at in range(0, len(now), BLOCK) if now[at : at + BLOCK] != then[at : at + BLOCK]}


class ShadowMachine(RuleBasedStateMachine):
    """The appliance's side of the story, and what it was told is durable."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name)
        self.patches = pytest.MonkeyPatch()
        self.patches.setattr(segments, "SEGMENT_BYTES", 5 * BLOCK)
        self.patches.setattr(redo, "ROUND_BYTES", 4 * BLOCK)
        self.trigger = Trigger(None, cut)
        self.storage = SteppedStorage(self.trigger)
        self.source = {disk: content(disk.int, size) for disk, size in SIZES.items()}
        self.changed = {disk: blocks_of(ex.whole(size)) for disk, size in SIZES.items()}
        self.known: dict[CycleId, Carried] = {}
        self.images: dict[PointId, dict[DiskId, bytes]] = {}
        self.held: dict[ImageId, dict[DiskId, bytes]] = {}
        self.seen: set[PointId] = set()
        self.sealed: CycleId | None = None
        self.senders: dict[DiskId, Sender] = {}
        self.acknowledged: dict[DiskId, Blocks] = {disk: set() for disk in SIZES}
        self.sent: dict[DiskId, Blocks] = {disk: set() for disk in SIZES}
        self.lost = [True]

    @initialize()
    def open(self) -> None:
        self.lab = GroupLab(self.root, self.storage)
        (self.root / "target").mkdir(exist_ok=True)
        self.lab.target = SteppedTarget(self.root / "target", self.storage)
        self.shadow: GroupShadow = self.lab.open()
        self.senders = {}

    def teardown(self) -> None:
        self.trigger.at = None
        try:
            while self.shadow.advance(lambda _: None) is not None:
                pass
            self.seen.clear()
            self.points_are_what_the_source_held()
        finally:
            self.shadow.close()
            self.lab.close()
            self.storage.cache.end(lambda _: False)
            self.folder.cleanup()
            self.patches.undo()

    @property
    def receiving(self) -> Carried | None:
        cycle = self.shadow.state.cycle
        return self.known[cycle.id] if cycle is not None and cycle.phase is Phase.RECEIVING else None

    def do(self, work: Callable[[], object]) -> None:
        try:
            work()
        except PowerCut:
            self.power_cut()

    def power_cut(self) -> None:
        """Stop, lose, start, and begin the same cycle again if it is still receiving."""
        self.trigger.at = None
        self.shadow.close()
        self.lab.close()
        self.storage.cache.end(lambda number: self.lost[number % len(self.lost)])
        self.open()
        self.resume()

    def resume(self) -> None:
        carried, cycle = self.receiving, self.shadow.state.cycle
        if cycle is not None and cycle.phase in COMMITTED:
            self.take_as_sealed(cycle.id)
        if carried is None:
            return
        carried.cycle = carried.cycle.model_copy(update={"epoch": self.shadow.state.epoch + 1})
        assert self.shadow.begin(carried.cycle) is Answer.CONTINUE

    def take_as_sealed(self, cycle: CycleId) -> None:
        if self.sealed == cycle:
            return
        self.sealed, carried = cycle, self.known[cycle]
        content_of = {disk: bytes(held.data) for disk, held in carried.disks.items()}
        self.images[point_id(cycle, GROUP)] = self.held[image_of(cycle)] = content_of
        # What a later cycle, whose begin was cut, had changed at the source is to be carried still.
        self.changed = {disk: differing(held.data, carried.disks[disk].data) for disk, held in self.source.items()}

    # What happens

    @rule(ahead=st.integers(1, 40), lost=st.lists(st.booleans(), min_size=1, max_size=4))
    def the_power_will_go(self, ahead: int, lost: list[bool]) -> None:
        self.trigger.at, self.lost = len(self.trigger.steps) + ahead, lost

    @rule()
    def restart(self) -> None:
        def work() -> None:
            self.shadow.close()
            self.lab.close()
            self.open()
            self.resume()

        self.do(work)

    @precondition(lambda self: self.shadow.state.open_cycle is None)
    @rule(seed=st.integers(0, 1000), blocks=st.integers(0, 6))
    def begin(self, seed: int, blocks: int) -> None:
        self._begin(seed, blocks)

    @precondition(lambda self: self.receiving is not None)
    @rule(seed=st.integers(0, 1000), replace=st.booleans())
    def give_up(self, seed: int, replace: bool) -> None:
        """A newer cycle takes the place of the one that is receiving, or an operator drops it."""
        if replace:
            self._begin(seed, 3)
        else:
            self.do(lambda: self.shadow.drop("an operator dropped it"))

    def _begin(self, seed: int, blocks: int) -> None:
        for disk, held in self.source.items():
            self.changed[disk] |= blocks_of(held.change(seed, blocks))
        cycle = self.lab.plan(self.shadow, len(self.known) + 1, self.source)
        disks = {disk: DiskContent(bytearray(held.data)) for disk, held in self.source.items()}
        self.known[cycle.id] = Carried(cycle, disks, {disk: set(changed) for disk, changed in self.changed.items()})
        earlier = self.acknowledged, self.sent
        self.senders, self.acknowledged, self.sent = (
            {},
            {disk: set() for disk in SIZES},
            {disk: set() for disk in SIZES},
        )
        self.do(lambda: self.shadow.begin(cycle))
        if self.receiving is not self.known[cycle.id]:  # cut before it was begun: the earlier one goes on
            self.acknowledged, self.sent = earlier

    @precondition(lambda self: self.receiving is not None)
    @rule(disk=DISKS, count=st.integers(1, 12), size=st.integers(1, 5), sync=st.booleans())
    def send(self, disk: DiskId, count: int, size: int, sync: bool) -> None:
        self.do(lambda: self._send(disk, count, size, sync=sync))

    def _send(self, disk: DiskId, count: int, size: int, *, sync: bool) -> None:
        carried = self.receiving
        assert carried is not None
        sender = self.senders.get(disk) or self._open(carried, disk)
        todo = extents_of(disk, set(sorted(carried.blocks[disk] - self.sent[disk])[:count]))
        for blocks in sender.batches(todo, size):
            self.sent[disk] |= set(blocks.tolist())
            sender.append(sender.seal(np.ascontiguousarray(blocks)).used)
        if sync:
            sender.receiver.sync(sender.attempt)
            self.acknowledged[disk] = set(self.sent[disk])

    def _open(self, carried: Carried, disk: DiskId) -> Sender:
        """What is durable holds everything acknowledged, and nothing that was never sent."""
        sender = Sender(self.shadow, carried.cycle, disk, carried.disks[disk])
        durable = blocks_of(sender.receiver.durable())
        assert self.acknowledged[disk] <= durable <= self.sent[disk]
        self.acknowledged[disk], self.sent[disk] = set(durable), set(durable)
        sender.start()
        self.senders[disk] = sender
        return sender

    @precondition(lambda self: self.receiving is not None)
    @rule(disk=DISKS)
    def go_direct(self, disk: DiskId) -> None:
        self.do(lambda: self.shadow.go_direct(disk))

    @rule(rounds=st.integers(1, 3))
    def drain(self, rounds: int) -> None:
        self.do(lambda: [self.shadow.drain() for _ in range(rounds)])

    @precondition(lambda self: self.receiving is not None)
    @rule()
    def commit(self) -> None:
        def work() -> None:
            carried = self.receiving
            assert carried is not None
            for disk in SIZES:
                self._send(disk, len(carried.blocks[disk]), 5, sync=True)
            self.shadow.commit(carried.cycle.id, carried.cycle.epoch, carried.coverages())
            self.take_as_sealed(carried.cycle.id)

        self.do(work)

    @rule(data=st.data())
    def ask_again_for_an_earlier_one(self, data: st.DataObject) -> None:
        """Its outcome was lost: it is answered, and nothing is done, but that whoever sends now begins again."""
        held = self.shadow.state.cycle
        made = [each.cycle for each in self.shadow.catalogue.all() if held is None or each.cycle != held.id]
        if not made:
            return
        cycle = self.known[data.draw(st.sampled_from(made))].cycle
        cycle = cycle.model_copy(update={"epoch": self.shadow.state.epoch + 1})

        def work() -> None:
            assert self.shadow.begin(cycle) is Answer.COMMITTED
            assert self.shadow.commit(cycle.id, cycle.epoch, {}) is Phase.RECLAIMED
            self.senders = {}
            self.resume()

        self.do(work)

    @rule(steps=st.integers(1, 4))
    def advance(self, steps: int) -> None:
        self.do(lambda: [self.shadow.advance(lambda _: None) for _ in range(steps)])

    # What always holds

    @invariant()
    def what_was_sealed_is_never_lost(self) -> None:
        cycle = self.shadow.state.cycle
        if cycle is not None and cycle.id == self.sealed:
            assert cycle.phase in COMMITTED

    @invariant()
    def points_are_what_the_source_held(self) -> None:
        for point in self.shadow.catalogue.all():
            if point.id not in self.seen:
                self.seen.add(point.id)
                assert recovered(self.lab, self.shadow, point.id) == self.images[point.id]

    @invariant()
    def shadows_are_their_images_but_for_unknown_blocks(self) -> None:
        for disk, image in self.shadow.state.images.items():
            if self.shadow.state.dirty or image.image not in self.held:
                continue
            shadow = bytearray((self.root / "target" / "volumes" / f"{disk}.img").read_bytes())
            digest_map = self.shadow.digest_map(disk)
            unknown = blocks_of(digest_map.unknown())
            digest_map.close()
            assert len(unknown) == image.unknown_blocks
            assert differing(shadow, bytearray(self.held[image.image][disk])) <= unknown

    @invariant()
    def a_finished_cycle_leaves_no_staging(self) -> None:
        cycle = self.shadow.state.cycle
        if cycle is None or cycle.phase not in FINISHED:
            return
        with suppress(FileNotFoundError):
            assert list((self.root / "staging" / str(GROUP)).iterdir()) == []


ShadowMachine.TestCase.settings = settings(stateful_step_count=25)
TestShadowModel = ShadowMachine.TestCase
