"""Journals: what they know, what they lose, and that they never keep a change to themselves."""

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from dmcore.blocks import files
from dmcore.model.enums import Reason, SnapshotKind
from dmcore.native.patching import BlockIO
from dmcore.sources import journal as journals
from dmcore.sources import tracking
from dmcore.sources.errors import (
    DiskWriteFailed,
    JournalFailed,
    JournalUnsound,
    SourceChanged,
    SourceMissing,
    SourceUnfit,
    TrackingLost,
)
from dmcore.sources.journal import HEADER_BYTES, RECORD_BYTES, Journal, journal_path, locked
from dmcore.sources.token import Token, parse_token
from dmcore.sources.tracked import TrackedDisk, TrackedSource
from dmcore.sources.writer import TrackedWriter
from tests.sources.contract import read

KEY = ("vm", "a.img")
DISK_BYTES = 1 << 20


class Killed(Exception):
    """The writer's process ends here."""


class Dying:
    """The system's calls, until the writer dies before one of them."""

    def __init__(self, before: str, error: Exception) -> None:
        self.before, self.error = before, error

    def pwritev(self, fd: int, buffers: Sequence[memoryview], offset: int, /) -> int:
        name = "record" if sum(map(len, buffers)) == RECORD_BYTES else "data"
        if self.before == name:
            raise self.error
        return os.pwritev(fd, buffers, offset)

    def fallocate(self, fd: int, mode: int, offset: int, length: int, /) -> None:
        raise OSError(errno.EOPNOTSUPP, "no punching")

    def fdatasync(self, fd: int, /) -> None:
        if self.before == "sync":
            raise self.error


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "vm/a.img"
    path.parent.mkdir()
    path.write_bytes(bytes(DISK_BYTES))
    tracking.start_tracking(path)
    return path


@pytest.fixture
def source(disk: Path) -> TrackedSource:
    return TrackedSource(disk.parent.parent)


def write(disk: Path, offset: int, data: bytes) -> None:
    with TrackedWriter(disk) as writer:
        writer.write(offset, data)


def snap(source: TrackedSource) -> TrackedDisk:
    """The disk of a snapshot that is gone again; closed, it still answers what changed."""
    snapshot = source.snapshot(["vm"], "s")
    snapshot.close()
    source.delete_snapshot("s")
    found = snapshot.disks[KEY]
    assert isinstance(found, TrackedDisk)
    return found


def changed(source: TrackedSource, token: str) -> list[list[int]]:
    found: list[list[int]] = snap(source).changed_since(token).tolist()
    return found


def lost(source: TrackedSource, token: str) -> TrackingLost:
    with pytest.raises(TrackingLost) as caught:
        changed(source, token)
    return caught.value


@pytest.fixture
def token(source: TrackedSource) -> str:
    token = snap(source).next_token
    assert token is not None
    return token


class TestTokens:
    def test_go_there_and_back(self) -> None:
        token = Token(b"j" * 16, 7)
        assert parse_token(str(token)) == token

    @pytest.mark.parametrize("text", ["", ":", "00:1", "0" * 32, "0" * 32 + ":-1", "0" * 32 + ":" + "9" * 19])
    def test_anything_else_is_none(self, text: str) -> None:
        assert parse_token(text) is None

    def test_of_another_journal(self, source: TrackedSource, token: str) -> None:
        assert lost(source, "0" * 32 + ":0").reason is Reason.TRACKING_RESET

    def test_beyond_the_end(self, source: TrackedSource, token: str) -> None:
        error = lost(source, token.replace(":0", ":1"))
        assert error.reason is Reason.TRACKING_LOST
        assert "ends at 0" in str(error)


class TestTracking:
    def test_extents_are_merged(self, source: TrackedSource, disk: Path, token: str) -> None:
        with TrackedWriter(disk) as writer:
            writer.write(4096, b"a" * 512)
            writer.write(4608, b"b" * 512)
            writer.zero(0, 512)
            writer.write(4096, b"c" * 100)
        assert changed(source, token) == [[0, 512], [4096, 1024]]
        assert disk.read_bytes()[4096:5120] == b"c" * 100 + b"a" * 412 + b"b" * 512

    def test_zeros_become_a_hole(self, disk: Path) -> None:
        write(disk, 0, b"x" * DISK_BYTES)
        with TrackedWriter(disk) as writer:
            writer.zero(4096, DISK_BYTES - 4096)
        assert disk.read_bytes() == b"x" * 4096 + bytes(DISK_BYTES - 4096)

    def test_more_records_than_one_read(
        self, source: TrackedSource, disk: Path, token: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(journals, "PIECE_RECORDS", 2)
        for number in range(5):
            write(disk, number * 4096, b"x")
        assert changed(source, token) == [[number * 4096, 1] for number in range(5)]

    def test_writes_after_the_snapshot_are_not_its(self, source: TrackedSource, disk: Path, token: str) -> None:
        write(disk, 0, b"x")
        before = snap(source)
        write(disk, 4096, b"y")
        assert before.changed_since(token).tolist() == [[0, 1]]
        assert changed(source, str(before.next_token)) == [[4096, 1]]

    def test_starting_again_keeps_the_journal(self, source: TrackedSource, disk: Path, token: str) -> None:
        write(disk, 0, b"x")
        tracking.start_tracking(disk)
        assert changed(source, token) == [[0, 1]]

    def test_a_disk_behind_a_link(self, source: TrackedSource, disk: Path) -> None:
        link = disk.with_name("b.img")
        link.symlink_to("a.img")
        write(link, 0, b"x")
        assert not journal_path(link).exists()
        assert disk.read_bytes()[:1] == b"x"

    def test_several_writers(self, source: TrackedSource, disk: Path, token: str) -> None:
        def work(base: int) -> None:
            with TrackedWriter(disk) as writer:
                for number in range(10):
                    writer.write((base + number) * 8192, b"w" * 512)

        threads = [threading.Thread(target=work, args=(base,)) for base in (0, 50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert changed(source, token) == [[n * 8192, 512] for n in [*range(10), *range(50, 60)]]


class TestUntracked:
    """No journal, or one that cannot be relied on: no token, and the reason is said."""

    def untracked(self, source: TrackedSource, token: str, reason: Reason, said: str) -> None:
        found = snap(source)
        assert found.next_token is None
        with pytest.raises(TrackingLost, match=said) as caught:
            found.changed_since(token)
        assert caught.value.reason is reason

    def test_no_journal(self, source: TrackedSource, disk: Path, token: str) -> None:
        journal_path(disk).unlink()
        self.untracked(source, token, Reason.NO_TRACKING, "no journal")
        write(disk, 0, b"x")
        assert lost(source, token).reason is Reason.TRACKING_RESET

    def test_written_by_something_else(self, source: TrackedSource, disk: Path, token: str) -> None:
        os.utime(disk, ns=(0, 0))
        with disk.open("r+b") as file:
            file.write(b"foreign")
        self.untracked(source, token, Reason.TRACKING_LOST, "written without it")
        write(disk, 4096, b"x")
        assert lost(source, token).reason is Reason.TRACKING_RESET

    def test_another_size(self, source: TrackedSource, disk: Path, token: str) -> None:
        os.truncate(disk, 2 * DISK_BYTES)
        self.untracked(source, token, Reason.TRACKING_LOST, f"disk of {DISK_BYTES} bytes")
        write(disk, 0, b"x")
        assert lost(source, token).reason is Reason.TRACKING_RESET

    @pytest.mark.parametrize("bit", range(0, 56 * 8, 13))
    def test_any_bit_of_the_header(self, source: TrackedSource, disk: Path, token: str, bit: int) -> None:
        flip(journal_path(disk), bit)
        self.untracked(source, token, Reason.TRACKING_LOST, "header is damaged")

    @pytest.mark.parametrize("length", [0, 1, HEADER_BYTES - 1])
    def test_a_journal_cut_short(self, source: TrackedSource, disk: Path, token: str, length: int) -> None:
        os.truncate(journal_path(disk), length)
        self.untracked(source, token, Reason.TRACKING_LOST, "header is damaged")

    @pytest.mark.parametrize("bit", range(0, RECORD_BYTES * 8, 7))
    def test_any_bit_of_a_record(self, source: TrackedSource, disk: Path, token: str, bit: int) -> None:
        write(disk, 0, b"x")
        flip(journal_path(disk), HEADER_BYTES * 8 + bit)
        error = lost(source, token)
        assert error.reason is Reason.TRACKING_LOST
        assert "record 0 is damaged" in str(error)
        behind = str(snap(source).next_token)
        write(disk, 4096, b"x")
        assert lost(source, token).reason is Reason.TRACKING_LOST
        assert changed(source, behind) == [[4096, 1]]

    def test_a_journal_that_cannot_be_opened(self, source: TrackedSource, disk: Path, token: str) -> None:
        journal_path(disk).rename(disk.with_name("elsewhere"))
        journal_path(disk).symlink_to("elsewhere")
        self.untracked(source, token, Reason.TRACKING_LOST, "symbolic link")
        with pytest.raises(JournalFailed):
            TrackedWriter(disk)


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


class TestDamage:
    def test_a_record_in_the_middle(self, source: TrackedSource, disk: Path, token: str) -> None:
        write(disk, 0, b"x")
        middle = str(snap(source).next_token)
        write(disk, 4096, b"y")
        flip(journal_path(disk), HEADER_BYTES * 8)
        assert lost(source, token).reason is Reason.TRACKING_LOST
        assert changed(source, middle) == [[4096, 1]]  # what is behind the damage is known

    def test_part_of_a_record_at_the_end_was_never_written(self, source: TrackedSource, disk: Path, token: str) -> None:
        with journal_path(disk).open("ab") as file:
            file.write(b"torn")
        assert changed(source, token) == []
        write(disk, 0, b"x")
        assert changed(source, token) == [[0, 1]]

    def test_after_the_snapshot(self, source: TrackedSource, disk: Path, token: str) -> None:
        write(disk, 0, b"x")
        found = snap(source)
        path = journal_path(disk)
        whole = path.read_bytes()
        for content in (whole[:10], whole[:-1]):
            path.write_bytes(content)
            with pytest.raises(TrackingLost) as caught:
                found.changed_since(token)
            assert caught.value.reason is Reason.TRACKING_LOST
        path.unlink()
        with pytest.raises(TrackingLost, match="gone") as caught:
            found.changed_since(token)
        assert caught.value.reason is Reason.TRACKING_RESET

    def test_unsound_names_the_journal(self, disk: Path) -> None:
        with locked(journal_path(disk), exclusive=False) as fd, pytest.raises(JournalUnsound, match=r"a\.img\.journal"):
            Journal(fd, journal_path(disk), 512, 0)


class TestWriter:
    @pytest.mark.parametrize(("offset", "length"), [(-1, 1), (DISK_BYTES, 1), (DISK_BYTES - 1, 2), (1 << 62, 1)])
    def test_refuses_what_is_outside(self, disk: Path, offset: int, length: int) -> None:
        with TrackedWriter(disk) as writer:
            with pytest.raises(DiskWriteFailed, match="outside the disk"):
                writer.write(offset, bytes(length))
            with pytest.raises(DiskWriteFailed):
                writer.zero(offset, length)
        assert disk.stat().st_size == DISK_BYTES

    def test_refuses_a_negative_length(self, disk: Path) -> None:
        with TrackedWriter(disk) as writer, pytest.raises(DiskWriteFailed):
            writer.zero(512, -1)

    def test_nothing_is_nothing(self, source: TrackedSource, disk: Path, token: str) -> None:
        write(disk, 0, b"")
        assert changed(source, token) == []

    def test_no_disk(self, tmp_path: Path) -> None:
        with pytest.raises(SourceMissing):
            TrackedWriter(tmp_path / "none.img")
        (tmp_path / "empty.img").touch()
        with pytest.raises(SourceUnfit):
            TrackedWriter(tmp_path / "empty.img")
        assert [path.name for path in tmp_path.iterdir()] == ["empty.img"]

    def test_closed(self, disk: Path) -> None:
        writer = TrackedWriter(disk)
        writer.close()
        writer.close()
        with pytest.raises(DiskWriteFailed):
            writer.write(0, b"x")
        with pytest.raises(DiskWriteFailed, match="closed"):
            writer.flush()

    def test_an_error_is_not_hidden_by_the_flush(self, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(_: int) -> None:
            raise OSError(errno.EIO, "injected")

        writer = TrackedWriter(disk)
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(Killed), writer:
            raise Killed
        with pytest.raises(DiskWriteFailed, match="injected"), TrackedWriter(disk):
            pass

    @pytest.mark.parametrize("before", ["record", "sync"])
    def test_no_record_no_write(self, source: TrackedSource, disk: Path, token: str, before: str) -> None:
        """A change that is not in the journal for certain must not be on the disk."""
        error = OSError(errno.ENOSPC, "No space left on device")
        with pytest.raises(DiskWriteFailed, match=r"a\.img: writing 9 bytes at offset 512: .*No space"):
            TrackedWriter(disk, BlockIO(Dying(before, error))).write(512, b"not there")
        assert disk.read_bytes() == bytes(DISK_BYTES)
        assert changed(source, token) in ([], [[512, 9]])

    def test_a_failed_write_counts_as_a_change(self, source: TrackedSource, disk: Path, token: str) -> None:
        with pytest.raises(DiskWriteFailed):
            TrackedWriter(disk, BlockIO(Dying("data", OSError(errno.EIO, "injected")))).write(512, b"maybe")
        assert changed(source, token) == [[512, 5]]

    def test_killed_while_it_writes(self, source: TrackedSource, disk: Path, token: str) -> None:
        """A real process, killed between its write and its note of it: tracking is lost, not the change."""
        script = (
            "import os, signal, sys; from pathlib import Path\n"
            "from dmcore.sources import journal; from dmcore.sources.writer import TrackedWriter\n"
            "journal.Journal.stamp = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
            "TrackedWriter(Path(sys.argv[1])).write(512, b'killed')\n"
        )
        done = subprocess.run([sys.executable, "-c", script, str(disk)], check=False)
        assert done.returncode == -9
        assert disk.read_bytes()[512:518] == b"killed"
        assert lost(source, token).reason is Reason.TRACKING_LOST
        write(disk, 4096, b"x")
        assert lost(source, token).reason is Reason.TRACKING_RESET


class TestRelease:
    def test_shortens_the_file(self, source: TrackedSource, disk: Path, token: str) -> None:
        for number in range(10):
            write(disk, number * 4096, b"x")
        held = str(snap(source).next_token)
        write(disk, 0, b"y")
        source.release(*KEY, held)
        assert journal_path(disk).stat().st_size == HEADER_BYTES + RECORD_BYTES
        assert changed(source, held) == [[0, 1]]
        assert "released" in str(lost(source, token))
        write(disk, 512, b"z")
        assert changed(source, held) == [[0, 1], [512, 1]]

    @pytest.mark.parametrize("other", ["", "x", "0" * 32 + ":1"])
    def test_tokens_that_are_not_its_own(self, source: TrackedSource, disk: Path, token: str, other: str) -> None:
        write(disk, 0, b"x")
        source.release(*KEY, other)
        source.release(*KEY, token)
        source.release(*KEY, token.replace(":0", ":9"))
        assert changed(source, token) == [[0, 1]]

    def test_without_a_journal(self, source: TrackedSource, disk: Path, token: str) -> None:
        journal_path(disk).write_bytes(b"damaged")
        source.release(*KEY, token)
        journal_path(disk).unlink()
        source.release(*KEY, token)
        assert not journal_path(disk).exists()

    @pytest.mark.parametrize("key", [("vm", "b.img"), ("other", "a.img"), ("..", "a.img"), ("vm", "../vm/a.img")])
    def test_a_disk_that_is_not_there(self, source: TrackedSource, key: tuple[str, str]) -> None:
        with pytest.raises(SourceMissing):
            source.release(*key, "any")

    @pytest.mark.parametrize("call", ["fsync", "copy_file_range"])
    def test_a_failure_leaves_it_as_it_was(
        self, source: TrackedSource, disk: Path, token: str, monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        def fail(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        write(disk, 0, b"x")
        held = str(snap(source).next_token)
        write(disk, 4096, b"x")
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            with pytest.raises(JournalFailed, match="No space"):
                source.release(*KEY, held)
        assert changed(source, token) == [[0, 1], [4096, 1]]
        source.release(*KEY, held)
        assert changed(source, held) == [[4096, 1]]

    def test_who_waited_for_the_old_file_takes_the_new_one(self, source: TrackedSource, disk: Path, token: str) -> None:
        """A writer that waits for the lock while a release replaces the journal must not write to the old file."""
        write(disk, 0, b"x")
        held = str(snap(source).next_token)
        with locked(journal_path(disk), exclusive=True) as fd:
            waiting = threading.Thread(target=write, args=(disk, 4096, b"y"))
            waiting.start()
            parsed = parse_token(held)
            assert parsed is not None
            tracking._release(fd, journal_path(disk), parsed)
        waiting.join()
        assert changed(source, held) == [[4096, 1]]


class TestSnapshotsAndWriters:
    def test_a_snapshot_waits_for_a_write(self, source: TrackedSource, disk: Path, token: str) -> None:
        """While a writer has the lock, nothing is read of the disk's state: what it writes is in the snapshot."""
        found: list[TrackedDisk] = []
        with disk.open("rb") as file, tracking.writing(file.fileno(), disk):
            waiting = threading.Thread(target=lambda: found.append(snap(source)))
            waiting.start()
            assert not found
        waiting.join()
        assert found[0].changed_since(token).tolist() == []

    def test_live_disks_see_the_journal_grow(self, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(files, "try_reflink", lambda *_: False)
        source = TrackedSource(disk.parent.parent)
        assert source.caps.snapshots is SnapshotKind.NONE
        snapshot = source.snapshot(["vm"], "s")
        snapshot.check_still_valid()
        before = disk.stat()
        write(disk, 0, b"x")
        os.utime(disk, ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(SourceChanged):
            snapshot.check_still_valid()
        snapshot.close()

    @pytest.mark.parametrize("content", [b"", b"damaged"])
    def test_live_disks_without_a_sound_journal(
        self, disk: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
    ) -> None:
        monkeypatch.setattr(files, "try_reflink", lambda *_: False)
        source = TrackedSource(disk.parent.parent)
        journal_path(disk).write_bytes(content)
        snapshot = source.snapshot(["vm"], "s")
        assert read(snapshot.disks[KEY]) == bytes(DISK_BYTES)
        snapshot.check_still_valid()
        write(disk, 0, b"x")
        with pytest.raises(SourceChanged):
            snapshot.check_still_valid()
        snapshot.close()

    def test_live_disks_whose_journal_goes_away(self, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(files, "try_reflink", lambda *_: False)
        snapshot = TrackedSource(disk.parent.parent).snapshot(["vm"], "s")
        journal_path(disk).unlink()
        with pytest.raises(SourceChanged):
            snapshot.check_still_valid()
        snapshot.close()
