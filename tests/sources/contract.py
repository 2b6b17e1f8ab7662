"""What every source does. Subclass `SourceContract` and give it a `lab` fixture."""

from datetime import UTC, datetime
from typing import Protocol

import pytest

from dmcore.errors import SourceError
from dmcore.model.enums import Reason, SnapshotKind
from dmcore.sources.base import SnapshotDisk, Source
from dmcore.sources.errors import SnapshotFailed, SourceChanged, SourceMissing, SourceReadFailed, TrackingLost

DISK_BYTES = (1 << 20) + 512
"""A short last block on every grid."""
FIRST = b"first" * 100 + bytes(DISK_BYTES - 1000) + b"lasts" * 100
SECOND = b"s" * 8192
DISK = ("vm", "a.img")
OTHER = ("vm", "b.img")


class SourceLab(Protocol):
    """Protected disks, as their owner sees them."""

    def add(self, machine: str, disk: str, content: bytes) -> None: ...
    def write(self, machine: str, disk: str, offset: int, data: bytes) -> None: ...
    def open(self) -> Source:
        """Each call is a restart of whoever reads the source."""
        ...


def read(disk: SnapshotDisk, offset: int = 0, length: int | None = None) -> bytes:
    buffer = bytearray(disk.info.disk_bytes - offset if length is None else length)
    disk.read_into(offset, buffer)
    return bytes(buffer)


class SourceContract:
    @pytest.fixture
    def lab(self) -> SourceLab:
        raise NotImplementedError

    @pytest.fixture
    def source(self, lab: SourceLab) -> Source:
        lab.add(*DISK, FIRST)
        lab.add(*OTHER, SECOND)
        return lab.open()

    @pytest.fixture
    def snapshots(self, source: Source) -> bool:
        return source.caps.snapshots is not SnapshotKind.NONE

    def test_lists_machines_and_sizes(self, source: Source) -> None:
        (machine,) = source.machines()
        assert (machine.identity, machine.problem) == ("vm", "")
        sizes = {disk.identity: disk.disk_bytes for disk in machine.disks}
        assert sizes == {DISK[1]: DISK_BYTES, OTHER[1]: len(SECOND)}

    def test_a_snapshot_is_of_all_disks(self, source: Source) -> None:
        before = datetime.now(UTC)
        snapshot = source.snapshot(["vm"], "s")
        assert set(snapshot.disks) == {DISK, OTHER}
        assert snapshot.name == "s"
        assert before <= snapshot.taken_at <= datetime.now(UTC)
        assert read(snapshot.disks[DISK]) == FIRST
        assert read(snapshot.disks[OTHER]) == SECOND
        assert snapshot.disks[DISK].info.disk_bytes == DISK_BYTES
        snapshot.check_still_valid()
        snapshot.close()

    @pytest.mark.parametrize("offset", [-1, DISK_BYTES - 511, DISK_BYTES, 1 << 62])
    def test_refuses_to_read_outside(self, source: Source, offset: int) -> None:
        snapshot = source.snapshot(["vm"], "s")
        with pytest.raises(SourceReadFailed):
            snapshot.disks[DISK].read_into(offset, bytearray(512))
        snapshot.close()

    def test_keeps_no_reference_to_the_buffer(self, source: Source) -> None:
        snapshot = source.snapshot(["vm"], "s")
        buffer = bytearray(512)
        snapshot.disks[DISK].read_into(0, buffer)
        buffer += b"more"  # fails if the buffer is still exported
        snapshot.close()

    def test_reads_into_any_buffer(self, source: Source) -> None:
        snapshot = source.snapshot(["vm"], "s")
        buffer = bytearray(1024)
        snapshot.disks[DISK].read_into(0, memoryview(buffer)[512:])
        assert bytes(buffer) == bytes(512) + FIRST[:512]
        snapshot.close()

    def test_allocated_holds_all_data(self, source: Source) -> None:
        snapshot = source.snapshot(["vm"], "s")
        disk = snapshot.disks[DISK]
        found = bytearray(DISK_BYTES)
        for offset, length in disk.allocated().tolist():
            found[offset : offset + length] = read(disk, offset, length)
        assert bytes(found) == FIRST
        snapshot.close()

    def test_a_machine_that_is_not_there(self, source: Source) -> None:
        with pytest.raises(SourceMissing):
            source.snapshot(["vm", "no such"], "s")
        assert source.find_snapshot("s") is None
        assert source.snapshots() == []

    def test_identities_are_never_the_same(self, source: Source) -> None:
        first = source.snapshot(["vm"], "s")
        source.delete_snapshot("s")
        again = source.snapshot(["vm"], "s")
        assert first.identity != again.identity
        first.close()
        again.close()

    def test_writes_after_the_snapshot(self, source: Source, lab: SourceLab, snapshots: bool) -> None:
        snapshot = source.snapshot(["vm"], "s")
        lab.write(*DISK, 512, b"new")
        if snapshots:
            assert read(snapshot.disks[DISK]) == FIRST
            snapshot.check_still_valid()
        else:
            with pytest.raises(SourceChanged):
                snapshot.check_still_valid()
        snapshot.close()

    def test_a_snapshot_is_found_again(self, source: Source, lab: SourceLab, snapshots: bool) -> None:
        made = source.snapshot(["vm"], "s")
        made.close()
        lab.write(*DISK, 512, b"new")
        found = lab.open().find_snapshot("s")
        assert (found is not None) == snapshots == (source.snapshots() == ["s"])
        if found is not None:
            assert (found.identity, found.taken_at) == (made.identity, made.taken_at)
            assert {key: disk.next_token for key, disk in found.disks.items()} == {
                key: disk.next_token for key, disk in made.disks.items()
            }
            assert read(found.disks[DISK]) == FIRST
            found.close()

    def test_a_name_is_taken_once(self, source: Source, snapshots: bool) -> None:
        source.snapshot(["vm"], "s").close()
        if snapshots:
            with pytest.raises(SnapshotFailed):
                source.snapshot(["vm"], "s")

    def test_a_deleted_snapshot_is_gone(self, source: Source) -> None:
        source.snapshot(["vm"], "s").close()
        source.delete_snapshot("s")
        assert source.find_snapshot("s") is None
        assert source.snapshots() == []
        source.delete_snapshot("s")

    def test_changes_are_known_exactly_if_tracked(self, source: Source, lab: SourceLab) -> None:
        base = source.snapshot(["vm"], "s")
        lab.write(*DISK, 4096, b"new")
        lab.write(*DISK, 8192, b"more")
        base.close()
        source.delete_snapshot("s")
        after = source.snapshot(["vm"], "t")
        disk, token = after.disks[DISK], base.disks[DISK].next_token
        if source.caps.tracking:
            assert token is not None
            assert disk.changed_since(token).tolist() == [[4096, 3], [8192, 4]]
            assert disk.changed_since(str(disk.next_token)).tolist() == []
        else:
            assert token is None
            with pytest.raises(TrackingLost) as caught:
                disk.changed_since("any")
            assert caught.value.reason is Reason.NO_TRACKING
        after.close()

    @pytest.mark.parametrize("token", ["", "nonsense", "0" * 32 + ":0"])
    def test_a_strange_token_is_lost_tracking(self, source: Source, token: str) -> None:
        snapshot = source.snapshot(["vm"], "s")
        with pytest.raises(TrackingLost):
            snapshot.disks[DISK].changed_since(token)
        snapshot.close()

    def test_a_released_token_still_answers(self, source: Source, lab: SourceLab) -> None:
        if not source.caps.tracking:
            source.release(*DISK, "any")
            return
        first = source.snapshot(["vm"], "s")
        lab.write(*DISK, 0, b"1")
        second = source.snapshot(["vm"], "t")
        lab.write(*DISK, 4096, b"2")
        old, held = str(first.disks[DISK].next_token), str(second.disks[DISK].next_token)
        for _ in range(2):
            source.release(*DISK, held)
        third = source.snapshot(["vm"], "u")
        assert third.disks[DISK].changed_since(held).tolist() == [[4096, 1]]
        with pytest.raises(TrackingLost):
            third.disks[DISK].changed_since(old)
        for snapshot in (first, second, third):
            snapshot.close()

    def test_errors_name_the_disk(self, source: Source) -> None:
        snapshot = source.snapshot(["vm"], "s")
        with pytest.raises(SourceError, match=DISK[1]):
            snapshot.disks[DISK].read_into(DISK_BYTES, bytearray(1))
        snapshot.close()

    def test_closing_twice(self, source: Source) -> None:
        snapshot = source.snapshot(["vm"], "s")
        snapshot.close()
        snapshot.close()
        source.close()
        source.close()
