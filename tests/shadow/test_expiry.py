"""Removing a point: in every gap of its order the removal is cut, and finished by the next start."""

import contextlib
import itertools
import shutil
from pathlib import Path

import pytest

from dmcore.blocks import extents as ex
from dmcore.errors import DmcoreError
from dmcore.model.ids import PointId, point_id
from dmcore.shadow import expiry
from dmcore.shadow.errors import ExpiryFailed, PointUnknown
from dmcore.shadow.group import GroupShadow
from dmcore.shadow.points import Point, PointFlags
from dmcore.targets.base import Target
from dmcore.targets.errors import TargetIOFailed
from dmcore.targets.folder import FolderTarget
from tests.shadow.faults import PowerCut, SteppedStorage, SteppedTarget, Trigger, cut
from tests.shadow.group_lab import DISK_A, DISK_B, GROUP, GroupLab, content, cycle_id, run_cycle

SIZE = 8 * 4096
FIRST, SECOND = (point_id(cycle_id(number), GROUP) for number in (1, 2))


@pytest.fixture
def two_points(tmp_path: Path) -> Path:
    """A group of two disks with two points."""
    root = tmp_path / "prepared"
    root.mkdir()
    lab = GroupLab(root)
    shadow = lab.open()
    disks = {disk: content(disk.int, SIZE) for disk in (DISK_A, DISK_B)}
    run_cycle(shadow, lab.plan(shadow, 1, disks), {disk: (held, ex.whole(SIZE)) for disk, held in disks.items()})
    changes = {disk: (held, held.change(2)) for disk, held in disks.items()}
    run_cycle(shadow, lab.plan(shadow, 2, disks), changes)
    shadow.close()
    lab.close()
    return root


def target_of(lab: GroupLab) -> Target:
    assert lab.target is not None
    return lab.target


def start(lab: GroupLab, told: list[PointId]) -> GroupShadow:
    """What a connector's start does about removals."""
    shadow = lab.open()
    shadow.catalogue.remove_stray_flags()
    for point in shadow.catalogue.expiring():
        expiry.finish(shadow.catalogue, target_of(lab), point, lambda gone, _: told.append(gone.id))
    return shadow


def stepped(root: Path, trigger: Trigger) -> GroupLab:
    storage = SteppedStorage(trigger)
    lab = GroupLab(root, storage)
    lab.target = SteppedTarget(root / "target", storage)
    return lab


def remove(root: Path, trigger: Trigger, told: list[PointId], point: PointId = FIRST) -> bool:
    """A start, then the removal. False if either was cut."""
    lab = stepped(root, trigger)
    shadow = None
    try:
        shadow = start(lab, told)
        with contextlib.suppress(PointUnknown):
            found = shadow.catalogue.get(point)
            expiry.mark(shadow.catalogue, found)
            expiry.finish(shadow.catalogue, target_of(lab), found, lambda gone, _: told.append(gone.id))
    except PowerCut:
        return False
    else:
        return True
    finally:
        trigger.at = None
        if shadow is not None:
            shadow.close()
        lab.close()


def check(root: Path, *, removed: bool) -> None:
    """The first point is whole or gone, with all that is of it; the second is as it was."""
    lab = GroupLab(root)
    shadow = lab.open()
    try:
        points = {point.id: point for point in shadow.catalogue.all()}
        assert set(points) == ({SECOND} if removed else {FIRST, SECOND})
        held = {disk.snapshot for point in points.values() for disk in point.disks}
        assert set(target_of(lab).snapshots()) == held
        assert [flags for flags in shadow.catalogue.changed() if flags.expiring] == []
    finally:
        shadow.close()
        lab.close()


def marked(root: Path) -> bool:
    lab = GroupLab(root)
    shadow = lab.open()
    found = bool(shadow.catalogue.expiring())
    shadow.close()
    lab.close()
    return found


@pytest.mark.parametrize("second_cut", [None, 1, 2, 3, 4, 5], ids=lambda at: f"again-at-{at}")
def test_every_gap_is_finished_by_the_next_start(two_points: Path, tmp_path: Path, second_cut: int | None) -> None:
    seen: set[tuple[bool, bool]] = set()
    for at in itertools.count(1):
        root = tmp_path / f"at-{at}"
        shutil.copytree(two_points, root)
        told: list[PointId] = []
        if remove(root, Trigger(at, cut), told):
            check(root, removed=True)
            break
        begun = marked(root)
        if second_cut is not None:
            remove_only_at_start(root, Trigger(second_cut, cut), told)
        lab = GroupLab(root)
        start(lab, told).close()
        lab.close()
        gone = FIRST in told
        check(root, removed=gone)
        assert not begun or gone  # what was begun is finished, and told
        seen.add((begun, gone))
        shutil.rmtree(root)
    assert seen == {(False, False), (True, True), (False, True)}


def remove_only_at_start(root: Path, trigger: Trigger, told: list[PointId]) -> None:
    lab = stepped(root, trigger)
    with contextlib.suppress(PowerCut):
        start(lab, told).close()
    lab.close()


def test_removing_again_changes_nothing(two_points: Path) -> None:
    told: list[PointId] = []
    assert remove(two_points, Trigger(None, cut), told)
    assert remove(two_points, Trigger(None, cut), told)
    assert told == [FIRST]


# What cannot be removed


class StubbornTarget(FolderTarget):
    """Refuses to remove the snapshots of a disk; perhaps it will not even say what it has."""

    def __init__(self, root: Path, stubborn: str, *, mute: bool = False) -> None:
        super().__init__(root)
        self.stubborn, self.mute = stubborn, mute

    def delete_snapshot(self, snapshot: str) -> None:
        if self.stubborn and snapshot.startswith(self.stubborn):
            raise TargetIOFailed(path="/x", operation="delete", offset=0, problem="Input/output error")
        super().delete_snapshot(snapshot)

    def snapshots(self) -> list[str]:
        if self.mute:
            raise OSError(5, "Input/output error")
        return super().snapshots()


def fail_to_remove(root: Path, stubborn: str, *, mute: bool = False) -> PointFlags:
    """The flags that are left by a removal that fails, and then succeeds once the target relents."""
    lab = GroupLab(root)
    lab.target = target = StubbornTarget(root / "target", stubborn, mute=mute)
    shadow = lab.open()
    told: list[Point] = []
    point = shadow.catalogue.get(FIRST)
    expiry.mark(shadow.catalogue, point)
    with pytest.raises(ExpiryFailed, match=f"{FIRST} was not removed.*Input/output error") as refused:
        expiry.finish(shadow.catalogue, target, point, lambda gone, _: told.append(gone))
    assert (refused.value.code, refused.value.permanent) == ("point.expiry-failed", False)
    assert (told, shadow.catalogue.get(FIRST)) == ([], point)
    flags = shadow.catalogue.flags(FIRST)
    target.stubborn, target.mute = "", False
    expiry.mark(shadow.catalogue, point)
    expiry.finish(shadow.catalogue, target, point, lambda gone, _: told.append(gone))
    assert told == [point]
    shadow.close()
    lab.close()
    check(root, removed=True)
    return flags


def test_a_point_that_is_still_whole_is_as_it_was(two_points: Path) -> None:
    assert fail_to_remove(two_points, str(DISK_A)).good


def test_a_point_that_has_lost_a_snapshot_stays_marked(two_points: Path) -> None:
    assert fail_to_remove(two_points, str(DISK_B)).expiring


def test_a_point_of_which_nothing_is_known_stays_marked(two_points: Path) -> None:
    assert fail_to_remove(two_points, str(DISK_A), mute=True).expiring


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), DmcoreError()], ids=["os", "known"])
def test_a_removal_that_cannot_be_told_stays_to_be_finished(two_points: Path, error: Exception) -> None:
    lab = GroupLab(two_points)
    shadow = lab.open()
    point = shadow.catalogue.get(FIRST)

    def fail(_: Point, __: PointFlags) -> None:
        raise error

    expiry.mark(shadow.catalogue, point)
    with pytest.raises(ExpiryFailed):
        expiry.finish(shadow.catalogue, target_of(lab), point, fail)
    assert shadow.catalogue.expiring() == [point]
    shadow.close()
    lab.close()
    again = GroupLab(two_points)
    told: list[PointId] = []
    start(again, told).close()
    again.close()
    assert told == [FIRST]
