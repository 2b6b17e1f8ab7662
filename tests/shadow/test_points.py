"""The catalogue: immutable files, oldest first, and one that cannot be read is named."""

import itertools
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from dmcore.model.enums import Consistency, Reason, Rung, SnapshotKind
from dmcore.model.ids import PointId, point_id
from dmcore.model.points import PointState
from dmcore.shadow.errors import PointUnknown, StateUnreadable
from dmcore.shadow.points import UNREADABLE, Catalogue, Point, PointDisk, PointFlags
from dmcore.shadow.storage import Storage
from tests.shadow.faults import PowerCut, SteppedStorage, Trigger, cut
from tests.shadow.group_lab import DISK_A, GROUP, PLAN, cycle_id

FIRST = datetime(2026, 5, 1, 12, tzinfo=UTC)
DISK = PointDisk(
    disk=DISK_A, machine="vm", label="disk", disk_bytes=4608, block_bytes=4096, snapshot="a@b",
    snapshot_kind=SnapshotKind.REFLINK, rung=Rung.DELTA, reason=Reason.TRACKED, covered_bytes=512,
)  # fmt: skip


def point(number: int, minutes: int) -> Point:
    return Point(
        id=point_id(cycle_id(number), GROUP), plan=PLAN, group=GROUP, cycle=cycle_id(number),
        source_time=FIRST + timedelta(minutes=minutes), consistency=Consistency.FILESYSTEM, target="shadows",
        disks=[DISK], lacking=["another"],
    )  # fmt: skip


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    return Catalogue(Storage(), tmp_path / "points")


def test_a_new_catalogue_is_empty(catalogue: Catalogue) -> None:
    assert catalogue.all() == []


def test_points_come_oldest_first_by_their_source_time(catalogue: Catalogue) -> None:
    points = [point(1, 30), point(2, 10), point(3, 20)]
    for each in points:
        catalogue.add(each)
    assert catalogue.all() == [points[1], points[2], points[0]]
    assert catalogue.get(points[2].id) == points[2]
    assert points[0].state is PointState.AVAILABLE


def test_adding_a_point_again_changes_nothing(catalogue: Catalogue) -> None:
    catalogue.add(point(1, 0))
    catalogue.add(point(1, 0))
    assert catalogue.all() == [point(1, 0)]


def test_adding_cut_short_leaves_no_point_or_a_whole_one(tmp_path: Path) -> None:
    found = []
    for at in itertools.count(1):
        folder = tmp_path / f"points-{at}"
        try:
            Catalogue(SteppedStorage(Trigger(at, cut)), folder).add(point(1, 0))
        except PowerCut:
            found.append(Catalogue(Storage(), folder).all())
        else:
            break
    assert found[0] == []
    assert all(each in ([], [point(1, 0)]) for each in found)
    assert found[-1] == [point(1, 0)]


def test_an_unknown_point_is_named(catalogue: Catalogue) -> None:
    missing = PointId(UUID(int=77))
    with pytest.raises(PointUnknown, match=str(missing)):
        catalogue.get(missing)


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": 2}'], ids=["empty", "cut", "another-version"])
def test_a_damaged_point_is_named(catalogue: Catalogue, tmp_path: Path, content: bytes) -> None:
    catalogue.add(point(1, 0))
    path = tmp_path / "points" / f"{point(1, 0).id}.json"
    path.write_bytes(content)
    with pytest.raises(StateUnreadable, match=path.name):
        catalogue.get(point(1, 0).id)
    catalogue.add(point(2, 1))
    assert catalogue.all() == [point(2, 1)]  # one damaged file must not hide the others: they may be needed now
    (problem,) = catalogue.unreadable()
    assert path.name in str(problem)


# Flags


def flags_file(catalogue: Catalogue, number: int = 1) -> Path:
    return catalogue._flags_path(point(number, 0).id)


def test_a_new_point_has_no_flags(catalogue: Catalogue) -> None:
    catalogue.add(point(1, 0))
    assert catalogue.flags(point(1, 0).id) == PointFlags()
    assert catalogue.flags(point(1, 0).id).good
    assert catalogue.changed() == []
    assert not flags_file(catalogue).exists()


def test_every_change_is_a_revision_and_the_point_stays_as_it_was(catalogue: Catalogue, tmp_path: Path) -> None:
    catalogue.add(point(1, 0))
    found = catalogue.change(point(1, 0).id, preserved=True)
    assert (found.preserved, found.revision) == (True, 1)
    found = catalogue.change(point(1, 0).id, verified_at=FIRST, state=PointState.DEGRADED)
    assert (found.preserved, found.good, found.revision) == (True, False, 2)
    assert Catalogue(Storage(), tmp_path / "points").flags(point(1, 0).id) == found
    assert catalogue.changed() == [found]
    assert catalogue.all() == [point(1, 0)]
    catalogue.add(point(1, 0))  # as a restart does
    assert catalogue.flags(point(1, 0).id) == found


def test_changing_nothing_writes_nothing(catalogue: Catalogue) -> None:
    catalogue.add(point(1, 0))
    assert catalogue.change(point(1, 0).id, preserved=False) == PointFlags()
    assert not flags_file(catalogue).exists()


def test_flags_of_no_point(catalogue: Catalogue) -> None:
    with pytest.raises(PointUnknown):
        catalogue.change(point(1, 0).id, preserved=True)
    assert catalogue.flags(point(1, 0).id) == PointFlags()


def test_a_change_cut_short_leaves_the_old_flags_or_the_new(tmp_path: Path) -> None:
    found = []
    for at in itertools.count(1):
        folder = tmp_path / f"points-{at}"
        Catalogue(Storage(), folder).add(point(1, 0))
        try:
            Catalogue(SteppedStorage(Trigger(at, cut)), folder).change(point(1, 0).id, preserved=True)
        except PowerCut:
            found.append(Catalogue(Storage(), folder).flags(point(1, 0).id))
        else:
            break
    assert found[0] == PointFlags()
    assert found[-1] == PointFlags(preserved=True, revision=1)
    assert set(map(str, found)) == {str(found[0]), str(found[-1])}


def test_damaged_flags_keep_the_point_and_are_named(catalogue: Catalogue) -> None:
    catalogue.add(point(1, 0))
    catalogue.change(point(1, 0).id, expiring=True)
    flags_file(catalogue).write_bytes(b"rot")
    assert catalogue.flags(point(1, 0).id) == UNREADABLE
    assert UNREADABLE.preserved
    assert catalogue.all() == [point(1, 0)]
    assert (catalogue.expiring(), catalogue.changed()) == ([], [])
    (problem,) = catalogue.unreadable()
    assert flags_file(catalogue).name in str(problem)
    with pytest.raises(StateUnreadable, match=flags_file(catalogue).name):
        catalogue.change(point(1, 0).id, preserved=False)
    assert flags_file(catalogue).read_bytes() == b"rot"


def test_a_removed_point_is_gone_with_its_flags(catalogue: Catalogue) -> None:
    catalogue.add(point(1, 0))
    catalogue.change(point(1, 0).id, expiring=True)
    assert catalogue.expiring() == [point(1, 0)]
    assert not catalogue.flags(point(1, 0).id).good
    catalogue.remove(point(1, 0).id)
    catalogue.remove(point(1, 0).id)
    assert catalogue.count() == 0
    assert catalogue.expiring() == []
    assert not flags_file(catalogue).exists()


def test_flags_that_a_crash_left_without_their_point(catalogue: Catalogue) -> None:
    for number in (1, 2):
        catalogue.add(point(number, 0))
        catalogue.change(point(number, 0).id, expiring=True)
    catalogue._path(point(1, 0).id).unlink()
    assert catalogue.expiring() == [point(2, 0)]
    catalogue.remove_stray_flags()
    assert not flags_file(catalogue, 1).exists()
    assert flags_file(catalogue, 2).exists()


def test_a_point_that_goes_while_the_catalogue_is_read(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue.add(point(1, 0))
    missing = catalogue._path(PointId(UUID(int=9)))
    paths = [missing, *catalogue._paths()]
    monkeypatch.setattr(catalogue, "_paths", lambda: paths)
    assert catalogue.all() == [point(1, 0)]
    assert catalogue.unreadable() == []


def test_how_long_a_point_is_here(catalogue: Catalogue) -> None:
    catalogue.add(point(1, 0))
    os.utime(catalogue._path(point(1, 0).id), (FIRST.timestamp(), FIRST.timestamp()))
    assert catalogue.made_at(point(1, 0).id) == FIRST
    with pytest.raises(PointUnknown):
        catalogue.made_at(point(2, 0).id)
