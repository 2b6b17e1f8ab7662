"""What lies beside a connector's groups: what goes by itself, what only by an operator, what never."""

from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from dmcore.connector.leftovers import Kind, Leftover
from dmcore.connector.operator import LeftoversRequest, ask
from dmcore.lab.layout import TARGET
from dmcore.node.settings import TargetKind, TargetSettings
from dmcore.targets.errors import TargetIOFailed
from tests.connector.appliance import Appliance, Attempt
from tests.connector.kit import Disk
from tests.connector.rig import Rig
from tests.fault_plan import FaultPlan


def look(rig: Rig, kind: Kind | None = None) -> list[Leftover]:
    return [each for each in rig.connector.leftovers.look() if kind in {None, each.kind}]


def names(rig: Rig, folder: str) -> set[str]:
    return {path.stem for path in (rig.lab.root / "target" / folder).glob("*.img")}


def make(rig: Rig, folder: str, name: str) -> Path:
    path = rig.lab.root / "target" / folder / f"{name}.img"
    path.write_bytes(bytes(4096))
    return path


def staged(rig: Rig, group: object) -> Path:
    folder = rig.connector.settings.staging_dir / str(group) / str(uuid4()) / str(uuid4())
    folder.mkdir(parents=True)
    (folder / "seg-00000000.log").write_bytes(b"sealed")
    return folder.parent.parent


def test_nothing_is_left_after_usual_cycles(rig: Rig, old_content: bytes) -> None:
    assert look(rig) == []
    rig.restart()
    assert look(rig) == []


def test_a_snapshot_that_no_point_holds_goes_at_the_start(rig: Rig, disk: Disk, old_content: bytes) -> None:
    """Of a cycle that failed before its point was written, say."""
    kept = names(rig, "snapshots")
    left = make(rig, "snapshots", f"{disk.id}@{uuid4()}")
    assert look(rig) == [Leftover(Kind.SNAPSHOT, TARGET, left.stem)]
    rig.restart()
    assert (names(rig, "snapshots"), look(rig)) == (kept, [])


def test_one_that_a_cycle_is_about_to_need_stays(rig: Rig, appliance: Appliance, disk: Disk, attempt: Attempt) -> None:
    make(rig, "snapshots", f"{disk.id}@{attempt.cycle}")
    assert look(rig) == []
    rig.restart()
    assert f"{disk.id}@{attempt.cycle}" in names(rig, "snapshots")


def test_nothing_goes_of_a_group_with_a_point_that_cannot_be_read(rig: Rig, disk: Disk, old_content: bytes) -> None:
    points = rig.state_dir / "groups" / str(rig.group) / "points"
    next(points.glob("*.json")).write_bytes(b"rot")
    make(rig, "snapshots", f"{disk.id}@{uuid4()}")
    make(rig, "volumes", str(uuid4()))
    assert look(rig) == []


def test_shadows_and_snapshots_of_no_group_are_told_of_and_stay(rig: Rig, old_content: bytes) -> None:
    shadow, snapshot = make(rig, "volumes", str(uuid4())), make(rig, "snapshots", f"{uuid4()}@{uuid4()}")
    rig.restart()
    assert {(each.kind, each.name) for each in look(rig)} == {
        (Kind.ORPHAN_SHADOW, shadow.stem), (Kind.ORPHAN_SNAPSHOT, snapshot.stem),
    }  # fmt: skip
    for each in look(rig):
        assert not rig.connector.leftovers.remove(each)
    assert shadow.exists()
    assert snapshot.exists()


def test_while_a_group_is_broken_nobody_knows_whose_a_strange_name_is(rig: Rig, old_content: bytes) -> None:
    (rig.state_dir / "groups" / str(rig.group) / "state.json").write_bytes(b"rot")
    before = names(rig, "snapshots") | names(rig, "volumes")
    rig.restart()
    assert rig.connector.groups.broken
    assert look(rig) == []
    assert names(rig, "snapshots") | names(rig, "volumes") == before


def test_names_that_are_not_ours(rig: Rig, disk: Disk, old_content: bytes) -> None:
    snapshots = (f"{disk.id}@before-upgrade", f"mine@{uuid4()}", f"{str(disk.id).upper()}@{uuid4()}")
    odd = [make(rig, "volumes", "golden-image"), *(make(rig, "snapshots", name) for name in snapshots)]
    mine = rig.connector.settings.staging_dir / "mine"
    mine.mkdir(parents=True)
    rig.restart()
    assert look(rig) == []
    assert all(path.exists() for path in [*odd, mine])


class TestStaging:
    def test_of_a_group_that_is_not_here(self, rig: Rig, old_content: bytes) -> None:
        folder = staged(rig, uuid4())
        assert [each.name for each in look(rig, Kind.STAGING)] == [folder.name]
        rig.restart()
        assert not folder.exists()

    def test_stays_where_no_group_is_here_at_all(self, rig: Rig) -> None:
        """A state directory that is not mounted must not cost what was acknowledged."""
        folder = staged(rig, uuid4())
        rig.restart()
        assert folder.exists()
        assert look(rig) == []

    def test_of_groups_that_are_here_stays(self, rig: Rig, attempt: Attempt, disk: Disk) -> None:
        attempt.send(disk, [0, 1])
        rig.restart()
        assert attempt.again().open(disk).durable == {0, 1}

    def test_of_a_broken_group_stays(self, rig: Rig, appliance: Appliance, disk: Disk, old_content: bytes) -> None:
        folder = staged(rig, rig.group)
        (rig.state_dir / "groups" / str(rig.group) / "state.json").write_bytes(b"rot")
        rig.restart()
        assert folder.exists()


class TestWhatFails:
    def test_a_target_that_is_not_there(self, rig: Rig, old_content: bytes) -> None:
        """Others are looked through all the same."""
        gone = TargetSettings(kind=TargetKind.FOLDER, path=rig.lab.root / "target" / "gone")
        rig.changes["targets"] = {"gone": gone, **rig.settings.targets}
        rig.restart()
        make(rig, "volumes", str(uuid4()))
        assert [each.kind for each in look(rig)] == [Kind.ORPHAN_SHADOW]

    def test_what_cannot_be_removed_is_told_again(
        self, rig: Rig, faulty: FaultPlan, appliance: Appliance, disk: Disk
    ) -> None:
        appliance.run(disk)
        make(rig, "snapshots", f"{disk.id}@{uuid4()}")
        faulty.fail("delete_snapshot", TargetIOFailed(path="x", operation="delete", offset=0, problem="as told"))
        (found,) = look(rig)
        assert not rig.connector.leftovers.remove(found)
        assert look(rig) == [found]
        assert rig.connector.leftovers.remove(found)
        assert not rig.connector.leftovers.remove(found)


@pytest.mark.parametrize("remove", [False, True])
def test_an_operator_asks(rig: Rig, disk: Disk, old_content: bytes, remove: bool) -> None:
    left, orphan = make(rig, "snapshots", f"{disk.id}@{uuid4()}"), make(rig, "volumes", str(UUID(int=9)))
    told: list[dict[str, Any]] = ask(rig.socket, LeftoversRequest(remove=remove))
    assert [(each["name"], each["removable"], each["removed"]) for each in told] == [
        (left.stem, True, remove), (orphan.stem, False, False),
    ]  # fmt: skip
    assert (left.exists(), orphan.exists()) == (not remove, True)
