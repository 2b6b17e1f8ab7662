"""Every gap of the commit order: the connector is stopped before each durable call of a seed, of a delta (staged, or
direct from its begin or its middle on), of a cycle that takes another's place and of one that fails, and before
each of the restart's. Every restart is recovery.

A stop is a killed process (what was written stays) or a power cut (what was not synced is gone). docs/staging-log.md
has the table of gaps; tests/shadow/test_staging_doc.py compares it with the phases that are met here.
"""

import contextlib
import copy
import errno
import itertools
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from dmcore.blocks import extents as ex
from dmcore.errors import DmcoreError
from dmcore.model.ids import DiskId, image_of, point_id
from dmcore.model.phase import Phase
from dmcore.seal import derive
from dmcore.seal.reference_codec import block_digest
from dmcore.shadow import redo, segments
from dmcore.shadow.admission import Answer
from dmcore.shadow.group import GroupShadow
from dmcore.shadow.state import STATE_FILE, Cycle, load_state
from dmcore.shadow.storage import Storage
from tests.shadow.faults import PowerCut, SteppedStorage, SteppedTarget, Trigger, cut
from tests.shadow.group_lab import (
    BLOCK,
    DISK_A,
    DISK_B,
    GROUP,
    KEYS,
    DiskContent,
    GroupLab,
    Sender,
    content,
    coverage_of,
    cycle_id,
    recovered,
    roll_forward,
    send_disk,
)

SIZES = {DISK_A: 12 * BLOCK, DISK_B: 4 * BLOCK + 512}
WAY = {Phase.RECEIVING, Phase.SEALED, Phase.APPLIED, Phase.SNAPSHOTTED, Phase.PUBLISHED, Phase.RECLAIMED}
"""The phases of a cycle that becomes a point. Each sweep finds a stop in every phase that it names."""
REPLACED = WAY | {Phase.DROPPED}
GIVEN_UP = REPLACED | {Phase.DROPPING}
FAILED = {Phase.RECEIVING, Phase.SEALED, Phase.FAILED}
SECOND_STRIDE = 5
"""Where the restart is cut too, not every first cut is tried: the product of both would take minutes."""

Changes = dict[DiskId, ex.Extents]
Send = Callable[[GroupShadow, Cycle, DiskId, DiskContent, ex.Extents], None]


@pytest.fixture(autouse=True)
def small_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment for each batch, and a checkpoint for each segment."""
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 2 * BLOCK)
    monkeypatch.setattr(redo, "ROUND_BYTES", BLOCK)


@pytest.fixture
def root() -> Iterator[Path]:
    """In memory, if there is such a place: what a real sync costs is not what is looked at here."""
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


class Scenario:
    """Cycles of two disks; the oracle is what the source held at each."""

    def __init__(self, root: Path, *, power_cut: bool = False) -> None:
        self.root, self.power_cut = root, power_cut
        root.mkdir(exist_ok=True)
        self.disks = {disk: content(disk.int, size) for disk, size in SIZES.items()}
        self.images: dict[int, dict[DiskId, bytes]] = {}
        self.too_large = False

    def elsewhere(self, root: Path) -> "Scenario":
        """The same on a copy of its files."""
        other = copy.deepcopy(self)
        other.root = root
        return other

    def change(self, number: int) -> Changes:
        changed = {
            disk: ex.whole(SIZES[disk]) if number == 1 else held.change(number) for disk, held in self.disks.items()
        }
        self.images[number] = {disk: bytes(held.data) for disk, held in self.disks.items()}
        return changed

    def plan(self, lab: GroupLab, shadow: GroupShadow, number: int) -> Cycle:
        """Too large to be staged, if it is to be direct from its begin on."""
        cycle = lab.plan(shadow, number, self.disks)
        if not self.too_large:
            return cycle
        plans = {disk: plan.model_copy(update={"expected_bytes": 1 << 60}) for disk, plan in cycle.disks.items()}
        return cycle.model_copy(update={"disks": plans})

    def lab(self, trigger: Trigger) -> GroupLab:
        storage = SteppedStorage(trigger)
        lab = GroupLab(self.root, storage)
        (self.root / "target").mkdir(exist_ok=True)
        lab.target = SteppedTarget(self.root / "target", storage)
        return lab

    def begin_only(self, number: int, changed: Changes, send: Send = send_disk) -> None:
        """A cycle of which one disk is sent, and that is then left."""
        lab = self.lab(Trigger(None, cut))
        shadow = lab.open()
        cycle = lab.plan(shadow, number, self.disks)
        shadow.begin(cycle)
        send(shadow, cycle, DISK_A, self.disks[DISK_A], changed[DISK_A])
        shadow.close()
        lab.close()


def send_draining(shadow: GroupShadow, cycle: Cycle, disk: DiskId, held: DiskContent, extents: ex.Extents) -> None:
    """As `send_disk`, and what is durable of a direct disk is redone behind each batch."""
    receiver, _ = shadow.open(cycle.id, cycle.epoch, disk)
    missing = ex.subtract(extents, receiver.durable())
    if not len(missing):
        return
    sender = Sender(shadow, cycle, disk, held)
    sender.start()
    for blocks in sender.batches(missing, 3):
        sender.append(sender.seal(blocks).used)
        sender.receiver.sync(sender.attempt)
        while shadow.drain():
            pass
    sender.finish()


def send_direct(shadow: GroupShadow, cycle: Cycle, disk: DiskId, held: DiskContent, extents: ex.Extents) -> None:
    """The first part staged, the rest direct."""
    send_disk(shadow, cycle, disk, held, extents[:1])
    shadow.go_direct(disk)
    send_draining(shadow, cycle, disk, held, extents)


def send_spoiled_draining(
    shadow: GroupShadow, cycle: Cycle, disk: DiskId, held: DiskContent, extents: ex.Extents
) -> None:
    send_spoiled(shadow, cycle, disk, held, extents[:1])
    shadow.go_direct(disk)
    while shadow.drain():
        pass
    send_spoiled(shadow, cycle, disk, held, extents)


def send_spoiled(shadow: GroupShadow, cycle: Cycle, disk: DiskId, held: DiskContent, extents: ex.Extents) -> None:
    """As `send_disk`, but under digests that are not the blocks' own: their tags are right, they do not open."""
    receiver, _ = shadow.open(cycle.id, cycle.epoch, disk)
    missing = ex.subtract(extents, receiver.durable())
    if not len(missing):
        return
    sender = Sender(shadow, cycle, disk, held)
    sender.start()
    for blocks in sender.batches(missing, 3):
        raw = b"".join(bytes(held.data[b * held.block : (b + 1) * held.block]) for b in blocks.tolist())
        digests = np.full((len(blocks), 16), 1, dtype=np.uint8)
        sender.append(sender.writer.seal(blocks, raw, sender.out, digests=digests).used)
        sender.receiver.sync(sender.attempt)
    sender.finish()


def attempt(
    lab: GroupLab, shadow: GroupShadow, scenario: Scenario, number: int, changed: Changes, send: Send = send_disk
) -> Cycle:
    """What an appliance does under a new epoch, whatever an earlier attempt, or another cycle, has left."""
    check_shadows(scenario, shadow)
    held = shadow.state.cycle
    ours = held if held is not None and held.id == cycle_id(number) else None
    if ours is not None and ours.phase is not Phase.RECEIVING:
        roll_forward(shadow)
        return ours
    epoch = shadow.state.epoch + 1
    cycle = ours.model_copy(update={"epoch": epoch}) if ours else scenario.plan(lab, shadow, number)
    if shadow.begin(cycle) is Answer.BUSY:  # what the earlier one has written is accounted for first
        roll_forward(shadow)
        check_shadows(scenario, shadow)
        cycle = scenario.plan(lab, shadow, number)
        shadow.begin(cycle)
    for disk, extents in changed.items():
        send(shadow, cycle, disk, scenario.disks[disk], extents)
    named = {disk: coverage_of(scenario.disks[disk], extents) for disk, extents in changed.items()}
    shadow.commit(cycle.id, cycle.epoch, named)
    roll_forward(shadow)
    return cycle


def one_try(scenario: Scenario, number: int, changed: Changes, trigger: Trigger, send: Send = send_disk) -> bool:
    """Start, attempt, stop. False if it was cut."""
    lab = scenario.lab(trigger)
    shadow: GroupShadow | None = None
    try:
        shadow = lab.open()
        attempt(lab, shadow, scenario, number, changed, send)
    except PowerCut:
        return False
    else:
        return True
    finally:
        trigger.at = None
        if shadow is not None:
            shadow.close()
        lab.close()
        assert isinstance(lab.storage, SteppedStorage)
        lab.storage.cache.end(lambda _: scenario.power_cut)


def check_shadows(scenario: Scenario, shadow: GroupShadow) -> None:
    """A shadow with an image equals it, and its map tells it, but for unknown blocks: when the group is not dirty."""
    made = {image_of(cycle_id(number)): held for number, held in scenario.images.items()}
    for disk, image in shadow.state.images.items():
        if shadow.state.dirty or image.token is None:  # of a seed that was given up its next cycle's point tells
            continue
        volume, expected = (scenario.root / "target/volumes" / f"{disk}.img").read_bytes(), made[image.image][disk]
        with contextlib.closing(shadow.digest_map(disk)) as digest_map:
            unknown = digest_map.unknown()
            digests = digest_map.read(0, digest_map.grid.blocks)
        assert len(unknown) == image.unknown_blocks
        wrong = {at for at in range(0, SIZES[disk], BLOCK) if volume[at : at + BLOCK] != expected[at : at + BLOCK]}
        assert wrong <= set(unknown[:, 0].tolist())
        key = derive.digest_key(KEYS.digest_root, disk)
        for block in set(range(len(digests))) - set((unknown[:, 0] // BLOCK).tolist()):
            assert digests[block].tobytes() == block_digest(key, block, volume[block * BLOCK : (block + 1) * BLOCK])


def check(scenario: Scenario, number: int, points: list[int], ended: Phase = Phase.RECLAIMED) -> None:
    """The last cycle has ended so, these cycles' points give back what the source held, and nothing else is left."""
    lab = scenario.lab(Trigger(None, cut))
    shadow = lab.open()
    try:
        assert shadow.state.cycle is not None
        assert (shadow.state.cycle.id, shadow.state.cycle.phase) == (cycle_id(number), ended)
        check_shadows(scenario, shadow)
        for earlier in points:
            assert recovered(lab, shadow, point_id(cycle_id(earlier), GROUP)) == scenario.images[earlier]
        assert len(shadow.catalogue.all()) == len(points)
        assert list((scenario.root / "staging" / str(GROUP)).iterdir()) == []
    finally:
        shadow.close()
        lab.close()


def phase_on_disk(root: Path, number: int) -> Phase | None:
    """The phase of a cycle, as the state file has it; None if it is not there."""
    if not (root / "state" / STATE_FILE).exists():
        return None
    cycle = load_state(Storage(), root / "state").cycle
    return cycle.phase if cycle and cycle.id == cycle_id(number) else None


def sweep(
    folder: Path,
    prepare: Callable[[Scenario], Changes],
    number: int,
    *,
    power_cut: bool,
    second_cut: int | None = None,
    send: Send = send_disk,
    then: Callable[[Scenario, Changes], None],
) -> Counter[Phase | None]:
    """Stop at each durable call in turn, once more in the restart, and go on. Returns the phases that were found."""
    found: Counter[Phase | None] = Counter()
    prepared = Scenario(folder / "prepared", power_cut=power_cut)
    changed = prepare(prepared)
    for at in itertools.count(1, 1 if second_cut is None else SECOND_STRIDE):
        root = folder / f"at-{at}"
        shutil.copytree(prepared.root, root)
        scenario = prepared.elsewhere(root)
        if one_try(scenario, number, changed, Trigger(at, cut), send):
            return found
        found[phase_on_disk(root, number)] += 1
        found[phase_on_disk(root, number - 1)] += 1
        if second_cut is not None:
            one_try(scenario, number, changed, Trigger(second_cut, cut), send)
        assert one_try(scenario, number, changed, Trigger(None, cut), send)
        then(scenario, changed)
        shutil.rmtree(root)
    raise AssertionError


def seeded(scenario: Scenario) -> Changes:
    return scenario.change(1)


def changed_since_seed(scenario: Scenario) -> Changes:
    assert one_try(scenario, 1, scenario.change(1), Trigger(None, cut))
    return scenario.change(2)


def too_large_to_stage(scenario: Scenario) -> Changes:
    changed = changed_since_seed(scenario)
    scenario.too_large = True
    return changed


def changed_twice(scenario: Scenario) -> Changes:
    """Cycle 2 was begun and left; cycle 3 carries what changed since the image, too."""
    second = changed_since_seed(scenario)
    scenario.begin_only(2, second)
    third = scenario.change(3)
    return {disk: ex.union(second[disk], third[disk]) for disk in third}


def changed_twice_direct(scenario: Scenario) -> Changes:
    """Cycle 2 has written to the shadow of its first disk."""
    second = changed_since_seed(scenario)
    scenario.begin_only(2, second, send_direct)
    third = scenario.change(3)
    return {disk: ex.union(second[disk], third[disk]) for disk in third}


def seeded_twice(scenario: Scenario) -> Changes:
    """A seed was begun and left; another cycle goes on from what it has written."""
    first = scenario.change(1)
    scenario.begin_only(1, {disk: extents // 2 // BLOCK * BLOCK for disk, extents in first.items()}, send_draining)
    scenario.change(2)
    return {disk: ex.whole(size) for disk, size in SIZES.items()}


stops = pytest.mark.parametrize("power_cut", [False, True], ids=["killed", "power-cut"])


Prepare = Callable[[Scenario], Changes]


@stops
@pytest.mark.parametrize(
    ("number", "prepare", "send"),
    [
        (1, seeded, send_draining),
        (2, changed_since_seed, send_disk),
        (2, too_large_to_stage, send_draining),
        (2, changed_since_seed, send_direct),
    ],
    ids=["seed", "delta", "direct-at-begin", "direct-halfway"],
)
class TestEveryGapEndsInTheRightImage:
    @staticmethod
    def then(scenario: Scenario, changed: Changes) -> None:
        check(scenario, len(scenario.images), list(scenario.images))

    def test_once(self, root: Path, number: int, prepare: Prepare, send: Send, *, power_cut: bool) -> None:
        found = sweep(root, prepare, number, power_cut=power_cut, send=send, then=self.then)
        assert found.keys() >= WAY

    @pytest.mark.parametrize("second_cut", [1, 4, 9], ids=lambda at: f"again-at-{at}")
    def test_twice(
        self, root: Path, number: int, prepare: Prepare, send: Send, second_cut: int, *, power_cut: bool
    ) -> None:
        found = sweep(root, prepare, number, power_cut=power_cut, send=send, second_cut=second_cut, then=self.then)
        assert found.keys() >= {Phase.RECEIVING, Phase.SEALED}


@stops
@pytest.mark.parametrize(
    ("number", "prepare", "points", "phases"),
    [
        (2, seeded_twice, [2], GIVEN_UP),
        (3, changed_twice, [1, 3], REPLACED),
        (3, changed_twice_direct, [1, 3], GIVEN_UP),
    ],
    ids=["seed", "delta", "direct"],
)
def test_every_gap_of_a_cycle_that_takes_anothers_place(
    root: Path, number: int, prepare: Prepare, points: list[int], phases: set[Phase], *, power_cut: bool
) -> None:
    found = sweep(
        root, prepare, number, power_cut=power_cut, send=send_draining,
        then=lambda scenario, _: check(scenario, number, points),
    )  # fmt: skip
    assert found.keys() >= phases


@stops
@pytest.mark.parametrize("send", [send_spoiled, send_spoiled_draining], ids=["staged", "direct"])
def test_every_gap_of_a_cycle_that_fails(root: Path, send: Send, *, power_cut: bool) -> None:
    """Frames that do not open: no point, and the next cycle heals what is unknown."""

    def then(scenario: Scenario, changed: Changes) -> None:
        check(scenario, 2, [1], ended=Phase.FAILED)
        assert load_state(Storage(), scenario.root / "state").images[DISK_A].unknown_blocks
        third = scenario.change(3)
        healing = {disk: ex.union(changed[disk], third[disk]) for disk in third}
        assert one_try(scenario, 3, healing, Trigger(None, cut))
        check(scenario, 3, [1, 3])

    found = sweep(root, changed_since_seed, 2, power_cut=power_cut, send=send, then=then)
    assert found.keys() >= FAILED


def failing(code: int) -> Callable[[str], None]:
    def act(what: str) -> None:
        raise OSError(code, os.strerror(code))

    return act


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
def test_every_failing_call_is_an_error_and_the_next_start_goes_on(root: Path, code: int) -> None:
    """One call fails once: the cycle ends in an error or not at all, and never in a wrong point."""
    for at in itertools.count(1):
        place = root / f"at-{at}"
        scenario = Scenario(place)
        changed = scenario.change(1)
        trigger = Trigger(at, failing(code), final=False)
        ended = False
        with contextlib.suppress(OSError, DmcoreError):  # the fault; that the next start goes on is checked below
            ended = one_try(scenario, 1, changed, trigger, send_draining)
        reached = len(trigger.steps) >= at
        assert ended or one_try(scenario, 1, changed, Trigger(None, cut))
        check(scenario, 1, [1])
        shutil.rmtree(place)
        if not reached:
            break
