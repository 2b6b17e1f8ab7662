"""Every point of a group can be verified, whatever its cycles do now, and until no point needs what is kept for it."""

import errno
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dmcore.blocks import extents as ex
from dmcore.blocks.extents import Extents
from dmcore.model.enums import Reason, Rung
from dmcore.model.ids import image_of
from dmcore.model.phase import Phase
from dmcore.seal.derive import digest_key
from dmcore.shadow import segments
from dmcore.shadow.errors import PointNotVerifiable, StateUnreadable
from dmcore.shadow.group import GroupShadow
from dmcore.shadow.kit import GroupLimits
from dmcore.shadow.old_digests import file_of
from dmcore.shadow.points import Point
from dmcore.shadow.records import MAX_BODY_BYTES
from dmcore.shadow.state import Cycle
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
    content,
    coverage_of,
    roll_forward,
    run_cycle,
    send_disk,
)

SIZE = 40 * BLOCK + 512


def damaged(lab: GroupLab, shadow: GroupShadow, point: Point) -> int:
    """How many bytes of a point are not what it was committed with."""
    assert lab.target is not None
    found = 0
    maps = shadow.maps_of(point)
    for disk in point.disks:
        key = digest_key(KEYS.digest_root, disk.disk)
        with closing(lab.target.open_snapshot(disk.snapshot)) as image, closing(maps[disk.disk]) as digest_map:
            assert digest_map.grid.disk_bytes == disk.disk_bytes
            found += ex.total_bytes(Verifier(image, digest_map, key).run(lambda _: None))
    return found


def all_whole(lab: GroupLab, shadow: GroupShadow, points: int) -> None:
    held = shadow.catalogue.all()
    assert len(held) == points
    assert [damaged(lab, shadow, point) for point in held] == [0] * points


def files(lab: GroupLab) -> list[str]:
    return sorted(path.name for path in (lab.root / "state" / "old").rglob("*.old"))


class Story:
    """A disk of three points, of which each was another."""

    def __init__(self, lab: GroupLab, shadow: GroupShadow) -> None:
        self.lab, self.shadow, self.disk = lab, shadow, content(1, SIZE)
        self.run(1, ex.whole(SIZE))
        for number in (2, 3):
            self.run(number, self.disk.change(number, blocks=12))

    def run(self, number: int, changed: Extents) -> None:
        cycle = self.lab.plan(self.shadow, number, {DISK_A: self.disk})
        assert run_cycle(self.shadow, cycle, {DISK_A: (self.disk, changed)}) is Phase.RECLAIMED

    def begin(self, number: int, blocks: int = 12) -> tuple[Cycle, Extents]:
        changed = self.disk.change(number, blocks)
        cycle = self.lab.plan(self.shadow, number, {DISK_A: self.disk})
        self.shadow.begin(cycle)
        send_disk(self.shadow, cycle, DISK_A, self.disk, changed)
        return cycle, changed

    def seal(self, cycle: Cycle, changed: Extents) -> None:
        self.shadow.commit(cycle.id, cycle.epoch, {DISK_A: coverage_of(self.disk, changed)})


@pytest.fixture
def story(lab: GroupLab, shadow: GroupShadow) -> Story:
    return Story(lab, shadow)


def test_every_point_can_be_verified(story: Story) -> None:
    all_whole(story.lab, story.shadow, 3)
    assert files(story.lab) == [f"{number:016x}.old" for number in (2, 3)]  # a seed overwrites nothing


def test_in_every_phase_of_the_next_cycle(story: Story) -> None:
    cycle, changed = story.begin(4)
    all_whole(story.lab, story.shadow, 3)
    story.seal(cycle, changed)
    all_whole(story.lab, story.shadow, 3)
    while (phase := story.shadow.advance(lambda _: None)) is not None:
        all_whole(story.lab, story.shadow, 3 if phase is Phase.APPLIED else 4)


@pytest.mark.parametrize("at", [*range(1, 30), *range(30, 62, 4)])
def test_while_a_map_is_written_and_after_a_power_cut_there(tmp_path: Path, at: int) -> None:
    """Whatever redo has got to, and whether what it had not synced is lost or not."""
    lab = GroupLab(tmp_path)
    story = Story(lab, lab.open())
    story.seal(*story.begin(4))
    story.shadow.close()
    lab.close()
    trigger = Trigger(None, cut)
    lab.storage = stepped = SteppedStorage(trigger)
    lab.target = SteppedTarget(tmp_path / "target", stepped)
    shadow = lab.open()
    trigger.at = len(trigger.steps) + at
    try:
        while shadow.advance(lambda _: None) is not None:
            pass
    except PowerCut:
        trigger.at = None
        all_whole(lab, shadow, len(shadow.catalogue.all()))
    finally:
        shadow.close()
        stepped.cache.end(lambda number: number % 2 == 0)
        lab.close()
    lab.storage = Storage()
    shadow = lab.open()
    all_whole(lab, shadow, len(shadow.catalogue.all()))
    assert roll_forward(shadow) is Phase.RECLAIMED
    all_whole(lab, shadow, 4)
    shadow.close()
    lab.close()


@pytest.fixture
def direct_story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Story]:
    """There is room for hardly more than a batch: every cycle is direct."""
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 3 * BLOCK)
    lab = GroupLab(tmp_path, limits=GroupLimits(reserve_bytes=0, quota_bytes=MAX_BODY_BYTES + (1 << 20)))
    held = Story(lab, lab.open())
    yield held
    held.shadow.close()
    lab.close()


def test_a_direct_cycle_that_is_received_and_given_up(direct_story: Story) -> None:
    story, shadow = direct_story, direct_story.shadow
    cycle, _ = story.begin(4)
    shadow.go_direct(DISK_A)
    while shadow.drain():
        all_whole(story.lab, shadow, 3)
    shadow.drop("for the test")
    all_whole(story.lab, shadow, 3)
    assert roll_forward(shadow) is Phase.DROPPED
    assert shadow.state.images[DISK_A].unknown_blocks > 0
    all_whole(story.lab, shadow, 3)
    assert cycle.id != shadow.state.images[DISK_A].image
    story.run(5, ex.whole(SIZE))
    all_whole(story.lab, shadow, 4)


def test_a_disk_that_has_grown(story: Story) -> None:
    story.disk.data.extend(b"\x05" * (7 * BLOCK))
    cycle = story.lab.plan(story.shadow, 4, {DISK_A: story.disk})
    plan = cycle.disks[DISK_A].model_copy(update={"rung": Rung.COMPARE, "reason": Reason.RESIZED})
    cycle = cycle.model_copy(update={"disks": {DISK_A: plan}})
    tail = ex.from_pairs([(40 * BLOCK, 7 * BLOCK + 512)])
    assert run_cycle(story.shadow, cycle, {DISK_A: (story.disk, tail)}) is Phase.RECLAIMED
    all_whole(story.lab, story.shadow, 4)
    story.disk.data[-1] ^= 1
    story.run(5, ex.from_pairs([(47 * BLOCK, 512)]))
    all_whole(story.lab, story.shadow, 5)


def test_a_second_disk_keeps_its_own(story: Story) -> None:
    other = DiskContent(bytearray(b"\x03" * BLOCK * 5))
    cycle = story.lab.plan(story.shadow, 4, {DISK_A: story.disk, DISK_B: other})
    carried = {DISK_A: (story.disk, story.disk.change(4)), DISK_B: (other, ex.whole(5 * BLOCK))}
    assert run_cycle(story.shadow, cycle, carried) is Phase.RECLAIMED
    assert files(story.lab) == [f"{number:016x}.old" for number in (2, 3, 4)]
    all_whole(story.lab, story.shadow, 4)


# Until no point needs them


def test_what_no_point_needs_goes_with_the_point(story: Story) -> None:
    points = story.shadow.catalogue.all()
    for left, point in [([3], points[0]), ([], points[1])]:
        story.shadow.catalogue.remove(point.id)
        story.shadow.forget_old_digests()
        assert files(story.lab) == [f"{number:016x}.old" for number in left]
        all_whole(story.lab, story.shadow, len(left) + 1)


def test_a_point_that_cannot_be_read_may_need_them(story: Story) -> None:
    first = story.shadow.catalogue.all()[0]
    path = story.lab.root / "state" / "points" / f"{first.id}.json"
    whole = path.read_bytes()
    path.write_bytes(b"rot")
    story.shadow.forget_old_digests()
    path.write_bytes(whole)
    all_whole(story.lab, story.shadow, 3)


def test_nothing_is_kept_for_no_point(story: Story) -> None:
    for point in story.shadow.catalogue.all():
        story.shadow.catalogue.remove(point.id)
    story.run(4, story.disk.change(4))
    story.shadow.forget_old_digests()
    assert files(story.lab) == []
    all_whole(story.lab, story.shadow, 1)


# What cannot be


def test_a_point_of_before_cycles_were_counted(story: Story) -> None:
    point = story.shadow.catalogue.all()[0].model_copy(update={"number": 0})
    with pytest.raises(PointNotVerifiable, match="before old digests were kept"):
        story.shadow.maps_of(point)


def test_a_point_whose_disk_is_gone(story: Story) -> None:
    point = story.shadow.catalogue.all()[0]
    moved = point.model_copy(update={"disks": [point.disks[0].model_copy(update={"disk": DISK_B})]})
    with pytest.raises(PointNotVerifiable, match="has no shadow any more"):
        story.shadow.maps_of(moved)


@pytest.mark.parametrize("number", [2, 3])
def test_old_digests_that_are_damaged_are_told_of(story: Story, number: int) -> None:
    """They are not taken for a torn tail: the points behind them would look damaged."""
    path = file_of(story.lab.root / "state" / "old" / str(DISK_A), number)
    held = bytearray(path.read_bytes())
    held[-1] ^= 1
    path.write_bytes(held)
    points = story.shadow.catalogue.all()
    with pytest.raises(StateUnreadable, match="are no record"):
        story.shadow.maps_of(points[0])
    assert damaged(story.lab, story.shadow, points[2]) == 0
    story.shadow.close()
    story.shadow = story.lab.open()
    with pytest.raises(StateUnreadable, match="are no record"):
        story.shadow.maps_of(points[0])


def test_what_cannot_be_kept_stops_the_redo_before_the_map_is_written(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    story.seal(*story.begin(4))
    with monkeypatch.context() as patched:
        patched.setattr("dmcore.shadow.old_digests.OldDigests.keep", fail)
        with pytest.raises(OSError, match="No space"):
            story.shadow.advance(lambda _: None)
    all_whole(story.lab, story.shadow, 3)
    assert roll_forward(story.shadow) is Phase.RECLAIMED
    all_whole(story.lab, story.shadow, 4)
    assert story.shadow.state.images[DISK_A].image == image_of(story.shadow.catalogue.all()[-1].cycle)
