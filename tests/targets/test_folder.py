"""What only a folder can get wrong."""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from dmcore.blocks import files
from dmcore.errors import ExitCode
from dmcore.model.enums import SnapshotKind
from dmcore.native.batches import ZeroMode
from dmcore.native.patching import BlockIO
from dmcore.targets.errors import (
    FlushFailed,
    TargetInUse,
    TargetIOFailed,
    TargetKindUnknown,
    TargetMissing,
    TargetNameInvalid,
)
from dmcore.targets.folder import FolderTarget
from dmcore.targets.registry import open_target
from tests.targets.contract import DISK_BYTES, read, rows, snapshot_content

MIB = 1 << 20


class Calls:
    """The system's calls, until one is told to fail."""

    def __init__(self) -> None:
        self.failing: dict[str, int] = {}
        self.modes: list[int] = []
        self.syncs = 0

    def _reach(self, call: str) -> None:
        if call in self.failing:
            raise OSError(self.failing[call], os.strerror(self.failing[call]))

    def pwritev(self, fd: int, buffers: Sequence[memoryview], offset: int, /) -> int:
        self._reach("pwritev")
        return os.pwritev(fd, buffers, offset)

    def fallocate(self, fd: int, mode: int, offset: int, length: int, /) -> None:
        self.modes.append(mode)
        self._reach("fallocate")

    def fdatasync(self, fd: int, /) -> None:
        self.syncs += 1
        self._reach("fdatasync")


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def target(tmp_path: Path, calls: Calls) -> Iterator[FolderTarget]:
    target = FolderTarget(tmp_path, BlockIO(calls))
    target.create("v", DISK_BYTES)
    yield target
    target.close()


class TestOpening:
    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(TargetMissing, match="no such folder"):
            FolderTarget(tmp_path / "none")

    def test_a_file_is_no_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(TargetMissing):
            FolderTarget(tmp_path / "file")

    def test_two_connectors_cannot_open_one(self, target: FolderTarget, tmp_path: Path) -> None:
        with pytest.raises(TargetInUse) as caught:
            FolderTarget(tmp_path)
        assert caught.value.exit_code is ExitCode.BUSY
        target.close()
        FolderTarget(tmp_path).close()

    def test_a_folder_that_cannot_be_prepared(self, tmp_path: Path) -> None:
        (tmp_path / "volumes").touch()
        with pytest.raises(TargetIOFailed, match="open"):
            FolderTarget(tmp_path)
        (tmp_path / "volumes").unlink()
        FolderTarget(tmp_path).close()  # the lock was given back

    def test_what_a_crash_left_is_removed(self, target: FolderTarget, tmp_path: Path) -> None:
        target.snapshot("v", "t")
        target.close()
        leftovers = [tmp_path / "volumes/.w.img.tmp", tmp_path / "snapshots/.v@u.img.tmp"]
        for leftover in leftovers:
            leftover.write_bytes(b"half")
        again = FolderTarget(tmp_path)
        assert (again.volumes(), again.snapshots()) == (["v"], ["v@t"])
        assert not any(leftover.exists() for leftover in leftovers)
        again.close()

    def test_registry_opens_it(self, tmp_path: Path) -> None:
        target = open_target("folder", tmp_path)
        assert target.volumes() == []
        target.close()

    def test_registry_knows_no_other(self, tmp_path: Path) -> None:
        with pytest.raises(TargetKindUnknown, match=r"tape.*folder") as caught:
            open_target("tape", tmp_path)
        assert caught.value.exit_code is ExitCode.CONFIGURATION


class TestNames:
    @pytest.mark.parametrize("name", ["a b", "a\n", "é", "a@b", "x" * 101, "a\0"])
    def test_only_plain_names(self, target: FolderTarget, name: str) -> None:
        with pytest.raises(TargetNameInvalid):
            target.create(name, 512)
        with pytest.raises(TargetNameInvalid):
            target.snapshot("v", name)

    @pytest.mark.parametrize("snapshot", ["v", "v@", "@t", "../v@t", "v@.t"])
    def test_only_plain_snapshots(self, target: FolderTarget, snapshot: str) -> None:
        with pytest.raises(TargetNameInvalid):
            target.open_snapshot(snapshot)

    def test_strangers_are_not_listed(self, target: FolderTarget, tmp_path: Path) -> None:
        (tmp_path / "volumes/a b.img").touch()
        (tmp_path / "volumes/note.txt").touch()
        assert target.volumes() == ["v"]

    def test_links_are_not_followed(self, target: FolderTarget, tmp_path: Path) -> None:
        (tmp_path / "elsewhere.img").write_bytes(bytes(512))
        (tmp_path / "volumes/w.img").symlink_to(tmp_path / "elsewhere.img")
        (tmp_path / "snapshots/w@t.img").symlink_to(tmp_path / "elsewhere.img")
        with pytest.raises(TargetIOFailed, match="open"):
            target.open("w")
        with pytest.raises(TargetIOFailed, match="open"):
            target.open_snapshot("w@t")


class TestFailures:
    def test_a_failed_write_names_path_and_offset(self, target: FolderTarget, calls: Calls) -> None:
        volume = target.open("v")
        calls.failing["pwritev"] = errno.EIO
        with pytest.raises(TargetIOFailed, match=r"v\.img: patch at offset 4096: Input/output error") as caught:
            volume.patch(rows((4096, 512, 0)), bytes(512))
        assert not caught.value.permanent
        del calls.failing["pwritev"]
        volume.patch(rows((4096, 512, 0)), b"r" * 512)  # redo works
        assert read(volume, 4096, 512) == b"r" * 512
        volume.close()

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
    def test_no_space_is_said(self, target: FolderTarget, calls: Calls, code: int) -> None:
        volume = target.open("v")
        calls.failing["pwritev"] = code
        with pytest.raises(TargetIOFailed, match="no space left"):
            volume.patch(rows((0, 512, 0)), bytes(512))
        volume.close()

    def test_after_a_failed_flush_nothing_is_believed(self, target: FolderTarget, calls: Calls) -> None:
        volume = target.open("v")
        calls.failing["fdatasync"] = errno.EIO
        with pytest.raises(FlushFailed):
            volume.flush()
        calls.failing.clear()
        for refused in (
            volume.flush,
            volume.allocated,
            lambda: volume.patch(rows((0, 512, -1)), b""),
            lambda: volume.read_into(0, bytearray(1)),
        ):
            with pytest.raises(FlushFailed, match="redone from the log"):
                refused()
        assert calls.syncs == 1
        volume.close()
        reopened = target.open("v")
        reopened.flush()
        reopened.close()

    def test_what_the_device_refused_is_remembered(self, target: FolderTarget, calls: Calls) -> None:
        volume = target.open("v")
        calls.failing["fallocate"] = errno.EOPNOTSUPP
        assert volume.patch(rows((0, 512, -1)), b"").zero_mode is ZeroMode.WRITE
        asked = len(calls.modes)
        volume.patch(rows((512, 512, -1)), b"")
        assert len(calls.modes) == asked
        volume.close()

    def test_a_shadow_that_shrank(self, target: FolderTarget, tmp_path: Path) -> None:
        volume = target.open("v")
        os.truncate(tmp_path / "volumes/v.img", 512)
        with pytest.raises(TargetIOFailed, match="ended at offset 512"):
            read(volume)
        volume.close()

    def test_a_failed_read(self, target: FolderTarget, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> int:
            raise OSError(errno.EIO, "injected")

        volume = target.open("v")
        with monkeypatch.context() as patch:
            patch.setattr(os, "preadv", fail)
            patch.setattr(os, "lseek", fail)
            with pytest.raises(TargetIOFailed, match="read at offset 512: injected"):
                volume.read_into(512, bytearray(512))
            with pytest.raises(TargetIOFailed, match="map"):
                volume.allocated()
        volume.close()

    def test_a_folder_that_went_away(self, target: FolderTarget, tmp_path: Path) -> None:
        for folder in ("volumes", "snapshots"):
            (tmp_path / folder).rename(tmp_path / f"{folder}.away")
        for refused in (target.volumes, target.snapshots, lambda: target.create("w", 512), lambda: target.delete("v")):
            with pytest.raises(TargetIOFailed):
                refused()

    def test_a_root_that_went_away(self, tmp_path: Path) -> None:
        root = tmp_path / "root"
        root.mkdir()
        target = FolderTarget(root)
        root.rename(tmp_path / "away")
        with pytest.raises(TargetIOFailed, match="statvfs"):
            target.free_bytes()
        target.close()

    @pytest.mark.parametrize("call", ["fsync", "ftruncate"])
    def test_half_made_things_are_removed(
        self, target: FolderTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        def fail(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(files, "try_reflink", lambda *_: False)
        monkeypatch.setattr(os, call, fail)
        with pytest.raises(TargetIOFailed, match="no space left"):
            target.create("w", 512)
        with pytest.raises(TargetIOFailed, match="no space left"):
            target.snapshot("v", "t")
        assert [p.name for p in (tmp_path / "volumes").iterdir()] == ["v.img"]
        assert list((tmp_path / "snapshots").iterdir()) == []

    def test_a_name_that_may_not_be_durable_is_synced_again(
        self, target: FolderTarget, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced: list[Path] = []

        def fail_once(path: Path) -> None:
            synced.append(path)
            if len(synced) == 1:
                raise OSError(errno.EIO, "injected")

        monkeypatch.setattr(files, "fsync_dir", fail_once)
        with pytest.raises(TargetIOFailed):
            target.snapshot("v", "t")
        target.snapshot("v", "t")
        assert len(synced) == 2


class TestSnapshots:
    def test_are_read_only_and_sparse(self, target: FolderTarget, tmp_path: Path) -> None:
        target.create("big", 64 * MIB)
        volume = target.open("big")
        volume.patch(rows((32 * MIB, 4096, 0)), b"d" * 4096)
        volume.close()
        target.snapshot("big", "t")
        found = (tmp_path / "snapshots/big@t.img").stat()
        assert stat.S_IMODE(found.st_mode) == 0o440
        assert found.st_size == 64 * MIB
        assert found.st_blocks * 512 < MIB

    def test_copies_where_reflinks_fail(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(files, "try_reflink", lambda *_: False)
        target = FolderTarget(tmp_path)
        assert target.caps.snapshots is SnapshotKind.SPARSE_COPY
        target.create("v", DISK_BYTES)
        volume = target.open("v")
        volume.patch(rows((512, 512, 0), (DISK_BYTES - 512, 512, 0)), b"s" * 512)
        expected = read(volume)
        volume.close()
        assert snapshot_content(target, target.snapshot("v", "t")) == expected
        target.close()


class TestFullFileSystem:
    def test_says_so_and_goes_on_when_there_is_room(self, small_file_system: Path) -> None:
        target = FolderTarget(small_file_system)
        target.create("v", 4 * MIB)
        volume = target.open("v")
        with pytest.raises(TargetIOFailed, match="no space left"):
            volume.patch(rows((0, 2 * MIB, 0)), b"f" * (2 * MIB))
        volume.patch(rows((0, 2 * MIB, -1)), b"")
        volume.patch(rows((0, 4096, 0)), b"f" * 4096)
        volume.flush()
        assert read(volume, 0, 4096) == b"f" * 4096
        volume.close()
        target.close()

    def test_a_snapshot_that_does_not_fit_leaves_nothing(self, small_file_system: Path) -> None:
        target = FolderTarget(small_file_system)
        target.create("v", MIB)
        volume = target.open("v")
        volume.patch(rows((0, 600 << 10, 0)), b"f" * (600 << 10))
        volume.close()
        with pytest.raises(TargetIOFailed, match="no space left"):
            target.snapshot("v", "t")
        assert target.snapshots() == []
        assert list((small_file_system / "snapshots").iterdir()) == []
        target.close()
