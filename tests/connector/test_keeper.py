"""What is done to points of a real connector: checked, given back, kept, removed."""

import math
import os
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import pytest

from dmcore.api.points import PointFact
from dmcore.connector import checking
from dmcore.connector.errors import ClockJumped, PointBusy, PointKept
from dmcore.connector.keeper import PointKeeper
from dmcore.errors import DmcoreError
from dmcore.model.ids import PointId
from dmcore.model.phase import Phase
from dmcore.model.points import PointState
from dmcore.node.settings import RetentionSettings
from dmcore.shadow.errors import ExpiryFailed, GroupBusy, PointDamaged, PointUnknown, StateUnreadable
from dmcore.shadow.group import GroupShadow
from dmcore.shadow.points import Catalogue, PointFlags
from dmcore.shadow.verify import Sample
from dmcore.targets.errors import TargetIOFailed
from dmcore.targets.volume import FolderImage
from tests.connector.appliance import Appliance
from tests.connector.kit import BLOCK, BLOCKS, TIMEOUT_S, Disk
from tests.connector.rig import Rig

Error = TypeVar("Error", bound=Exception)
NO_PROGRESS = lambda _: None  # noqa: E731 - a name for it reads better
FAILED = TargetIOFailed(path="/x", operation="delete", offset=0, problem="Input/output error")


class Bench:
    """Four points of one disk, two days old; the newest one is kept."""

    def __init__(self, rig: Rig, appliance: Appliance, disk: Disk) -> None:
        self.rig, self.appliance, self.disk = rig, appliance, disk
        self.told: list[PointFact] = []
        for number in range(4):
            disk.change(number)
            appliance.run(disk, carry=None if number == 0 else [number])
        rig.wait_until_finished()
        self.age(days=2)
        self.points = [point.id for point, _ in self.keeper.all()]

    @property
    def keeper(self) -> PointKeeper:
        keeper = self.rig.connector.keeper
        keeper._tell = self.told.append
        keeper._retention = RetentionSettings(keep_newest=1)
        return keeper

    @property
    def catalogue(self) -> Catalogue:
        (catalogue,) = self.rig.connector.groups.catalogues()
        return catalogue

    def age(self, **by: float) -> None:
        """Time passes for the points, though not for the clock: certificates are judged by that."""
        past = self.rig.clock.now.timestamp() - 86_400 * by["days"]
        for path in self.catalogue._paths():
            os.utime(path, (past, past))

    def left(self) -> list[PointId]:
        return [point.id for point, _ in self.keeper.all()]

    def snapshots(self) -> int:
        return len(self.rig.connector.groups.target("shadows").snapshots())

    def damage(self, point: PointId) -> None:
        path = self.snapshot_of(point)
        path.chmod(0o600)
        with path.open("r+b") as file:
            flipped = bytes([file.read(1)[0] ^ 1])
            file.seek(0)
            file.write(flipped)

    def snapshot_of(self, point: PointId) -> Path:
        snapshot = self.catalogue.get(point).disks[0].snapshot
        return self.rig.lab.root / "target" / "snapshots" / f"{snapshot}.img"


@pytest.fixture
def bench(rig: Rig, appliance: Appliance, disk: Disk) -> Bench:
    return Bench(rig, appliance, disk)


def refused(kind: type[Error], act: Callable[[], object]) -> Error:
    with pytest.raises(kind) as caught:
        act()
    return caught.value


# Expire


def test_an_old_point_goes_with_its_snapshots(bench: Bench) -> None:
    bench.keeper.expire(bench.points[0])
    assert bench.left() == bench.points[1:]
    assert bench.snapshots() == 3
    (fact,) = bench.told
    assert (fact.id, fact.state) == (bench.points[0], PointState.EXPIRED)
    refused(PointUnknown, lambda: bench.keeper.expire(bench.points[0]))
    assert bench.keeper.verify(bench.points[-1], NO_PROGRESS)["checked_bytes"] == BLOCKS * BLOCK
    bench.appliance.run(bench.disk, carry=[5])


def test_a_hostile_control_plane_asks_for_all_of_them(bench: Bench) -> None:
    bench.keeper.preserve(bench.points[1], preserved=True)
    whys: list[str] = []
    for point in bench.points * 2:
        try:
            bench.keeper.expire(point)
        except PointKept as kept:
            whys.append(kept.why)
        except PointUnknown:
            pass
    assert bench.left() == [bench.points[1], bench.points[3]]
    assert whys == ["it is preserved", "it is the last good point of one of its disks"] * 2


def test_young_points_stay_all_of_them(bench: Bench) -> None:
    bench.age(days=0.9)
    for point in bench.points:
        kept = refused(PointKept, lambda point=point: bench.keeper.expire(point))  # type: ignore[misc]
        assert kept.code == "point.kept"
        assert kept.until == bench.rig.clock.now + timedelta(days=0.1)
    assert bench.left() == bench.points
    assert bench.told == []


def test_the_last_good_one_stays_though_a_damaged_one_is_newer(bench: Bench) -> None:
    bench.damage(bench.points[3])
    refused(PointDamaged, lambda: bench.keeper.verify(bench.points[3], NO_PROGRESS))
    assert "last good" in refused(PointKept, lambda: bench.keeper.expire(bench.points[2])).why
    bench.keeper.expire(bench.points[1])


def test_a_clock_that_jumped_freezes_expiry(bench: Bench) -> None:
    bench.rig.clock.advance(days=300)
    refused(ClockJumped, lambda: bench.keeper.expire(bench.points[0]))
    assert bench.left() == bench.points


def test_a_snapshot_that_cannot_be_removed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    target = bench.rig.connector.groups.target("shadows")
    before = bench.keeper.all()

    def fail(_: str) -> None:
        raise FAILED

    with monkeypatch.context() as patched:
        patched.setattr(target, "delete_snapshot", fail)
        failed = refused(ExpiryFailed, lambda: bench.keeper.expire(bench.points[0]))
    assert not failed.permanent
    after = bench.keeper.all()
    assert [point for point, _ in after] == [point for point, _ in before]
    assert after[0][1].good
    assert bench.told == []
    bench.keeper.expire(bench.points[0])
    assert bench.left() == bench.points[1:]


def test_two_at_once_do_not_count_on_each_other(bench: Bench) -> None:
    """With one to be kept, of the last two only one may go: whoever decides first is seen by the other."""
    bench.keeper._retention = RetentionSettings(keep_newest=1)
    for point in bench.points[:2]:
        bench.keeper.expire(point)
    outcomes: list[Exception | None] = []

    def expire(point: PointId) -> None:
        try:
            bench.rig.connector.keeper.expire(point)
        except DmcoreError as error:
            outcomes.append(error)
        else:
            outcomes.append(None)

    threads = [threading.Thread(target=expire, args=(point,)) for point in bench.points[2:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bench.left() == [bench.points[3]]
    assert sorted(type(each).__name__ for each in outcomes) == ["NoneType", "PointKept"]


def test_a_broken_groups_points_stay(bench: Bench) -> None:
    bench.rig.stop()
    (bench.rig.state_dir / "groups" / str(bench.rig.group) / "state.json").write_text("rot")
    bench.rig.start()
    kept = refused(PointKept, lambda: bench.keeper.expire(bench.points[0]))
    assert "is not served" in kept.why
    assert bench.left() == bench.points


def test_a_point_that_is_being_published_stays(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (shadow,) = bench.rig.connector.groups.all()
    cycle = shadow.state.cycle
    assert cycle is not None
    state = shadow.state.model_copy(update={"cycle": cycle.model_copy(update={"phase": Phase.SNAPSHOTTED})})
    monkeypatch.setattr(shadow, "_state", state)
    assert "published" in str(refused(PointBusy, lambda: bench.keeper.expire(bench.points[3])))


def test_a_start_goes_on_though_flags_cannot_be_removed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(bench.catalogue, "remove_stray_flags", fail)
    bench.keeper.finish_expiries()
    assert bench.left() == bench.points


def test_a_start_finishes_what_was_begun(bench: Bench) -> None:
    for point in bench.points[:2]:
        bench.catalogue.change(point, expiring=True)
    bench.snapshot_of(bench.points[0]).unlink()
    bench.rig.restart()
    assert bench.left() == bench.points[2:]
    assert bench.snapshots() == 2


def test_a_start_goes_on_though_a_removal_fails(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keeper = bench.keeper
    for point in bench.points[:2]:
        bench.catalogue.change(point, expiring=True)

    def fail(_: str) -> None:
        raise FAILED

    with monkeypatch.context() as patched:
        patched.setattr(bench.rig.connector.groups.target("shadows"), "delete_snapshot", fail)
        keeper.finish_expiries()
    assert bench.left() == bench.points
    assert "recovery point not expired" in capsys.readouterr().out
    for point in bench.points[:2]:  # whole, and so the marks were taken back
        assert bench.catalogue.flags(point).good


# While somebody is at it


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Every read of a snapshot says so, and waits."""
    reading, go_on = threading.Event(), threading.Event()
    real = FolderImage.read_into

    def read_into(self: FolderImage, offset: int, buffer: memoryview) -> None:
        reading.set()
        assert go_on.wait(TIMEOUT_S)
        real(self, offset, buffer)

    monkeypatch.setattr(FolderImage, "read_into", read_into)
    yield reading, go_on
    go_on.set()


def test_nothing_expires_while_it_is_recovered(
    bench: Bench, gate: tuple[threading.Event, threading.Event], tmp_path: Path
) -> None:
    reading, go_on = gate
    thread = threading.Thread(
        target=lambda: bench.rig.connector.keeper.recover(bench.points[0], tmp_path / "back", NO_PROGRESS)
    )
    thread.start()
    assert reading.wait(TIMEOUT_S)
    busy = refused(PointBusy, lambda: bench.keeper.expire(bench.points[0]))
    assert not busy.permanent
    assert not bench.catalogue.flags(bench.points[0]).expiring
    bench.keeper.expire(bench.points[1])
    go_on.set()
    thread.join()
    assert len(list((tmp_path / "back").iterdir())) == 1
    bench.keeper.expire(bench.points[0])


def test_what_is_marked_is_not_verified_or_preserved(bench: Bench) -> None:
    bench.catalogue.change(bench.points[3], expiring=True)
    refused(PointBusy, lambda: bench.keeper.verify(bench.points[3], NO_PROGRESS))
    refused(PointBusy, lambda: bench.keeper.preserve(bench.points[3], preserved=True))


# Verify, preserve


def test_a_verification_is_kept_with_the_point(bench: Bench) -> None:
    newest = bench.points[3]
    bench.keeper.verify(newest, NO_PROGRESS)
    flags = bench.catalogue.flags(newest)
    assert (flags.verified_at, flags.state) == (bench.rig.clock.now, PointState.AVAILABLE)
    bench.damage(newest)
    refused(PointDamaged, lambda: bench.keeper.verify(newest, NO_PROGRESS))
    assert bench.catalogue.flags(newest).state is PointState.DEGRADED
    bench.damage(newest)  # the same bit: whole again
    bench.keeper.verify(newest, NO_PROGRESS)
    assert bench.catalogue.flags(newest).good
    assert [fact.state for fact in bench.told] == ["available", "degraded", "available"]
    assert [fact.revision for fact in bench.told] == sorted({fact.revision for fact in bench.told})


def test_damage_is_healed_by_the_next_cycle(bench: Bench) -> None:
    """Of an old point: what the newest has too is sent again, by a delta."""
    bench.damage(bench.points[0])
    found = refused(PointDamaged, lambda: bench.keeper.verify(bench.points[0], NO_PROGRESS))
    assert (found.blocks, found.marked) == (1, 1)
    for point in bench.points[1:]:  # a mark is no damage of theirs
        bench.keeper.verify(point, NO_PROGRESS)
    bench.damage(bench.points[2])
    again = refused(PointDamaged, lambda: bench.keeper.verify(bench.points[2], NO_PROGRESS))
    assert (again.blocks, again.marked) == (1, 0)  # it is marked
    assert bench.appliance.state().disks[0].unknown_blocks == 1
    bench.appliance.run(bench.disk, carry=[0, 9])
    bench.rig.wait_until_finished()
    assert bench.appliance.state().disks[0].unknown_blocks == 0
    newest = bench.keeper.all()[-1][0].id
    assert bench.keeper.verify(newest, NO_PROGRESS)["damaged_blocks"] == 0


def test_damage_that_cannot_be_marked_is_told_all_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> int:
        raise GroupBusy(group="g", cycle="c", phase="sealed")

    bench.damage(bench.points[3])
    with monkeypatch.context() as patched:
        patched.setattr(GroupShadow, "mark_damaged", fail)
        found = refused(PointDamaged, lambda: bench.keeper.verify(bench.points[3], NO_PROGRESS))
    assert (found.blocks, found.marked) == (1, 0)
    assert bench.catalogue.flags(bench.points[3]).state is PointState.DEGRADED
    assert "damage not marked" in capsys.readouterr().out
    assert refused(PointDamaged, lambda: bench.keeper.verify(bench.points[3], NO_PROGRESS)).marked == 1


def test_only_so_many_places_are_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "NAMED", 3)
    path = bench.snapshot_of(bench.points[3])
    path.chmod(0o600)
    with path.open("r+b") as file:
        for block in range(0, 12, 2):
            file.seek(block * BLOCK)
            file.write(b"rot")
    found = refused(PointDamaged, lambda: bench.keeper.verify(bench.points[3], NO_PROGRESS))
    assert found.blocks == 6
    assert found.where.count("1 blocks at offset") == 3


def test_a_sample_counts_as_a_sample(bench: Bench) -> None:
    """It finds what it reads, and neither verifies a point nor makes one good again."""
    newest, part, all_of_it = bench.points[3], Sample(10.0, b"job"), Sample(100.0, b"job")
    checked = bench.keeper.verify(newest, NO_PROGRESS, part)
    assert checked["checked_bytes"] == 4 * BLOCK
    assert bench.keeper.size_of([newest], part) == math.ceil(BLOCKS * BLOCK / 10)
    assert bench.catalogue.flags(newest) == PointFlags()
    bench.damage(newest)
    refused(PointDamaged, lambda: bench.keeper.verify(newest, NO_PROGRESS, all_of_it))
    flags = bench.catalogue.flags(newest)
    assert (flags.state, flags.verified_at) == (PointState.DEGRADED, None)
    bench.damage(newest)  # the same bit: whole again
    bench.keeper.verify(newest, NO_PROGRESS, all_of_it)
    assert bench.catalogue.flags(newest).state is PointState.DEGRADED


def old_files(bench: Bench) -> int:
    return len(list((bench.rig.state_dir / "groups" / str(bench.rig.group) / "old").rglob("*.old")))


def test_what_was_kept_for_a_point_goes_with_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert old_files(bench) == 3
    bench.keeper.expire(bench.points[0])
    assert old_files(bench) == 2

    def fail(_: GroupShadow) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(GroupShadow, "forget_old_digests", fail)
        bench.keeper.expire(bench.points[1])
    assert old_files(bench) == 2
    bench.rig.restart()
    assert old_files(bench) == 1
    bench.keeper.verify(bench.points[2], NO_PROGRESS)


def test_preserve_and_no_longer(bench: Bench) -> None:
    point = bench.points[0]
    assert bench.keeper.preserve(point, preserved=True).preserved
    assert "preserved" in refused(PointKept, lambda: bench.keeper.expire(point)).why
    assert bench.keeper.preserve(point, preserved=True).revision == 1
    assert not bench.keeper.preserve(point, preserved=False).preserved
    assert [fact.preserved for fact in bench.told] == [True, True, False]
    bench.keeper.expire(point)


def test_damaged_flags_are_not_written_over(bench: Bench) -> None:
    bench.catalogue._flags_path(bench.points[0]).write_text("rot")
    refused(StateUnreadable, lambda: bench.keeper.preserve(bench.points[0], preserved=False))
    assert "preserved" in refused(PointKept, lambda: bench.keeper.expire(bench.points[0])).why


def test_no_such_point(bench: Bench, tmp_path: Path) -> None:
    missing = PointId(uuid4())
    for act in (
        lambda: bench.keeper.expire(missing),
        lambda: bench.keeper.preserve(missing, preserved=True),
        lambda: bench.keeper.verify(missing, NO_PROGRESS),
        lambda: bench.keeper.recover_under(missing, tmp_path, uuid4(), NO_PROGRESS),
    ):
        assert refused(PointUnknown, act)
    assert bench.keeper.size_of([missing, bench.points[0]]) == BLOCKS * BLOCK


# Facts


def test_facts_of_all_points(bench: Bench) -> None:
    bench.keeper.preserve(bench.points[2], preserved=True)
    facts = list(bench.keeper.facts())
    assert [fact.id for fact in facts] == bench.points
    assert [fact.preserved for fact in facts] == [False, False, True, False]


def test_a_new_point_is_told(bench: Bench) -> None:
    keeper = bench.keeper
    attempt = bench.appliance.run(bench.disk, carry=[9])
    bench.rig.wait_until_finished()
    (fact,) = bench.told
    assert (fact.cycle, fact.state, fact.disks) == (attempt.cycle, "available", 1)
    keeper.publish(bench.catalogue.get(fact.id))  # again, as after a crash
    assert bench.told == [fact, fact]
    assert bench.catalogue.flags(fact.id) == PointFlags()
