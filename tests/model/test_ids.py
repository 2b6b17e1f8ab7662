from uuid import UUID

import pytest

from dmcore.model.ids import (
    NO_IMAGE,
    CycleId,
    GroupId,
    PlanId,
    disk_id,
    image_of,
    parse_snapshot_name,
    point_id,
    source_snapshot_name,
    successor_cycle,
)

PLAN = PlanId(UUID(int=1))
CYCLE = CycleId(UUID(int=2))
GROUP = GroupId(UUID(int=3))


def test_a_disk_keeps_its_id() -> None:
    assert disk_id(PLAN, "web-01", "scsi0:0") == disk_id(PLAN, "web-01", "scsi0:0")


@pytest.mark.parametrize(
    ("machine", "disk"),
    [("web-02", "scsi0:0"), ("web-01", "scsi0:1"), ("web-0", "1scsi0:0")],
)
def test_another_disk_has_another_id(machine: str, disk: str) -> None:
    assert disk_id(PLAN, machine, disk) != disk_id(PLAN, "web-01", "scsi0:0")


def test_another_plan_gives_the_same_disk_another_id() -> None:
    assert disk_id(PlanId(UUID(int=9)), "web-01", "scsi0:0") != disk_id(PLAN, "web-01", "scsi0:0")


def test_every_attempt_makes_the_same_point() -> None:
    assert point_id(CYCLE, GROUP) == point_id(CYCLE, GROUP)
    assert point_id(CYCLE, GROUP) != point_id(CYCLE, GroupId(UUID(int=4)))


def test_an_image_is_named_by_its_cycle() -> None:
    assert image_of(CYCLE) == CYCLE
    assert image_of(CYCLE) != NO_IMAGE


def test_a_source_snapshot_can_be_found_by_group_and_cycle() -> None:
    assert source_snapshot_name(GROUP, CYCLE) == f"dmcore-{GROUP}-{CYCLE}"


def test_both_ends_know_the_cycles_that_follow_without_a_control_plane() -> None:
    following = [successor_cycle(CYCLE, number) for number in range(4)]
    assert following == [successor_cycle(CYCLE, number) for number in range(4)]
    assert following[0] == CYCLE
    assert len(set(following)) == 4


def test_successors_of_another_cycle_are_others() -> None:
    assert successor_cycle(CycleId(UUID(int=9)), 1) != successor_cycle(CYCLE, 1)


def test_a_snapshots_name_tells_whose_it_is() -> None:
    assert parse_snapshot_name(source_snapshot_name(GROUP, CYCLE)) == (GROUP, CYCLE)


@pytest.mark.parametrize(
    "name",
    [
        "", "dmcore", f"dmcore-{GROUP}", f"dmcore-{GROUP}-{CYCLE}-old", f"my-dmcore-{GROUP}-{CYCLE}",
        f"dmcore-{'x' * 36}-{CYCLE}", f"dmcore-{{{GROUP}}}-{CYCLE}", f"dmcore-{str(UUID(int=171)).upper()}-{CYCLE}",
    ],
)  # fmt: skip
def test_another_name_is_nobodys(name: str) -> None:
    assert parse_snapshot_name(name) is None
