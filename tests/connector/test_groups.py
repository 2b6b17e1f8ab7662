"""Which groups a connector serves after a start, and which it cannot."""

import shutil
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from dmcore.connector.errors import GroupBroken
from dmcore.lab.layout import TARGET
from dmcore.model.ids import GroupId, PlanId, PointId
from dmcore.shadow.errors import CycleUnknown
from dmcore.targets.folder import FolderTarget
from tests.connector.appliance import Appliance
from tests.connector.kit import Disk, refusal
from tests.connector.rig import Rig


@pytest.fixture
def groups(rig: Rig, appliance: Appliance, disk: Disk) -> tuple[GroupId, GroupId]:
    """Two groups with a point each; the rig asks about the second."""
    appliance.run(disk)
    first, rig.group = rig.group, GroupId(uuid4())
    appliance.run(Disk.make(rig.plan, "d1", "mail"))
    return first, rig.group


def state_file(rig: Rig, group: GroupId) -> Path:
    return rig.state_dir / "groups" / str(group) / "state.json"


def damage(path: Path) -> None:
    path.write_text("{")


def leave_another_groups(path: Path) -> None:
    other = next(each for each in path.parent.parent.glob("*/state.json") if each != path)
    shutil.copy(other, path)


def remove_the_map(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("harm", [damage, leave_another_groups, remove_the_map])
def test_a_broken_group_stops_only_itself(
    rig: Rig, appliance: Appliance, groups: tuple[GroupId, GroupId], harm: Callable[[Path], None]
) -> None:
    rig.stop()
    harm(state_file(rig, groups[1]))
    rig.start()
    refused = refusal(appliance.state)
    assert refused.code == "connector.group-broken"
    assert str(groups[1]) in str(refused)
    attempt = appliance.attempt()
    broken = Disk.make(rig.plan, "d1", "mail")
    attempt.disks = [broken]
    assert refusal(lambda: attempt.control.begin(attempt.request())).code == "connector.group-broken"
    with pytest.raises(GroupBroken):
        rig.connector.groups.ensure(groups[1], rig.plan, TARGET)
    problems = [status for status in rig.connector.operator.operations.status() if "problem" in status]
    assert str(groups[1]) in {status["group"] for status in problems if status["problem"]}
    rig.group = groups[0]
    assert len(appliance.state().disks) == 1


def test_points_of_a_broken_group_are_still_given_back(
    rig: Rig, appliance: Appliance, disk: Disk, tmp_path: Path
) -> None:
    appliance.run(disk)
    rig.stop()
    damage(state_file(rig, rig.group))
    rig.start()
    operations = rig.connector.operator.operations
    (point,) = operations.points()
    with pytest.raises(GroupBroken):
        operations.verify(PointId(UUID(point["id"])), lambda _: None)
    (recovered,) = operations.recover(PointId(UUID(point["id"])), tmp_path / "back", lambda _: None)
    assert Path(recovered["path"]).read_bytes() == bytes(disk.data)


def test_points_and_requests_find_their_group(
    rig: Rig, appliance: Appliance, groups: tuple[GroupId, GroupId], tmp_path: Path
) -> None:
    operations = rig.connector.operator.operations
    assert [point["group"] for point in operations.points()] == list(map(str, groups))
    for number, point in enumerate(operations.points()):
        point_id = PointId(UUID(point["id"]))
        assert operations.verify(point_id, lambda _: None)["damaged_blocks"] == 0
        assert operations.recover(point_id, tmp_path / str(number), lambda _: None)
    for group in groups:
        assert operations.drop(group)["group"] == str(group)  # nothing is receiving: nothing to give up


def test_what_is_no_group_is_left_alone(rig: Rig, appliance: Appliance, groups: tuple[GroupId, GroupId]) -> None:
    shutil.copytree(state_file(rig, groups[0]).parent, rig.state_dir / "groups" / "copy-of-a-group")
    rig.restart()
    assert {shadow.state.group for shadow in rig.connector.groups.all()} == set(groups)
    assert rig.connector.groups.broken == {}


def test_target_in_use_by_another_connector(rig: Rig, appliance: Appliance, disk: Disk) -> None:
    appliance.run(disk)
    rig.stop()
    other = FolderTarget(rig.lab.root / "target")
    try:
        rig.start()
        refused = refusal(appliance.state)
        assert refused.code == "connector.group-broken"
        assert "in use by another connector" in str(refused)
        rig.group = GroupId(uuid4())
        refused = refusal(lambda: appliance.begin(Disk.make(rig.plan, "d1", "mail")))
        assert (refused.code, refused.permanent) == ("target.in-use", False)
    finally:
        other.close()
    rig.epoch += 1
    assert appliance.begin(Disk.make(rig.plan, "d1", "mail")).reply


def test_alias_that_is_gone_from_the_configuration(rig: Rig, appliance: Appliance, disk: Disk) -> None:
    appliance.run(disk)
    rig.changes["targets"] = {}
    rig.restart()
    refused = refusal(appliance.state)
    assert refused.code == "connector.group-broken"
    assert f"no target '{TARGET}'" in str(refused)


def test_group_of_another_plan(rig: Rig, appliance: Appliance, disk: Disk) -> None:
    appliance.run(disk)
    groups = rig.connector.groups
    for ask in (groups.find, lambda group, plan: groups.ensure(group, plan, TARGET)):
        with pytest.raises(CycleUnknown, match="belongs to another plan"):
            ask(rig.group, PlanId(uuid4()))


def test_shadows_stay_on_their_target(rig: Rig, appliance: Appliance, disk: Disk) -> None:
    """The binding says so first; without it, as when an operator removed its file, the group does."""
    appliance.run(disk)
    with pytest.raises(CycleUnknown, match=f"on target {TARGET}, not elsewhere"):
        rig.connector.groups.ensure(rig.group, rig.plan, "elsewhere")


def test_a_second_begin_finds_the_same_group(rig: Rig, appliance: Appliance, disk: Disk) -> None:
    appliance.run(disk)
    groups = rig.connector.groups
    assert groups.ensure(rig.group, rig.plan, TARGET) is groups.find(rig.group, rig.plan)
    assert groups.find(GroupId(uuid4()), rig.plan) is None


def test_everything_is_served_again_after_a_restart(
    rig: Rig, appliance: Appliance, groups: tuple[GroupId, GroupId]
) -> None:
    rig.restart()
    for rig.group in groups:
        assert len(appliance.state().disks) == 1
