"""Damage that a verification has found is marked, and the next cycle heals it, whatever its rung, whatever crashes."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dmcore.blocks import extents as ex
from dmcore.blocks.extents import Extents
from dmcore.model.enums import Reason, Rung, SnapshotKind
from dmcore.model.ids import DiskId
from dmcore.model.phase import Phase
from dmcore.seal.derive import digest_key
from dmcore.shadow.errors import CoverageDiffers, GroupBusy
from dmcore.shadow.group import GroupShadow
from dmcore.shadow.marking import Damage, may_mark
from dmcore.shadow.points import Point
from dmcore.shadow.state import Cycle, CycleDisk
from dmcore.shadow.storage import Storage
from dmcore.shadow.verify import Verifier
from tests.shadow.faults import PowerCut, SteppedStorage, SteppedTarget, Trigger, cut
from tests.shadow.group_lab import (
    BLOCK,
    DISK_A,
    DISK_B,
    KEYS,
    DiskContent,
    GroupLab,
    coverage_of,
    recovered,
    roll_forward,
    run_cycle,
    send_disk,
)

BLOCKS = 20
SIZE = BLOCKS * BLOCK + 512
NOT_LONG_S = 0.01


def blocks_at(*blocks: int) -> Extents:
    return ex.from_pairs((block * BLOCK, min(BLOCK, SIZE - block * BLOCK)) for block in blocks)


class Damaging:
    """Two points of a disk; the second has other blocks 2 and 3."""

    def __init__(self, root: Path) -> None:
        self.lab = GroupLab(root)
        self.shadow = self.lab.open()
        self.disk = DiskContent(bytearray(b"".join(bytes([block + 1]) * BLOCK for block in range(BLOCKS + 1))[:SIZE]))
        self.carry(1, ex.whole(SIZE))
        self.change(2, 3)
        self.carry(2, blocks_at(2, 3))

    def change(self, *blocks: int) -> None:
        for block in blocks:
            self.disk.data[block * BLOCK : (block + 1) * BLOCK] = bytes([100 + self.disk.data[block * BLOCK]]) * BLOCK

    def carry(self, number: int, extents: Extents, rung: Rung | None = None) -> Cycle:
        cycle = self.plan(number, rung)
        assert run_cycle(self.shadow, cycle, {DISK_A: (self.disk, extents)}) is Phase.RECLAIMED
        return cycle

    def plan(self, number: int, rung: Rung | None = None) -> Cycle:
        cycle = self.lab.plan(self.shadow, number, {DISK_A: self.disk})
        if rung is None:
            return cycle
        plan = cycle.disks[DISK_A].model_copy(update={"rung": rung, "reason": Reason.TRACKED})
        return cycle.model_copy(update={"disks": {DISK_A: plan}})

    def begin(self, number: int, *blocks: int) -> Cycle:
        cycle = self.plan(number)
        self.shadow.begin(cycle)
        send_disk(self.shadow, cycle, DISK_A, self.disk, blocks_at(*blocks))
        return cycle

    @property
    def points(self) -> list[Point]:
        return self.shadow.catalogue.all()

    def flip(self, path: Path, *blocks: int) -> None:
        path.chmod(0o600)
        with path.open("r+b") as file:
            for block in blocks:
                file.seek(block * BLOCK + 11)
                flipped = bytes([file.read(1)[0] ^ 1])
                file.seek(-1, 1)
                file.write(flipped)

    def damage(self, point: Point, *blocks: int) -> None:
        self.flip(self.lab.root / "target" / "snapshots" / f"{point.disks[0].snapshot}.img", *blocks)

    def damage_shadow(self, *blocks: int) -> None:
        self.flip(self.lab.root / "target" / "volumes" / f"{DISK_A}.img", *blocks)

    def found(self, point: Point) -> list[int]:
        with closing(self.check(point)) as checked:
            return checked.blocks

    def mark(self, point: Point, timeout_s: float = NOT_LONG_S) -> int:
        with closing(self.check(point)) as checked:
            return self.shadow.mark_damaged(checked.damage, timeout_s)

    def check(self, point: Point) -> "Checked":
        return Checked(self.lab, self.shadow, point)

    def unknown(self) -> list[int]:
        with closing(self.shadow.digest_map(DISK_A)) as digest_map:
            found = [int(offset) // BLOCK for offset, _ in digest_map.unknown()]
        assert self.shadow.state.images[DISK_A].unknown_blocks >= len(found)
        return found

    def close(self) -> None:
        self.shadow.close()
        self.lab.close()


class Checked:
    def __init__(self, lab: GroupLab, shadow: GroupShadow, point: Point) -> None:
        assert lab.target is not None
        self.map = shadow.maps_of(point)[DISK_A]
        with closing(lab.target.open_snapshot(point.disks[0].snapshot)) as image:
            extents = Verifier(image, self.map, digest_key(KEYS.digest_root, DISK_A)).run(lambda _: None)
        self.blocks = [offset // BLOCK for offset, _ in ex.split(extents, BLOCK).tolist()]
        self.damage = {DISK_A: Damage(extents, self.map)}

    def close(self) -> None:
        self.map.close()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Damaging]:
    held = Damaging(tmp_path)
    yield held
    held.close()


def heal(lab: Damaging, number: int, blocks: list[int], rung: Rung = Rung.DELTA) -> None:
    """The next cycle is made to carry what is unknown; then the newest point is what the source has."""
    cycle = lab.plan(number, rung)
    lab.shadow.begin(cycle)
    missed = {DISK_A: coverage_of(lab.disk, ex.empty())}
    with pytest.raises(CoverageDiffers, match="unknown blocks"):
        lab.shadow.commit(cycle.id, cycle.epoch, missed)
    extents = blocks_at(*blocks)
    send_disk(lab.shadow, cycle, DISK_A, lab.disk, extents)
    lab.shadow.commit(cycle.id, cycle.epoch, {DISK_A: coverage_of(lab.disk, extents)})
    assert roll_forward(lab.shadow) is Phase.RECLAIMED
    assert recovered(lab.lab, lab.shadow, lab.points[-1].id) == {DISK_A: bytes(lab.disk.data)}
    assert lab.found(lab.points[-1]) == []
    assert lab.unknown() == []
    assert lab.shadow.state.images[DISK_A].unknown_blocks == 0


@pytest.mark.parametrize("rung", [Rung.DELTA, Rung.COMPARE])
def test_damage_is_marked_and_healed_by_the_next_cycle(lab: Damaging, rung: Rung) -> None:
    lab.damage_shadow(0, 5, BLOCKS)
    lab.carry(3, blocks_at(7))
    newest = lab.points[-1]
    assert lab.found(newest) == [0, 5, BLOCKS]
    assert lab.mark(newest) == 3
    assert lab.unknown() == [0, 5, BLOCKS]
    assert lab.mark(newest) == 0  # they are marked already
    heal(lab, 4, [0, 5, BLOCKS], rung)
    assert [lab.found(point) for point in lab.points] == [[], [], [0, 5, BLOCKS], []]


def test_on_reflinks_too(xfs: Path) -> None:
    held = Damaging(xfs)
    assert held.lab.target is not None
    assert held.lab.target.caps.snapshots is SnapshotKind.REFLINK
    held.damage_shadow(4)
    held.carry(3, blocks_at(7))
    assert held.mark(held.points[-1]) == 1
    heal(held, 4, [4])
    held.close()


def test_an_old_points_damage_is_marked_where_the_newest_is_the_same(lab: Damaging) -> None:
    """Blocks 2 and 3 are others by now: the shadow cannot have this damage."""
    lab.damage(lab.points[0], 1, 2, 3, 9)
    assert lab.found(lab.points[0]) == [1, 2, 3, 9]
    assert lab.mark(lab.points[0]) == 2
    assert lab.unknown() == [1, 9]
    assert [lab.found(point) for point in lab.points] == [[1, 2, 3, 9], []]  # a mark is no damage to other points
    heal(lab, 3, [1, 9])
    assert [lab.found(point) for point in lab.points] == [[1, 2, 3, 9], [], []]


def test_nothing_the_same_is_nothing_to_mark(lab: Damaging) -> None:
    lab.damage(lab.points[0], 2)
    before = lab.shadow.state
    assert lab.mark(lab.points[0]) == 0
    assert lab.shadow.state == before


def test_while_a_cycle_is_received_it_must_carry_them_itself(lab: Damaging) -> None:
    lab.damage(lab.points[1], 4)
    lab.change(7)
    cycle = lab.begin(3, 7)
    assert lab.mark(lab.points[1]) == 1
    with pytest.raises(CoverageDiffers, match="unknown blocks"):
        lab.shadow.commit(cycle.id, cycle.epoch, {DISK_A: coverage_of(lab.disk, blocks_at(7))})
    send_disk(lab.shadow, cycle, DISK_A, lab.disk, blocks_at(4, 7))
    lab.shadow.commit(cycle.id, cycle.epoch, {DISK_A: coverage_of(lab.disk, blocks_at(4, 7))})
    assert roll_forward(lab.shadow) is Phase.RECLAIMED
    assert [lab.found(point) for point in lab.points] == [[], [4], []]


def test_a_cycle_that_was_marked_in_and_dropped(lab: Damaging) -> None:
    lab.damage(lab.points[1], 4)
    lab.begin(3, 7)
    assert lab.mark(lab.points[1]) == 1
    lab.shadow.drop("for the test")
    assert [lab.found(point) for point in lab.points] == [[], [4]]
    heal(lab, 4, [4])
    assert [lab.found(point) for point in lab.points] == [[], [4], []]


# While the map is written


def seal(lab: Damaging) -> None:
    lab.change(7)
    cycle = lab.begin(3, 7)
    lab.shadow.commit(cycle.id, cycle.epoch, {DISK_A: coverage_of(lab.disk, blocks_at(7))})


def make_direct(lab: Damaging) -> None:
    lab.begin(3, 7)
    lab.shadow.go_direct(DISK_A)


@pytest.mark.parametrize("into", [seal, make_direct])
def test_a_group_whose_maps_are_written_is_waited_for(lab: Damaging, into: Callable[[Damaging], None]) -> None:
    lab.damage(lab.points[1], 4)
    into(lab)
    with pytest.raises(GroupBusy):
        lab.mark(lab.points[1])
    marked: list[int] = []
    thread = threading.Thread(target=lambda: marked.append(lab.mark(lab.points[1], 30.0)))
    thread.start()
    if lab.shadow.state.receiving:
        lab.shadow.drop("for the test")
    roll_forward(lab.shadow)
    thread.join()
    assert marked == [1]
    heal(lab, 5, [4] if into is seal else [4, 7])


def test_a_step_that_takes_too_long(lab: Damaging) -> None:
    lab.damage(lab.points[1], 4)
    with lab.shadow._advancing, pytest.raises(GroupBusy):
        lab.mark(lab.points[1])
    assert lab.unknown() == []


def test_a_cycle_that_seals_at_the_last_moment(lab: Damaging, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.damage(lab.points[1], 4)
    seal(lab)
    monkeypatch.setattr(lab.shadow._changed, "wait_for", lambda *_: True)
    with pytest.raises(GroupBusy):
        lab.mark(lab.points[1])


@pytest.mark.parametrize("phase", Phase)
def test_in_which_phases(lab: Damaging, phase: Phase) -> None:
    cycle = lab.plan(3).model_copy(update={"phase": phase})
    state = lab.shadow.state.model_copy(update={"cycle": cycle})
    writing = {Phase.SEALED, Phase.APPLIED, Phase.DROPPING}
    assert may_mark(state, {DISK_A}) == (phase not in writing)
    direct = state.model_copy(update={"cycle": cycle.with_direct([DISK_A])})
    assert may_mark(direct, {DISK_A}) == (phase not in writing | {Phase.RECEIVING})
    assert may_mark(direct, {DISK_B}) == (phase not in writing)


def test_a_seed_of_another_disk_is_not_waited_for(lab: Damaging) -> None:
    lab.damage(lab.points[1], 4)
    cycle = lab.plan(3)
    seed = GroupLab.plan_disk(lab.shadow, 3, DISK_B, DiskContent(bytearray(BLOCK)))
    disks: dict[DiskId, CycleDisk] = {**cycle.disks, DISK_B: seed}
    lab.shadow.begin(cycle.model_copy(update={"disks": disks}))
    assert lab.shadow.state.direct_disks == [DISK_B]
    assert lab.mark(lab.points[1]) == 1


# Crashes


@pytest.mark.parametrize("lost", [True, False])
def test_a_power_cut_before_each_step_of_a_mark(tmp_path: Path, lost: bool) -> None:
    """Either it is marked, and the state says so; or the next verification marks it."""
    cuts = 0
    for at in range(1, 40):
        root = tmp_path / str(at)
        root.mkdir()
        held = Damaging(root)
        held.damage(held.points[0], 1, 9)
        held.close()
        trigger = Trigger(at, cut)
        held.lab.storage = stepped = SteppedStorage(trigger)
        held.lab.target = SteppedTarget(root / "target", stepped)
        trigger.at = None
        held.shadow = held.lab.open()
        trigger.at = len(trigger.steps) + at
        finished = True
        try:
            assert held.mark(held.points[0]) == 2
        except PowerCut:
            finished, cuts = False, cuts + 1
        trigger.at = None
        held.close()
        stepped.cache.end(lambda _: lost)
        held.lab.storage = Storage()
        held.shadow = held.lab.open()
        assert set(held.unknown()) <= {1, 9}
        assert [held.found(point) for point in held.points] == [[1, 9], []]
        held.mark(held.points[0])
        assert held.unknown() == [1, 9]
        heal(held, 3, [1, 9])
        assert [held.found(point) for point in held.points] == [[1, 9], [], []]
        held.close()
        if finished:
            break
    assert cuts >= 8
