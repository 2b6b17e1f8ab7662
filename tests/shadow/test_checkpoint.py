"""Checkpoints: what is saved is read back, damage is said, reading begins there, and what lies before may go."""

from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash

from dmcore.blocks import extents as ex
from dmcore.shadow import segments
from dmcore.shadow.checkpoint import (
    CHECKPOINT_FILE,
    CHECKSUM,
    FIXED,
    Checkpoint,
    load_checkpoint,
    reclaim,
    save_checkpoint,
)
from dmcore.shadow.errors import StateUnreadable
from dmcore.shadow.log import LogWriter
from dmcore.shadow.records import RecordType
from dmcore.shadow.segments import LogReader, SegmentStart, segment_path
from dmcore.shadow.storage import Storage
from tests.shadow.test_log import STREAM, write_log

EXAMPLE = Checkpoint(
    3, 1 << 40, (1 << 64) - 1, b"l" * 16, 7, frozenset([b"a" * 32, b"b" * 32]), 2, ex.from_pairs([(0, 5), (1 << 50, 9)])
)


def same(one: Checkpoint, other: Checkpoint) -> bool:
    fields = [name for name in Checkpoint.__dataclass_fields__ if name != "covered"]
    return ex.to_bytes(one.covered) == ex.to_bytes(other.covered) and all(
        getattr(one, name) == getattr(other, name) for name in fields
    )


def of(start: SegmentStart) -> Checkpoint:
    """A checkpoint before which nothing is remembered."""
    return Checkpoint(*start, 0, frozenset(), 0, ex.empty())


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    assert load_checkpoint(Storage(), tmp_path) is None
    save_checkpoint(Storage(), tmp_path, EXAMPLE)
    found = load_checkpoint(Storage(), tmp_path)
    assert found is not None
    assert same(found, EXAMPLE)


def test_a_checkpoint_of_nothing(tmp_path: Path) -> None:
    empty = of(SegmentStart(0, 0, 0, bytes(16)))
    save_checkpoint(Storage(), tmp_path, empty)
    found = load_checkpoint(Storage(), tmp_path)
    assert found is not None
    assert same(found, empty)


def test_saving_replaces(tmp_path: Path) -> None:
    save_checkpoint(Storage(), tmp_path, of(SegmentStart(0, 0, 0, bytes(16))))
    save_checkpoint(Storage(), tmp_path, EXAMPLE)
    found = load_checkpoint(Storage(), tmp_path)
    assert found is not None
    assert found.segment == 3


def test_any_damage_is_said(tmp_path: Path) -> None:
    save_checkpoint(Storage(), tmp_path, EXAMPLE)
    path = tmp_path / CHECKPOINT_FILE
    good = path.read_bytes()
    for at in range(len(good)):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(StateUnreadable, match="checksum"):
            load_checkpoint(Storage(), tmp_path)
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(StateUnreadable):
            load_checkpoint(Storage(), tmp_path)


def resealed(data: bytes) -> bytes:
    """With a right checksum, so that it is what it says that is refused."""
    body = data[: -CHECKSUM.size]
    return body + CHECKSUM.pack(xxhash.xxh3_64_intdigest(body))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda data: b"DMC?" + data[4:], "version"),
        (lambda data: data[:5] + b"\2" + data[6:], "version 2"),
        (lambda data: data[: FIXED.size - 1] + b"\3" + data[FIXED.size :], "another length"),
        (lambda data: data[: FIXED.size - 9] + b"\3" + data[FIXED.size - 8 :], "another length"),
    ],
    ids=["magic", "version", "extents", "salts"],
)
def test_another_version_or_length_is_said(tmp_path: Path, change: Callable[[bytes], bytes], named: str) -> None:
    save_checkpoint(Storage(), tmp_path, EXAMPLE)
    path = tmp_path / CHECKPOINT_FILE
    path.write_bytes(resealed(change(path.read_bytes())))
    with pytest.raises(StateUnreadable, match=named):
        load_checkpoint(Storage(), tmp_path)


def test_a_checkpoint_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT_FILE).mkdir()
    with pytest.raises(StateUnreadable):
        load_checkpoint(Storage(), tmp_path)


@pytest.fixture
def log_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log of several segments."""
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1000)
    write_log(tmp_path, [bytes([n]) * 300 for n in range(6)]).close()
    return tmp_path


def starts(folder: Path) -> list[SegmentStart]:
    """Where the segments of a log begin."""
    reader = LogReader(Storage(), folder)
    found: dict[int, SegmentStart] = {}
    for _ in reader.records():
        found.setdefault(reader.at.segment, reader.at)
    return list(found.values())


def bodies(reader: LogReader) -> list[bytes]:
    return [bytes(body) for record, body in reader.records() if record.type is RecordType.BATCH]


def test_reading_begins_at_a_checkpoint_with_its_stream(log_folder: Path) -> None:
    whole = LogReader(Storage(), log_folder)
    all_bodies = bodies(whole)
    found = starts(log_folder)
    assert len(found) > 2
    for start in found:
        reader = LogReader(Storage(), log_folder, of(start))
        kinds = [record.type for record, _ in reader.records()]
        assert kinds[0] is RecordType.STREAM
        assert (reader.end.position, reader.end.chain) == (whole.end.position, whole.end.chain)
        later = all_bodies[len(all_bodies) - kinds.count(RecordType.BATCH) :]
        assert bodies(LogReader(Storage(), log_folder, of(start))) == later
        reader.check_tail()


def test_reclaiming_removes_what_lies_before_and_reading_goes_on(log_folder: Path) -> None:
    found = starts(log_folder)
    after = bodies(LogReader(Storage(), log_folder, of(found[2])))
    reclaim(Storage(), log_folder, of(found[2]))
    assert [number for number, _ in segments.segment_files(Storage(), log_folder)] == [s.segment for s in found[2:]]
    reader = LogReader(Storage(), log_folder, of(found[2]))
    assert bodies(reader) == after
    reader.check_tail()


def test_reclaiming_goes_on_with_what_a_crash_has_left(log_folder: Path) -> None:
    found = starts(log_folder)
    removed: list[Path] = []
    segment_path(log_folder, 0).unlink()
    reclaim(Storage(), log_folder, of(found[2]), removed.append)
    assert removed == [segment_path(log_folder, 1)]


def test_a_log_goes_on_behind_a_checkpoint_at_its_very_end(log_folder: Path) -> None:
    """All of it was redone and reclaimed before the next segment was made."""
    reader = LogReader(Storage(), log_folder)
    bodies(reader)
    reader.check_tail()
    log = LogWriter(Storage(), log_folder, reader.end)
    log.sync()
    start = log.close_segment()
    assert start is not None
    log.close()
    reclaim(Storage(), log_folder, of(start))
    assert segments.segment_files(Storage(), log_folder) == []
    again = LogReader(Storage(), log_folder, of(start))
    assert bodies(again) == []
    again.check_tail()
    assert (again.end.position, again.end.chain) == (start.position, start.chain)
    log = LogWriter(Storage(), log_folder, again.end)
    log.start_stream(STREAM)
    log.append_batch(b"later", 0)
    log.close()
    assert [number for number, _ in segments.segment_files(Storage(), log_folder)] == [start.segment]
    assert bodies(LogReader(Storage(), log_folder, of(start))) == [b"later"]
