"""The catalogue: immutable files, oldest first, and one that cannot be read is named."""

import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from dmcore.model.enums import Consistency, PointState, Reason, Rung, SnapshotKind
from dmcore.model.ids import PointId, point_id
from dmcore.shadow.errors import PointUnknown, StateUnreadable
from dmcore.shadow.points import Catalogue, Point, PointDisk
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
