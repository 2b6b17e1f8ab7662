"""Giving a point back to files: what is refused, and that nothing half made or outside the folder is left."""

import json
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import numpy as np
import pytest

from dmcore.connector.errors import RecoveryRefused
from dmcore.connector.recovery import RECOVERY_FILE, file_name, recover_point, recover_whole
from dmcore.model.enums import Consistency, Reason, Rung, SnapshotKind
from dmcore.model.ids import CycleId, DiskId, GroupId, PlanId, PointId
from dmcore.shadow.points import Point, PointDisk
from dmcore.shadow.storage import Storage
from dmcore.targets.errors import SnapshotMissing
from dmcore.targets.folder import FolderTarget
from tests.targets.memory import MemoryTarget

SIZE = 2 << 20


def point_disk(label: str, machine: str = "vm1", disk_bytes: int = SIZE) -> PointDisk:
    disk = DiskId(uuid4())
    return PointDisk(
        disk=disk, machine=machine, label=label, disk_bytes=disk_bytes, block_bytes=65536, snapshot=f"{disk}@tag",
        snapshot_kind=SnapshotKind.REFLINK, rung=Rung.SEED, reason=Reason.NO_IMAGE, covered_bytes=disk_bytes,
    )  # fmt: skip


def point_of(*disks: PointDisk) -> Point:
    return Point(
        id=PointId(uuid4()), plan=PlanId(uuid4()), group=GroupId(uuid4()), cycle=CycleId(uuid4()),
        source_time=datetime(2026, 1, 1, tzinfo=UTC), consistency=Consistency.CRASH, target="shadows",
        disks=list(disks),
    )  # fmt: skip


@pytest.fixture
def target() -> MemoryTarget:
    return MemoryTarget()


def keep(target: MemoryTarget, disk: PointDisk) -> bytes:
    """Let the target hold a disk's snapshot."""
    content = np.random.default_rng(disk.disk.int % 1000).bytes(disk.disk_bytes)
    target.snapshot_contents[disk.snapshot] = bytearray(content)
    return content


def recover(point: Point, target: MemoryTarget, folder: Path) -> list[Path]:
    return [disk.path for disk in recover_point(point, target, folder, lambda _: None, Storage())]


def test_each_disk_is_a_file_for_its_owner(target: MemoryTarget, tmp_path: Path) -> None:
    disks = [point_disk("d0"), point_disk("d1", disk_bytes=SIZE + 512)]
    contents = [keep(target, disk) for disk in disks]
    done: list[int] = []
    recovered = recover_point(point_of(*disks), target, tmp_path / "back", done.append, Storage())
    assert [disk.path.read_bytes() for disk in recovered] == contents
    assert {disk.path.stat().st_mode & 0o777 for disk in recovered} == {0o600}
    assert sum(done) == 2 * SIZE + 512
    assert len(list((tmp_path / "back").iterdir())) == 2


def test_holes_stay_holes(tmp_path: Path) -> None:
    disk = point_disk("d0", disk_bytes=64 << 20)
    (tmp_path / "target").mkdir()
    target = FolderTarget(tmp_path / "target")
    target.create(str(disk.disk), disk.disk_bytes)
    target.snapshot(str(disk.disk), "tag")
    (path,) = [
        each.path for each in recover_point(point_of(disk), target, tmp_path / "back", lambda _: None, Storage())
    ]
    target.close()
    assert path.stat().st_size == disk.disk_bytes
    assert path.stat().st_blocks == 0


# What is in the way


def test_an_existing_file_is_not_overwritten(target: MemoryTarget, tmp_path: Path) -> None:
    disk = point_disk("d0")
    keep(target, disk)
    mine = tmp_path / file_name(disk)
    mine.write_text("mine")
    with pytest.raises(RecoveryRefused, match=f"{mine.name}.*nothing is overwritten") as refused:
        recover(point_of(disk), target, tmp_path)
    assert refused.value.code == "recover.refused"
    assert mine.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [mine]


@pytest.mark.parametrize("points_to", ["victim", "absent"])
def test_a_symlink_in_place_of_the_file(target: MemoryTarget, tmp_path: Path, points_to: str) -> None:
    disk, back = point_disk("d0"), tmp_path / "back"
    keep(target, disk)
    back.mkdir()
    (tmp_path / "victim").write_text("precious")
    (back / file_name(disk)).symlink_to(tmp_path / points_to)
    with pytest.raises(RecoveryRefused, match="nothing is overwritten"):
        recover(point_of(disk), target, back)
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "absent").exists()


def test_a_symlink_in_place_of_what_is_half_made_is_not_followed(target: MemoryTarget, tmp_path: Path) -> None:
    disk, back = point_disk("d0"), tmp_path / "back"
    content = keep(target, disk)
    back.mkdir()
    (tmp_path / "victim").write_text("precious")
    (back / f".{file_name(disk)}.partial").symlink_to(tmp_path / "victim")
    (path,) = recover(point_of(disk), target, back)
    assert (path.read_bytes(), path.is_symlink()) == (content, False)
    assert (tmp_path / "victim").read_text() == "precious"


def test_what_a_crash_left_half_made_is_replaced(target: MemoryTarget, tmp_path: Path) -> None:
    disk = point_disk("d0")
    content = keep(target, disk)
    (tmp_path / f".{file_name(disk)}.partial").write_bytes(b"x" * (SIZE + 1))
    (path,) = recover(point_of(disk), target, tmp_path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_a_file(target: MemoryTarget, tmp_path: Path) -> None:
    (tmp_path / "back").write_text("mine")
    with pytest.raises(RecoveryRefused, match="back"):
        recover(point_of(point_disk("d0")), target, tmp_path / "back")


def test_a_folder_that_cannot_be_made(target: MemoryTarget, tmp_path: Path) -> None:
    with pytest.raises(RecoveryRefused, match=r"absent/back.*No such file"):
        recover(point_of(point_disk("d0")), target, tmp_path / "absent" / "back")


def test_a_full_disk(target: MemoryTarget, small_file_system: Path) -> None:
    disk = point_disk("d0")
    keep(target, disk)
    with pytest.raises(RecoveryRefused, match="No space left on device; free space"):
        recover(point_of(disk), target, small_file_system)
    assert list(small_file_system.iterdir()) == []


def test_a_snapshot_that_is_gone(target: MemoryTarget, tmp_path: Path) -> None:
    disks = [point_disk("d0"), point_disk("d1")]
    keep(target, disks[0])
    with pytest.raises(SnapshotMissing):
        recover(point_of(*disks), target, tmp_path / "back")
    assert [path.name for path in (tmp_path / "back").iterdir()] == [file_name(disks[0])]  # whole, and so it stays


# Names


@pytest.mark.parametrize(
    ("machine", "label", "expected"),
    [
        ("web-1", "disk_0", "web-1.disk_0."),
        ("../../x", "/etc/passwd", "x.etc_passwd."),
        ("..", ".", ""),
        ("a\x00b\n\x1b[31m", "é", "a_b_31m."),
        ("m" * 300, "l" * 300, f"{'m' * 64}.{'l' * 64}."),
        ("-rf", "~", "-rf."),
    ],
)
def test_labels_are_only_words(machine: str, label: str, expected: str) -> None:
    disk = point_disk(label, machine).model_copy(update={"disk": DiskId(UUID(int=1))})
    name = file_name(disk)
    assert name == f"{expected}00000000.img"
    assert Path(name).name == name


def test_hostile_labels_stay_in_the_folder(target: MemoryTarget, tmp_path: Path) -> None:
    disks = [point_disk("../../x", "../.."), point_disk("../../x", "../.."), point_disk("", "")]
    for disk in disks:
        keep(target, disk)
    paths = recover(point_of(*disks), target, tmp_path / "back")
    assert {path.resolve().parent for path in paths} == {tmp_path / "back"}
    assert len(set(paths)) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["back"]


# A whole point or nothing, for a job


def recover_as(job: UUID, point: Point, target: MemoryTarget, root: Path) -> None:
    recover_whole(point, target, root, job, lambda _: None, Storage())


JOB = UUID(int=7)


def test_a_jobs_recovery_is_a_folder_of_the_points_name(target: MemoryTarget, tmp_path: Path) -> None:
    disks = [point_disk("d0"), point_disk("d1")]
    contents = [keep(target, disk) for disk in disks]
    point = point_of(*disks)
    recover_as(JOB, point, target, tmp_path)
    folder = tmp_path / str(point.id)
    assert list(tmp_path.iterdir()) == [folder]
    said = json.loads((folder / RECOVERY_FILE).read_text())
    assert (said["job"], said["point"]) == (str(JOB), str(point.id))
    assert [(folder / disk["file"]).read_bytes() for disk in said["disks"]] == contents


def test_the_same_job_again_finds_it_done(target: MemoryTarget, tmp_path: Path) -> None:
    point = point_of(point_disk("d0"))
    keep(target, point.disks[0])
    recover_as(JOB, point, target, tmp_path)
    (tmp_path / str(point.id) / file_name(point.disks[0])).write_text("attached and changed by now")
    recover_as(JOB, point, target, tmp_path)
    assert (tmp_path / str(point.id) / file_name(point.disks[0])).read_text() == "attached and changed by now"


def test_another_job_overwrites_nothing(target: MemoryTarget, tmp_path: Path) -> None:
    point = point_of(point_disk("d0"))
    keep(target, point.disks[0])
    recover_as(JOB, point, target, tmp_path)
    with pytest.raises(RecoveryRefused, match=f"{point.id}: is there already; nothing is overwritten"):
        recover_as(UUID(int=8), point, target, tmp_path)


@pytest.mark.parametrize("manifest", [None, "rot", "[]", '{"job": 7}', "{}"])
def test_a_folder_that_nobody_knows(target: MemoryTarget, tmp_path: Path, manifest: str | None) -> None:
    point = point_of(point_disk("d0"))
    keep(target, point.disks[0])
    folder = tmp_path / str(point.id)
    folder.mkdir()
    if manifest is not None:
        (folder / RECOVERY_FILE).write_text(manifest)
    with pytest.raises(RecoveryRefused, match="nothing is overwritten"):
        recover_as(JOB, point, target, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_link_in_place_of_the_folder(target: MemoryTarget, tmp_path: Path) -> None:
    point = point_of(point_disk("d0"))
    keep(target, point.disks[0])
    (tmp_path / str(point.id)).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RecoveryRefused, match="nothing is overwritten"):
        recover_as(JOB, point, target, tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_what_a_killed_job_left_is_begun_anew(target: MemoryTarget, tmp_path: Path) -> None:
    """Whole files too: nobody knows which of them were synced."""
    point = point_of(point_disk("d0"))
    content = keep(target, point.disks[0])
    partial = tmp_path / f".{point.id}.{JOB}"
    partial.mkdir()
    (partial / file_name(point.disks[0])).write_text("half")
    recover_as(JOB, point, target, tmp_path)
    assert (tmp_path / str(point.id) / file_name(point.disks[0])).read_bytes() == content
    assert not partial.exists()


def test_a_link_in_place_of_what_is_half_made(target: MemoryTarget, tmp_path: Path) -> None:
    point = point_of(point_disk("d0"))
    keep(target, point.disks[0])
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("mine")
    (tmp_path / f".{point.id}.{JOB}").symlink_to(precious)
    with pytest.raises(RecoveryRefused, match="symbolic link"):
        recover_as(JOB, point, target, tmp_path)
    assert (precious / "file").read_text() == "mine"


def test_a_job_that_fails_leaves_nothing(target: MemoryTarget, tmp_path: Path) -> None:
    disks = [point_disk("d0"), point_disk("d1")]
    keep(target, disks[0])
    with pytest.raises(SnapshotMissing):
        recover_as(JOB, point_of(*disks), target, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing_of_a_job(target: MemoryTarget, small_file_system: Path) -> None:
    disk = point_disk("d0")
    keep(target, disk)
    with pytest.raises(RecoveryRefused, match="No space left on device"):
        recover_as(JOB, point_of(disk), target, small_file_system)
    assert list(small_file_system.iterdir()) == []


def test_a_recovery_folder_that_is_gone(target: MemoryTarget, tmp_path: Path) -> None:
    with pytest.raises(RecoveryRefused, match="absent"):
        recover_as(JOB, point_of(point_disk("d0")), target, tmp_path / "absent")
