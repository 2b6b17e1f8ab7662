"""What every target does. Subclass `TargetContract` and give it a `target` fixture."""

import numpy as np
import pytest

from dmcore.errors import TargetError
from dmcore.model.enums import SnapshotKind
from dmcore.targets.base import Readable, Target
from dmcore.targets.errors import SnapshotMissing, TargetIOFailed, VolumeExists, VolumeMissing

DISK_BYTES = (1 << 20) + 512
"""A short last block on every grid."""
BLOCK = 64 << 10


def rows(*triples: tuple[int, int, int]) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    return np.array(triples, dtype=np.int64).reshape(-1, 3)


def read(image: Readable, offset: int = 0, length: int | None = None) -> bytes:
    buffer = bytearray(image.disk_bytes - offset if length is None else length)
    image.read_into(offset, buffer)
    return bytes(buffer)


def snapshot_content(target: Target, snapshot: str) -> bytes:
    image = target.open_snapshot(snapshot)
    try:
        return read(image)
    finally:
        image.close()


class TargetContract:
    @pytest.fixture
    def target(self) -> Target:
        raise NotImplementedError

    @pytest.fixture
    def patched(self, target: Target) -> bytes:
        """A volume `v` with something in it."""
        target.create("v", DISK_BYTES)
        volume = target.open("v")
        volume.patch(rows((0, BLOCK, 0), (DISK_BYTES - 512, 512, BLOCK)), b"a" * BLOCK + b"z" * 512)
        volume.flush()
        volume.close()
        return b"a" * BLOCK + bytes(DISK_BYTES - BLOCK - 512) + b"z" * 512

    def test_says_how_it_snapshots(self, target: Target) -> None:
        assert target.caps.snapshots in {SnapshotKind.REFLINK, SnapshotKind.SPARSE_COPY}

    def test_new_volume_is_zeros(self, target: Target) -> None:
        target.create("v", DISK_BYTES)
        volume = target.open("v")
        assert volume.disk_bytes == DISK_BYTES
        assert read(volume) == bytes(DISK_BYTES)
        volume.close()
        assert target.volumes() == ["v"]

    def test_growing_adds_zeros_and_never_shortens(self, target: Target, patched: bytes) -> None:
        target.grow("v", DISK_BYTES + BLOCK)
        target.grow("v", DISK_BYTES)
        volume = target.open("v")
        assert read(volume) == patched + bytes(BLOCK)
        volume.close()

    def test_growing_needs_a_volume(self, target: Target) -> None:
        with pytest.raises(VolumeMissing):
            target.grow("v", DISK_BYTES)

    def test_patches_are_read_back_after_reopening(self, target: Target, patched: bytes) -> None:
        volume = target.open("v")
        assert read(volume) == patched
        assert read(volume, 100, 10) == b"a" * 10
        volume.close()

    def test_zeros_replace_data(self, target: Target, patched: bytes) -> None:
        volume = target.open("v")
        done = volume.patch(rows((0, BLOCK, -1), (BLOCK, 4096, 0)), b"b" * 4096)
        assert (done.zeroed_bytes, done.written_bytes) == (BLOCK, 4096)
        assert read(volume, 0, BLOCK + 4096) == bytes(BLOCK) + b"b" * 4096
        volume.close()

    def test_opened_rows_have_a_fourth_column(self, target: Target, patched: bytes) -> None:
        volume = target.open("v")
        volume.patch(np.array([[512, 512, 0, 0]], dtype=np.int64), b"q" * 512)
        assert read(volume, 0, 1536) == b"a" * 512 + b"q" * 512 + b"a" * 512
        volume.close()

    def test_an_empty_patch_does_nothing(self, target: Target, patched: bytes) -> None:
        volume = target.open("v")
        volume.patch(rows(), b"")
        assert read(volume) == patched
        volume.close()

    def test_keeps_no_reference_to_the_buffer(self, target: Target, patched: bytes) -> None:
        volume = target.open("v")
        raw = bytearray(b"c" * 512)
        volume.patch(rows((0, 512, 0)), raw)
        raw[:] = b"X" * 512
        raw += b"more"  # fails if the buffer is still exported
        assert read(volume, 0, 512) == b"c" * 512
        volume.close()

    @pytest.mark.parametrize("row", [(DISK_BYTES, 512, 0), (DISK_BYTES - 511, 512, -1), ((1 << 63) - 512, 512, 0)])
    def test_refuses_to_write_outside(self, target: Target, patched: bytes, row: tuple[int, int, int]) -> None:
        volume = target.open("v")
        with pytest.raises(TargetIOFailed):
            volume.patch(rows(row), bytes(512))
        volume.close()
        reopened = target.open("v")
        assert read(reopened) == patched
        reopened.close()

    @pytest.mark.parametrize("offset", [-1, DISK_BYTES - 511, 1 << 62])
    def test_refuses_to_read_outside(self, target: Target, patched: bytes, offset: int) -> None:
        volume = target.open("v")
        with pytest.raises(TargetIOFailed):
            volume.read_into(offset, bytearray(512))
        volume.close()

    def test_allocated_holds_all_data(self, target: Target, patched: bytes) -> None:
        volume = target.open("v")
        found = bytearray(DISK_BYTES)
        for offset, length in volume.allocated().tolist():
            found[offset : offset + length] = read(volume, offset, length)
        assert bytes(found) == patched
        volume.close()

    def test_names_are_taken_once(self, target: Target, patched: bytes) -> None:
        with pytest.raises(VolumeExists):
            target.create("v", DISK_BYTES)
        assert target.volumes() == ["v"]

    @pytest.mark.parametrize("name", ["", ".hidden", "../v", "a/b"])
    def test_refuses_names_that_leave(self, target: Target, name: str) -> None:
        with pytest.raises(TargetError):
            target.create(name, DISK_BYTES)
        with pytest.raises(TargetError):
            target.open(name)

    @pytest.mark.parametrize("disk_bytes", [0, -512])
    def test_refuses_sizes_that_are_none(self, target: Target, disk_bytes: int) -> None:
        with pytest.raises(TargetIOFailed):
            target.create("v", disk_bytes)
        assert target.volumes() == []

    def test_what_is_missing_is_said(self, target: Target) -> None:
        with pytest.raises(VolumeMissing):
            target.open("v")
        with pytest.raises(VolumeMissing):
            target.snapshot("v", "t")
        with pytest.raises(SnapshotMissing):
            target.open_snapshot("v@t")
        assert target.snapshots() == []

    def test_deleting_what_is_not_there_is_no_error(self, target: Target) -> None:
        target.delete("v")
        target.delete_snapshot("v@t")

    def test_snapshot_keeps_its_moment(self, target: Target, patched: bytes) -> None:
        snapshot = target.snapshot("v", "t")
        volume = target.open("v")
        volume.patch(rows((0, 4096, 0)), b"n" * 4096)
        volume.flush()
        volume.close()
        assert snapshot_content(target, snapshot) == patched
        assert target.snapshots() == [snapshot]

    def test_a_finished_snapshot_is_kept(self, target: Target, patched: bytes) -> None:
        snapshot = target.snapshot("v", "t")
        volume = target.open("v")
        volume.patch(rows((0, 4096, 0)), b"n" * 4096)
        volume.close()
        assert target.snapshot("v", "t") == snapshot
        assert snapshot_content(target, snapshot) == patched
        assert snapshot_content(target, target.snapshot("v", "later"))[:4096] == b"n" * 4096

    def test_snapshots_outlive_their_volume(self, target: Target, patched: bytes) -> None:
        snapshot = target.snapshot("v", "t")
        target.delete("v")
        assert target.volumes() == []
        assert snapshot_content(target, snapshot) == patched

    def test_a_deleted_snapshot_is_gone(self, target: Target, patched: bytes) -> None:
        snapshot = target.snapshot("v", "t")
        target.delete_snapshot(snapshot)
        assert target.snapshots() == []
        with pytest.raises(SnapshotMissing):
            target.open_snapshot(snapshot)

    def test_says_what_is_free(self, target: Target) -> None:
        assert target.free_bytes() > 0

    def test_closing_twice(self, target: Target, patched: bytes) -> None:
        volume = target.open("v")
        volume.close()
        volume.close()
        target.close()
        target.close()
