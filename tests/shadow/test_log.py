"""The staging log alone: torn tails are cut, damage below what was acknowledged stops everything."""

import errno
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from dmcore.errors import DmcoreError
from dmcore.model.ids import CycleId, DiskId, PlanId
from dmcore.native.patching import BlockIO
from dmcore.seal.header import StreamHeader
from dmcore.shadow import allocating, records, segments
from dmcore.shadow.errors import LogCorrupt, LogPoisoned, StagingFull, StagingReadOnly
from dmcore.shadow.log import LogWriter
from dmcore.shadow.records import HEADER_BYTES, RecordType, StreamRecord
from dmcore.shadow.segments import LogReader
from dmcore.shadow.staging import StagingRoom
from dmcore.shadow.storage import Storage
from tests.shadow.faults import PowerCut, SteppedStorage, SystemCalls, Trigger, cut

HEADER = StreamHeader(1, PlanId(UUID(int=1)), DiskId(UUID(int=2)), CycleId(UUID(int=3)), 1, 1, 1 << 30)
STREAM = StreamRecord(HEADER, 0, b"wrapped")


def write_log(folder: Path, bodies: list[bytes], *, sync_each: bool = True) -> LogWriter:
    log = LogWriter(Storage(), folder)
    log.start_stream(STREAM)
    for number, body in enumerate(bodies):
        log.append_batch(body, number)
        if sync_each:
            log.sync()
    return log


def read_log(folder: Path) -> tuple[list[tuple[RecordType, bytes]], LogReader]:
    reader = LogReader(Storage(), folder)
    found = [(record.type, bytes(body)) for record, body in reader.records()]
    reader.check_tail()
    return found, reader


def batches(folder: Path) -> list[bytes]:
    return [body for kind, body in read_log(folder)[0] if kind is RecordType.BATCH]


def test_what_was_appended_is_read_back(tmp_path: Path) -> None:
    bodies = [bytes([n]) * (n * 37) for n in range(5)]
    write_log(tmp_path, bodies).close()
    found, _ = read_log(tmp_path)
    assert found[0] == (RecordType.STREAM, STREAM.pack())
    assert StreamRecord.unpack(found[0][1]) == STREAM
    assert batches(tmp_path) == bodies


def test_a_missing_log_is_an_empty_one(tmp_path: Path) -> None:
    assert batches(tmp_path / "none") == []


def test_one_record_is_one_pwritev_where_it_is_allocated(tmp_path: Path) -> None:
    trigger = Trigger(None, lambda _: None)
    log = LogWriter(Storage(BlockIO(SystemCalls(trigger))), tmp_path)
    log.start_stream(STREAM)
    trigger.steps.clear()
    log.append_batch(b"x" * 100_000, 0)
    log.append_batch(b"x" * 100_000, 1)
    assert trigger.steps == ["pwritev", "pwritev"]
    log.close()


def test_segments_roll_and_repeat_the_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1000)
    bodies = [bytes([n]) * 400 for n in range(9)]
    log = write_log(tmp_path, bodies, sync_each=False)
    assert log.sync() == log.position
    log.close()
    found, reader = read_log(tmp_path)
    assert len(reader.end.segments) > 2
    repeated = [StreamRecord.unpack(body) for kind, body in found if kind is RecordType.STREAM]
    assert len(repeated) == len(reader.end.segments)
    assert [stream.next_batch for stream in repeated][:3] == [0, 1, 2]
    assert batches(tmp_path) == bodies


def test_appending_goes_on_behind_the_good_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1000)
    write_log(tmp_path, [b"a" * 600, b"b" * 600, b"c" * 600]).close()
    _, reader = read_log(tmp_path)
    log = LogWriter(Storage(), tmp_path, reader.end)
    log.start_stream(STREAM._replace(header=replace(HEADER, attempt=2)))
    log.append_batch(b"d" * 10, 0)
    log.close()
    assert [body[:1] for body in batches(tmp_path)] == [b"a", b"b", b"c", b"d"]


@pytest.mark.parametrize("lost", [1, 20, HEADER_BYTES, HEADER_BYTES + 40], ids=lambda n: f"{n}-bytes-lost")
def test_a_torn_tail_is_cut(tmp_path: Path, lost: int) -> None:
    log = write_log(tmp_path, [b"first" * 9, b"last" * 10], sync_each=False)
    log.close()
    path = segments.segment_path(tmp_path, 0)
    os.truncate(path, log.position - lost)
    _, reader = read_log(tmp_path)
    again = LogWriter(Storage(), tmp_path, reader.end)
    assert again.position == path.stat().st_size <= log.position - lost
    again.close()
    assert batches(tmp_path) == [b"first" * 9]


def test_a_torn_tail_takes_later_segments_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 500)
    log = write_log(tmp_path, [bytes([n]) * 400 for n in range(3)], sync_each=False)
    log.close()
    tear_first_segment(tmp_path)
    _, reader = read_log(tmp_path)
    LogWriter(Storage(), tmp_path, reader.end).close()
    assert not segments.segment_path(tmp_path, 1).exists()


def tear_first_segment(folder: Path) -> None:
    """Cut it within its last record."""
    reader = LogReader(Storage(), folder)
    ends = [record.end for record, _ in reader.records() if reader.at.segment == 0]
    os.truncate(segments.segment_path(folder, 0), ends[-1] - 5)


def flip(path: Path, at: int) -> None:
    held = bytearray(path.read_bytes())
    held[at] ^= 1
    path.write_bytes(held)


def test_damage_before_a_later_synced_record_is_corruption(tmp_path: Path) -> None:
    write_log(tmp_path, [b"one" * 30, b"two" * 30, b"three" * 30]).close()
    flip(segments.segment_path(tmp_path, 0), 2 * HEADER_BYTES + len(STREAM.pack()) + 5)
    with pytest.raises(LogCorrupt, match="durable"):
        read_log(tmp_path)


def test_damage_in_a_later_segment_names_corruption_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 500)
    write_log(tmp_path, [bytes([n]) * 400 for n in range(4)]).close()
    flip(segments.segment_path(tmp_path, 0), 2 * HEADER_BYTES + len(STREAM.pack()) + 5)
    with pytest.raises(LogCorrupt):
        read_log(tmp_path)


def read_sealed(folder: Path, log_bytes: int, log_chain: int) -> list[bytes]:
    reader = LogReader(Storage(), folder)
    found = [bytes(body) for record, body in reader.records(log_bytes) if record.type is RecordType.BATCH]
    reader.check_sealed(log_bytes, log_chain)
    return found


def test_a_log_shorter_than_the_state_file_says_is_corruption(tmp_path: Path) -> None:
    log = write_log(tmp_path, [b"one" * 30, b"two" * 30])
    log.close()
    assert read_sealed(tmp_path, log.position, log.chain) == [b"one" * 30, b"two" * 30]
    os.truncate(segments.segment_path(tmp_path, 0), log.position - 1)
    with pytest.raises(LogCorrupt):
        read_sealed(tmp_path, log.position, log.chain)


def test_what_lies_behind_a_sealed_length_is_not_read(tmp_path: Path) -> None:
    """SEALED was written, but the write was told to have failed: a new stream was begun meanwhile."""
    log = write_log(tmp_path, [b"one" * 30])
    sealed = log.position, log.chain
    log.append_batch(b"two" * 30, 1)
    log.sync()
    log.append_batch(b"three" * 30, 2)
    log.close()
    assert read_sealed(tmp_path, *sealed) == [b"one" * 30]


def test_a_sealed_log_of_another_chain_is_corruption(tmp_path: Path) -> None:
    log = write_log(tmp_path / "a", [b"one" * 30])
    log.close()
    other = write_log(tmp_path / "b", [b"two" * 30])
    other.close()
    assert other.position == log.position
    with pytest.raises(LogCorrupt):
        read_sealed(tmp_path / "b", log.position, log.chain)


class SyncedFiles(SystemCalls):
    """Which files were synced, by inode."""

    def __init__(self) -> None:
        super().__init__(Trigger(None, lambda _: None))
        self.inodes: set[int] = set()

    def fdatasync(self, fd: int) -> None:
        super().fdatasync(fd)
        self.inodes.add(os.fstat(fd).st_ino)


def test_going_on_syncs_every_segment_that_a_killed_writer_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 500)
    write_log(tmp_path, [bytes([n]) * 400 for n in range(4)], sync_each=False).close()
    _, reader = read_log(tmp_path)
    calls = SyncedFiles()
    log = LogWriter(Storage(BlockIO(calls)), tmp_path, reader.end)
    assert log.sync() == reader.end.position
    log.close()
    assert len(reader.end.segments) > 2
    assert {segment.path.stat().st_ino for segment in reader.end.segments} <= calls.inodes


def test_cutting_leaves_no_gap_whenever_it_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 500)
    write_log(tmp_path, [bytes([n]) * 400 for n in range(6)], sync_each=False).close()
    tear_first_segment(tmp_path)
    _, reader = read_log(tmp_path)
    left: set[int] = set()
    for _ in range(2):
        with pytest.raises(PowerCut):
            LogWriter(SteppedStorage(Trigger(5, cut)), tmp_path, reader.end)
        numbers = [number for number, _ in segments.segment_files(Storage(), tmp_path)]
        assert numbers == list(range(len(numbers)))
        left.add(len(numbers))
    assert len(left) == 2
    assert min(left) > 1
    _, reader = read_log(tmp_path)
    LogWriter(Storage(), tmp_path, reader.end).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["salt", "seg-00000000.log"]


@pytest.mark.parametrize("at", range(HEADER_BYTES))
def test_every_byte_of_a_record_header_is_checked(tmp_path: Path, at: int) -> None:
    write_log(tmp_path, [b"body" * 9], sync_each=False).close()
    flip(segments.segment_path(tmp_path, 0), HEADER_BYTES + len(STREAM.pack()) + at)
    assert batches(tmp_path) == []


class Failing(SystemCalls):
    """One of its calls fails with an errno, once or more, from when it is armed."""

    def __init__(self) -> None:
        super().__init__(Trigger(None, lambda _: None))
        self.armed = "", 0
        self.times = 1

    def _reach(self, what: str) -> None:
        if self.armed[0] == what and self.times:
            self.times -= 1
            raise OSError(self.armed[1], os.strerror(self.armed[1]))

    def pwritev(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        self._reach("pwritev")
        return super().pwritev(fd, buffers, offset)

    def fdatasync(self, fd: int) -> None:
        self._reach("fdatasync")
        super().fdatasync(fd)


@pytest.fixture
def calls() -> Failing:
    return Failing()


def begun_log(folder: Path, calls: Failing) -> LogWriter:
    log = LogWriter(Storage(BlockIO(calls)), folder)
    log.start_stream(STREAM)
    return log


ERRNOS = pytest.mark.parametrize(
    ("code", "error"),
    [
        (errno.EIO, LogPoisoned),
        (errno.ENOSPC, StagingFull),
        (errno.EDQUOT, StagingFull),
        (errno.EROFS, StagingReadOnly),
    ],
    ids=["EIO", "ENOSPC", "EDQUOT", "EROFS"],
)


def refuses_everything(log: LogWriter) -> bool:
    later: list[Callable[[], object]] = [
        log.sync,
        lambda: log.append_batch(b"y", 1),
        lambda: log.start_stream(STREAM),
    ]
    for call in later:
        with pytest.raises(LogPoisoned):
            call()
    log.prepare()
    return log.poisoned and log.close_segment() is None


@ERRNOS
def test_a_failed_sync_poisons_the_log(tmp_path: Path, calls: Failing, code: int, error: type[DmcoreError]) -> None:
    log = begun_log(tmp_path, calls)
    log.append_batch(b"x", 0)
    calls.armed = "fdatasync", code
    with pytest.raises(error):
        log.sync()
    assert refuses_everything(log)
    assert log.durable_to == 0
    log.close()
    log.close()


@ERRNOS
def test_a_failed_write_poisons_the_log(tmp_path: Path, calls: Failing, code: int, error: type[DmcoreError]) -> None:
    log = begun_log(tmp_path, calls)
    calls.armed = "pwritev", code
    with pytest.raises(error):
        log.append_batch(b"x", 0)
    assert refuses_everything(log)
    log.close()


@ERRNOS
def test_a_failed_sync_of_what_is_allocated_poisons_the_log(
    tmp_path: Path, calls: Failing, code: int, error: type[DmcoreError]
) -> None:
    """It is a sync of the records in the same file as well."""
    log = begun_log(tmp_path, calls)
    calls.armed = "fdatasync", code
    with pytest.raises(error):
        log.append_batch(b"x" * allocating.FIRST_BYTES, 0)
    assert refuses_everything(log)
    log.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT], ids=["ENOSPC", "EDQUOT"])
def test_no_space_to_allocate_changes_nothing(tmp_path: Path, calls: Failing, code: int) -> None:
    storage, woken = Storage(BlockIO(calls)), threading.Semaphore(0)
    room = StagingRoom(storage, tmp_path)
    log = LogWriter(storage, tmp_path, room=room)
    log.start_stream(STREAM)
    log.append_batch(b"a", 0)
    room.waits(woken.release)
    before = log.position, log.chain
    batch = b"b" * allocating.FIRST_BYTES
    for _ in range(2):
        calls.armed, calls.times = ("pwritev", code), 2  # not even for less than it would like
        with pytest.raises(StagingFull, match="free space"):
            log.append_batch(batch, 1)
        assert (log.position, log.chain, log.poisoned) == (*before, False)
    room.waits_no_more(woken.release)
    assert not woken.acquire(blocking=False)  # or whoever waits would ask again and again
    log.append_batch(batch, 1)
    assert log.sync() == log.position
    log.close()
    assert batches(tmp_path) == [b"a", batch]


def test_another_error_while_allocating_poisons_the_log(tmp_path: Path, calls: Failing) -> None:
    log = begun_log(tmp_path, calls)
    calls.armed = "pwritev", errno.EIO
    with pytest.raises(LogPoisoned, match="allocating failed"):
        log.append_batch(b"b" * allocating.FIRST_BYTES, 0)
    assert refuses_everything(log)
    log.close()


def test_a_segment_that_cannot_be_made_poisons_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 400)
    log = write_log(tmp_path, [b"x"], sync_each=False)
    segments.segment_path(tmp_path, 1).mkdir()
    with pytest.raises(LogPoisoned, match="new segment"):
        log.append_batch(b"x" * 200, 1)
    assert refuses_everything(log)
    log.close()


class NoDirectorySync(Storage):
    """Directories cannot be synced from when it is armed."""

    code = 0

    def sync_dir(self, path: Path) -> None:
        if self.code:
            raise OSError(self.code, os.strerror(self.code))
        super().sync_dir(path)


@ERRNOS
def test_a_directory_that_cannot_be_synced_poisons_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, error: type[DmcoreError]
) -> None:
    """A segment whose name may be lost holds nothing that is acknowledged."""
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 400)
    storage = NoDirectorySync()
    log = LogWriter(storage, tmp_path)
    log.start_stream(STREAM)
    log.append_batch(b"x", 0)
    storage.code = code
    with pytest.raises(error):
        log.append_batch(b"x" * 200, 1)
    assert refuses_everything(log)
    log.close()


@ERRNOS
def test_a_log_that_cannot_be_made_says_why(tmp_path: Path, code: int, error: type[DmcoreError]) -> None:
    storage = NoDirectorySync()
    storage.code = code
    with pytest.raises(error):
        LogWriter(storage, tmp_path / "log")


def test_a_batch_before_any_stream_is_refused(tmp_path: Path) -> None:
    log = LogWriter(Storage(), tmp_path)
    with pytest.raises(LogPoisoned, match="before any stream"):
        log.append_batch(b"x", 0)
    log.close()


def test_records_that_cannot_be(tmp_path: Path) -> None:
    good, _ = records.pack(RecordType.BATCH, b"body", 0, 0, bytes(16), 0)
    assert records.unpack(good) is not None
    assert records.unpack(good[:-1]) is None
    assert records.unpack(good[:5] + b"\x09" + good[6:]) is None
    too_long = records.HEADER.pack(b"DMLR", 1, 2, 0, records.MAX_BODY_BYTES + 1, 0, 0, bytes(16), 0, 0)
    assert records.unpack(too_long) is None
