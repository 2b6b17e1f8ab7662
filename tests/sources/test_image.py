"""Disks that are not as they should be, and what the image source says of them."""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmcore.blocks import files
from dmcore.errors import ExitCode
from dmcore.model.enums import SnapshotKind
from dmcore.sources.errors import (
    SnapshotFailed,
    SourceChanged,
    SourceKindUnknown,
    SourceMissing,
    SourceReadFailed,
    SourceUnfit,
)
from dmcore.sources.idle import fingerprint
from dmcore.sources.image import ImageSource
from dmcore.sources.registry import open_source
from dmcore.sources.tracked import TrackedSource
from tests.filesystems import why_not
from tests.sources.contract import read
from tests.sources.labs import ImageLab

KEY = ("vm", "a.img")


@pytest.fixture
def lab(tmp_path: Path) -> ImageLab:
    lab = ImageLab(tmp_path)
    lab.add(*KEY, b"d" * 8192)
    return lab


@pytest.fixture
def xfs_lab(xfs: Path) -> Iterator[ImageLab]:
    with tempfile.TemporaryDirectory(dir=xfs) as root:
        lab = ImageLab(Path(root))
        lab.add(*KEY, b"d" * 8192)
        yield lab


@pytest.fixture
def idle_root(lab: ImageLab, monkeypatch: pytest.MonkeyPatch) -> ImageLab:
    """Without reflinks, whatever the machine's temporary directory can."""
    monkeypatch.setattr(files, "try_reflink", lambda *_: False)
    return lab


def problem(root: Path, machine: str = "vm") -> str:
    return {found.identity: found.problem for found in ImageSource(root).machines()}[machine]


class TestOpening:
    def test_a_path_that_does_not_exist(self, tmp_path: Path) -> None:
        with pytest.raises(SourceMissing, match="nowhere") as caught:
            ImageSource(tmp_path / "nowhere")
        assert caught.value.exit_code is ExitCode.SOURCE

    def test_a_file_is_no_source(self, lab: ImageLab) -> None:
        with pytest.raises(SourceUnfit, match="directory of machines"):
            ImageSource(lab.root / "vm/a.img")

    def test_an_empty_directory(self, tmp_path: Path) -> None:
        source = ImageSource(tmp_path)
        assert source.machines() == []
        with pytest.raises(SourceMissing):
            source.snapshot(["vm"], "s")

    def test_a_root_that_cannot_be_written(self, lab: ImageLab, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(_: Path) -> bool:
            raise PermissionError

        monkeypatch.setattr(files, "can_reflink", refuse)
        assert ImageSource(lab.root).caps.snapshots is SnapshotKind.NONE

    def test_a_root_that_went_away(self, tmp_path: Path) -> None:
        root = tmp_path / "root"
        root.mkdir()
        source = ImageSource(root)
        root.rmdir()
        with pytest.raises(SourceUnfit, match="cannot be listed"):
            source.machines()

    def test_registry(self, tmp_path: Path) -> None:
        assert type(open_source("image", tmp_path)) is ImageSource
        assert type(open_source("tracked", tmp_path)) is TrackedSource
        with pytest.raises(SourceKindUnknown, match="image, tracked"):
            open_source("tape", tmp_path)


class TestUnfitDisks:
    @pytest.mark.parametrize(("size", "said"), [(0, "empty"), (1000, "no multiple of 512"), (511, "no multiple")])
    def test_sizes(self, lab: ImageLab, size: int, said: str) -> None:
        lab.add("vm", "b.raw", bytes(size))
        assert said in problem(lab.root)
        with pytest.raises(SourceUnfit, match=r"b\.raw"):
            lab.open().snapshot(["vm"], "s")

    def test_a_short_last_block_is_fine(self, lab: ImageLab) -> None:
        lab.add("vm", "b.raw", b"x" * 1536)
        snapshot = lab.open().snapshot(["vm"], "s")
        assert read(snapshot.disks["vm", "b.raw"]) == b"x" * 1536
        snapshot.close()

    def test_a_machine_without_disks(self, lab: ImageLab) -> None:
        lab.add("empty", "notes.txt", b"no disk")
        assert "no disks" in problem(lab.root, "empty")
        assert problem(lab.root) == ""

    def test_a_machine_that_cannot_be_listed(self, lab: ImageLab, monkeypatch: pytest.MonkeyPatch) -> None:
        real = Path.iterdir

        def refuse(path: Path) -> Iterator[Path]:
            if path.name == "vm":
                raise PermissionError(13, "Permission denied")
            return iter(list(real(path)))

        monkeypatch.setattr(Path, "iterdir", refuse)
        assert "cannot be listed" in problem(lab.root)

    def test_hidden_folders_are_no_machines(self, lab: ImageLab) -> None:
        lab.add(".hidden", "a.img", bytes(512))
        lab.add("vm", ".b.img", bytes(512))
        (machine,) = lab.open().machines()
        assert [disk.identity for disk in machine.disks] == ["a.img"]

    def test_pipes_and_folders_are_no_disks(self, lab: ImageLab) -> None:
        os.mkfifo(lab.root / "vm/pipe.img")
        (lab.root / "vm/folder.img").mkdir()
        assert problem(lab.root).count("neither a regular file nor a block device") == 2

    def test_links_out_of_the_root_are_refused(self, lab: ImageLab, tmp_path_factory: pytest.TempPathFactory) -> None:
        outside = tmp_path_factory.mktemp("outside")
        (outside / "secret.img").write_bytes(bytes(512))
        (lab.root / "vm/b.img").symlink_to(outside / "secret.img")
        (lab.root / "linked").symlink_to(outside)
        for machine in ("vm", "linked"):
            assert "out of the source's root" in problem(lab.root, machine)
            with pytest.raises(SourceUnfit, match="symbolic link"):
                lab.open().snapshot([machine], "s")

    def test_links_inside_the_root_are_followed(self, lab: ImageLab) -> None:
        (lab.root / "vm/b.img").symlink_to("a.img")
        snapshot = lab.open().snapshot(["vm"], "s")
        assert read(snapshot.disks["vm", "b.img"]) == b"d" * 8192
        snapshot.close()

    @pytest.mark.parametrize("to", ["c.img", "b.img"])
    def test_links_to_nothing(self, lab: ImageLab, to: str) -> None:
        (lab.root / "vm/b.img").symlink_to(to)
        said = problem(lab.root)
        assert "no such" in said or "cannot be opened" in said

    @pytest.mark.parametrize("machine", ["../vm", "vm/..", "", "/", "a.img"])
    def test_machines_are_never_paths(self, lab: ImageLab, machine: str) -> None:
        with pytest.raises(SourceMissing):
            lab.open().snapshot([machine], "s")


class TestReadLive:
    """Without reflinks the disk must be idle."""

    def test_makes_nothing(self, idle_root: ImageLab) -> None:
        source = idle_root.open()
        snapshot = source.snapshot(["vm"], "s")
        assert source.caps.snapshots is SnapshotKind.NONE
        assert read(snapshot.disks[KEY]) == b"d" * 8192
        snapshot.check_still_valid()
        assert [path.name for path in idle_root.root.iterdir()] == ["vm"]
        snapshot.close()

    def test_a_write_right_after_is_seen(self, idle_root: ImageLab) -> None:
        """The kernel's clock ticks: the first write after the snapshot must not carry the time of the one before it."""
        idle_root.write(*KEY, 0, b"just before")
        snapshot = idle_root.open().snapshot(["vm"], "s")
        idle_root.write(*KEY, 0, b"just after!")
        with pytest.raises(SourceChanged, match=r"a\.img"):
            snapshot.check_still_valid()
        snapshot.close()

    def test_shrinking_is_seen_while_reading(self, idle_root: ImageLab) -> None:
        snapshot = idle_root.open().snapshot(["vm"], "s")
        os.truncate(idle_root.root / "vm/a.img", 4096)
        with pytest.raises(SourceChanged, match="shrank"):
            read(snapshot.disks[KEY])
        with pytest.raises(SourceChanged):
            snapshot.check_still_valid()
        snapshot.close()

    def test_growing_is_seen(self, idle_root: ImageLab) -> None:
        snapshot = idle_root.open().snapshot(["vm"], "s")
        os.truncate(idle_root.root / "vm/a.img", 16384)
        with pytest.raises(SourceChanged):
            snapshot.check_still_valid()
        snapshot.close()

    def test_another_file_in_its_place_is_seen(self, idle_root: ImageLab) -> None:
        snapshot = idle_root.open().snapshot(["vm"], "s")
        idle_root.add("vm", "new", b"d" * 8192)
        (idle_root.root / "vm/new").rename(idle_root.root / "vm/a.img")
        with pytest.raises(SourceChanged):
            snapshot.check_still_valid()
        snapshot.close()

    def test_a_disk_that_went_away(self, idle_root: ImageLab) -> None:
        snapshot = idle_root.open().snapshot(["vm"], "s")
        (idle_root.root / "vm/a.img").unlink()
        with pytest.raises(SourceReadFailed):
            snapshot.check_still_valid()
        snapshot.close()

    def test_read_errors_name_disk_and_offset(self, idle_root: ImageLab, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> int:
            raise OSError(5, "Input/output error")

        snapshot = idle_root.open().snapshot(["vm"], "s")
        with monkeypatch.context() as patch:
            patch.setattr(os, "preadv", fail)
            patch.setattr(os, "lseek", fail)
            with pytest.raises(SourceReadFailed, match=r"a\.img: reading 512 bytes at offset 1024"):
                snapshot.disks[KEY].read_into(1024, bytearray(512))
            with pytest.raises(SourceReadFailed):
                snapshot.disks[KEY].allocated()
        snapshot.close()

    def test_reading_begins_after_a_tick(self, idle_root: ImageLab, monkeypatch: pytest.MonkeyPatch) -> None:
        slept: list[float] = []
        monkeypatch.setattr(time, "sleep", slept.append)
        idle_root.open().snapshot(["vm"], "s").close()
        assert slept == [pytest.approx(0.02)]
        assert max(time.get_clock_info("monotonic").resolution, 0.01) < slept[0]


class TestReflinks:
    def test_nothing_is_left_when_one_fails(self, xfs_lab: ImageLab, monkeypatch: pytest.MonkeyPatch) -> None:
        source = xfs_lab.open()
        monkeypatch.setattr(files, "try_reflink", lambda *_: False)
        with pytest.raises(SnapshotFailed, match=r"a\.img cannot be reflinked"):
            source.snapshot(["vm"], "s")
        assert source.snapshots() == []
        assert source.find_snapshot("s") is None

    def test_several_disks_must_hold_still(self, xfs_lab: ImageLab, monkeypatch: pytest.MonkeyPatch) -> None:
        xfs_lab.add("vm", "b.img", bytes(4096))
        source = xfs_lab.open()
        real = files.try_reflink

        def write_in_between(src: int, dst: int) -> bool:
            done = real(src, dst)
            xfs_lab.write(*KEY, 0, b"in between")
            return done

        monkeypatch.setattr(files, "try_reflink", write_in_between)
        with pytest.raises(SourceChanged):
            source.snapshot(["vm"], "s")
        assert source.snapshots() == []

    def test_a_disk_that_grows_meanwhile(self, xfs_lab: ImageLab, monkeypatch: pytest.MonkeyPatch) -> None:
        source = xfs_lab.open()
        real = files.try_reflink

        def grow(src: int, dst: int) -> bool:
            os.truncate(xfs_lab.root / "vm/a.img", 16384)
            return real(src, dst)

        monkeypatch.setattr(files, "try_reflink", grow)
        with pytest.raises(SnapshotFailed, match="changed its size"):
            source.snapshot(["vm"], "s")

    @pytest.mark.parametrize("name", ["", "../s", ".s", "a/b", "x" * 201])
    def test_names(self, xfs_lab: ImageLab, name: str) -> None:
        with pytest.raises(SnapshotFailed, match="no name for a snapshot"):
            xfs_lab.open().snapshot(["vm"], name)

    def test_half_made_ones_are_listed_but_not_found(self, xfs_lab: ImageLab) -> None:
        half = xfs_lab.root / ".dmcore-snapshots/.s.tmp/disks/vm"
        half.mkdir(parents=True)
        (half / "a.img").write_bytes(bytes(512))
        source = xfs_lab.open()
        assert source.snapshots() == ["s"]
        assert source.find_snapshot("s") is None
        source.snapshot(["vm"], "s").close()
        source.delete_snapshot("s")
        half.mkdir(parents=True)
        source.delete_snapshot("s")
        assert source.snapshots() == []

    @pytest.mark.parametrize("content", [b"{", b"\xff", b'{"version": 2}'])
    def test_a_damaged_description(self, xfs_lab: ImageLab, content: bytes) -> None:
        source = xfs_lab.open()
        source.snapshot(["vm"], "s").close()
        (xfs_lab.root / ".dmcore-snapshots/s/snapshot.json").write_bytes(content)
        with pytest.raises(SnapshotFailed, match="cannot be read"):
            source.find_snapshot("s")
        source.delete_snapshot("s")

    def test_a_damaged_snapshot(self, xfs_lab: ImageLab) -> None:
        source = xfs_lab.open()
        source.snapshot(["vm"], "s").close()
        reflink = xfs_lab.root / ".dmcore-snapshots/s/disks/vm/a.img"
        os.truncate(reflink, 512)
        with pytest.raises(SnapshotFailed, match="size changed"):
            source.find_snapshot("s")
        reflink.unlink()
        with pytest.raises(SnapshotFailed, match="delete it"):
            source.find_snapshot("s")

    def test_what_cannot_be_removed_or_listed_is_said(self, xfs_lab: ImageLab, monkeypatch: pytest.MonkeyPatch) -> None:
        source = xfs_lab.open()
        source.snapshot(["vm"], "s").close()

        def refuse(*_: object) -> Iterator[Path]:
            raise PermissionError(13, "Permission denied")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", refuse)
            with pytest.raises(SnapshotFailed, match="cannot be removed"):
                source.delete_snapshot("s")
        with monkeypatch.context() as patch:
            patch.setattr(Path, "iterdir", refuse)
            with pytest.raises(SnapshotFailed, match="Permission denied"):
                source.snapshots()
        assert source.snapshots() == ["s"]


@pytest.fixture
def loop_device(tmp_path: Path) -> Iterator[Path]:
    if reason := why_not():
        pytest.skip(f"NOT RUN on a block device: {reason}")
    backing = tmp_path / "backing"
    backing.write_bytes(b"b" * 65536)
    made = subprocess.run(["losetup", "--find", "--show", str(backing)], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"NOT RUN on a block device: {made.stderr.strip()}")
    device = Path(made.stdout.strip())
    yield device
    subprocess.run(["losetup", "--detach", str(device)], check=True)


class TestBlockDevices:
    @pytest.fixture
    def node(self, lab: ImageLab, loop_device: Path) -> Path:
        """The device, where its operator put it: inside the root."""
        node = lab.root / "vm/device.raw"
        os.mknod(node, loop_device.stat().st_mode, loop_device.stat().st_rdev)
        return node

    def test_are_read_and_their_writes_seen(self, idle_root: ImageLab, node: Path) -> None:
        snapshot = idle_root.open().snapshot(["vm"], "s")
        disk = snapshot.disks["vm", "device.raw"]
        assert disk.info.disk_bytes == 65536
        assert read(disk) == b"b" * 65536
        assert disk.allocated().tolist() == [[0, 65536]]
        snapshot.check_still_valid()
        idle_root.write("vm", "device.raw", 512, b"written")
        with pytest.raises(SourceChanged, match="device"):
            snapshot.check_still_valid()
        snapshot.close()

    def test_links_to_devices_leave_the_root(self, lab: ImageLab, loop_device: Path) -> None:
        (lab.root / "vm/link.raw").symlink_to(loop_device)
        assert "out of the source's root" in problem(lab.root)

    def test_a_kernel_that_does_not_count_writes(self, node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "major", lambda _: 4095)
        fd = os.open(node, os.O_RDONLY)
        with pytest.raises(SourceReadFailed):
            fingerprint(fd, node)
        os.close(fd)
