"""A torn tail or corruption: damage of every kind, in every place, of a log that is synced and of one that is not.

What was acknowledged is what lies below a `durable_to` that a later good record carries. Damage there stops everything;
damage anywhere else is cut, and never is a record taken that this log does not have.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import xxhash

from dmcore.shadow import allocating, segments
from dmcore.shadow.errors import LogCorrupt, StateUnreadable
from dmcore.shadow.log import LogWriter
from dmcore.shadow.logsalt import CHECKSUM, LAYOUT, SALT_FILE, load_salt, make_salt
from dmcore.shadow.records import HEADER_BYTES, RecordType, StreamRecord
from dmcore.shadow.segments import LogReader, segment_path
from dmcore.shadow.staging import StagingRoom
from dmcore.shadow.storage import Storage
from tests.shadow.test_log import STREAM, batches, read_log

SECTOR = 512
BODIES = [bytes([n + 1]) * (300 + 700 * n) for n in range(4)]
STREAM_BYTES = HEADER_BYTES + len(STREAM.pack())
STARTS = [STREAM_BYTES + sum(HEADER_BYTES + len(body) for body in BODIES[:n]) for n in range(5)]
"""Where each batch begins, and the end."""


@pytest.fixture(autouse=True)
def little_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocating, "FIRST_BYTES", 8192)


@dataclass(frozen=True)
class Written:
    """A log of one segment, of which a copy can be damaged."""

    folder: Path

    def damaged(self, change: Callable[[bytearray], None]) -> Path:
        copy = self.folder.with_name("damaged")
        copy.mkdir(exist_ok=True)
        held = bytearray(segment_path(self.folder, 0).read_bytes())
        change(held)
        segment_path(copy, 0).write_bytes(held)
        (copy / SALT_FILE).write_bytes((self.folder / SALT_FILE).read_bytes())
        return copy

    def flipped(self, at: int, bit: int = 0) -> Path:
        def flip(held: bytearray) -> None:
            held[at] ^= 1 << bit

        return self.damaged(flip)


def write(folder: Path, *, synced: bool) -> Written:
    log = LogWriter(Storage(), folder)
    log.start_stream(STREAM)
    for number, body in enumerate(BODIES):
        log.append_batch(body, number)
        if synced:
            log.sync()
    log.close()
    assert log.position == STARTS[-1]
    return Written(folder)


@pytest.fixture
def synced(tmp_path: Path) -> Written:
    """Every record says that those before it are durable."""
    return write(tmp_path / "log", synced=True)


@pytest.fixture
def unsynced(tmp_path: Path) -> Written:
    """No record says that anything is."""
    return write(tmp_path / "log", synced=False)


def places_in_record(number: int) -> Iterator[int]:
    """Every byte of a batch's header, and some of its body: the first, the last, and around each sector's end."""
    start, end = STARTS[number], STARTS[number + 1]
    yield from range(start, start + HEADER_BYTES)
    yield from (start + HEADER_BYTES, end - 1)
    for sector in range(start // SECTOR + 1, end // SECTOR + 1):
        yield from (at for at in (sector * SECTOR - 1, sector * SECTOR) if start + HEADER_BYTES <= at < end)


@pytest.mark.parametrize("number", range(3))
def test_a_damaged_byte_below_what_was_durable_is_corruption(synced: Written, number: int) -> None:
    for at in places_in_record(number):
        with pytest.raises(LogCorrupt, match=f"damaged at {STARTS[number]}, where {STARTS[3]} bytes were durable"):
            read_log(synced.flipped(at, at % 8))


def test_every_bit_of_a_header_counts(synced: Written) -> None:
    for at in range(STARTS[1], STARTS[1] + HEADER_BYTES):
        for bit in range(8):
            with pytest.raises(LogCorrupt):
                read_log(synced.flipped(at, bit))


def test_the_stream_record_counts_like_the_others(synced: Written) -> None:
    for at in range(STREAM_BYTES):
        with pytest.raises(LogCorrupt, match="damaged at 0,"):
            read_log(synced.flipped(at))


def test_a_damaged_last_record_is_a_torn_tail(synced: Written) -> None:
    """Nothing later says that it was durable. What is missing is sent again."""
    for at in places_in_record(3):
        assert batches(synced.flipped(at)) == BODIES[:3]


@pytest.mark.parametrize("number", range(4))
def test_damage_where_nothing_was_durable_is_a_torn_tail(unsynced: Written, number: int) -> None:
    for at in places_in_record(number):
        assert batches(unsynced.flipped(at, at % 8)) == BODIES[:number]


def sectors_of(number: int) -> range:
    return range(STARTS[number] // SECTOR, -(-STARTS[number + 1] // SECTOR))


def whole_before(sector: int) -> int:
    """How many batches end before a sector."""
    return sum(1 for end in STARTS[1:] if end <= sector * SECTOR)


def zeroed(sector: int) -> Callable[[bytearray], None]:
    def zero(held: bytearray) -> None:
        held[sector * SECTOR : (sector + 1) * SECTOR] = bytes(SECTOR)

    return zero


def test_a_lost_sector_of_unsynced_writes_is_a_torn_tail(unsynced: Written) -> None:
    """Whatever of the later ones has made it."""
    for sector in range(1, -(-STARTS[-1] // SECTOR)):
        assert batches(unsynced.damaged(zeroed(sector))) == BODIES[: whole_before(sector)]
    assert batches(unsynced.damaged(zeroed(0))) == []


def test_a_lost_sector_below_what_was_durable_is_corruption(synced: Written) -> None:
    last = STARTS[3] // SECTOR
    for sector in range(last):
        with pytest.raises(LogCorrupt):
            read_log(synced.damaged(zeroed(sector)))
    for sector in range(last + 1, -(-STARTS[-1] // SECTOR)):
        assert batches(synced.damaged(zeroed(sector))) == BODIES[:3]


def test_what_one_record_claims_the_others_need_not(tmp_path: Path) -> None:
    """Only the last record was written after a sync: it speaks for all before that sync, and for none after it."""
    log = LogWriter(Storage(), tmp_path / "log")
    log.start_stream(STREAM)
    log.append_batch(BODIES[0], 0)
    log.sync()
    for number in (1, 2, 3):
        log.append_batch(BODIES[number], number)
    log.close()
    written = Written(tmp_path / "log")
    with pytest.raises(LogCorrupt):
        read_log(written.flipped(STARTS[0] + 70))
    assert batches(written.flipped(STARTS[1] + 70)) == BODIES[:1]
    assert batches(written.flipped(STARTS[2] + 70)) == BODIES[:2]


def test_a_claim_with_a_damaged_body_is_none(synced: Written) -> None:
    """A record that is not whole says nothing: the last two are damaged, so only the first two speak."""

    def change(held: bytearray) -> None:
        held[STARTS[2] + 100] ^= 1
        held[STARTS[3] + 100] ^= 1

    assert batches(synced.damaged(change)) == BODIES[:2]


def test_going_on_after_any_torn_tail_gives_a_log_like_any_other(unsynced: Written) -> None:
    for at in places_in_record(2):
        folder = unsynced.flipped(at)
        _, reader = read_log(folder)
        log = LogWriter(Storage(), folder, reader.end)
        log.start_stream(STREAM)
        log.append_batch(BODIES[2], 0)  # of the very length of what was torn: the old fourth one lies behind it
        log.sync()
        log.close()
        assert batches(folder) == BODIES[:3]


# Several segments


@pytest.fixture
def long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A synced log of four segments, two batches in each."""
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1500)
    log = LogWriter(Storage(), tmp_path / "long")
    log.start_stream(STREAM)
    for number in range(8):
        log.append_batch(bytes([number + 1]) * 400, number)
        log.sync()
    log.close()
    assert len(segments.segment_files(Storage(), tmp_path / "long")) == 4
    return tmp_path / "long"


def spoil(path: Path, at: int) -> None:
    held = bytearray(path.read_bytes())
    held[at] ^= 1
    path.write_bytes(held)


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("at", [0, 20, HEADER_BYTES + 3, 700, 1182])
def test_damage_in_any_earlier_segment_is_corruption(long: Path, number: int, at: int) -> None:
    spoil(segment_path(long, number), at)
    with pytest.raises(LogCorrupt):
        read_log(long)


@pytest.mark.parametrize("number", range(3))
def test_a_segment_that_is_missing_is_corruption(long: Path, number: int) -> None:
    segment_path(long, number).unlink()
    with pytest.raises(LogCorrupt):
        read_log(long)


def test_the_last_segment_may_be_missing(long: Path) -> None:
    """Nothing says that it was there; what it held is sent again."""
    segment_path(long, 3).unlink()
    assert len(batches(long)) == 6


def test_files_that_are_no_segments_are_left_alone(long: Path) -> None:
    for name in ("seg-0000000.log", "seg-zzzzzzzz.log", "notes"):
        (long / name).write_text("not ours")
    assert len(batches(long)) == 8


# Segments that were used before


def stale_content(folder: Path) -> bytes:
    """A whole segment of another log, every record of which is good."""
    other = LogWriter(Storage(), folder)
    other.start_stream(STREAM)
    for number in range(3):
        other.append_batch(b"stale" * 60, number)
        other.sync()
    other.close()
    return segment_path(folder, 0).read_bytes()


def test_an_older_logs_records_are_never_taken_nor_called_damage(tmp_path: Path) -> None:
    """Wherever the log ends, what the file held before begins right there."""
    written = write(tmp_path / "log", synced=True)
    stale = stale_content(tmp_path / "other")
    for end in (0, *STARTS[:4]):
        for fitted in (stale, stale[end:]):  # as it was written there, or each record off its place
            folder = written.damaged(replaced_from(end, fitted))
            assert batches(folder) == BODIES[: STARTS.index(end) if end else 0]


def replaced_from(end: int, by: bytes) -> Callable[[bytearray], None]:
    def replace(held: bytearray) -> None:
        held[end:] = by

    return replace


def test_a_whole_segment_of_another_log_is_none_of_this(long: Path, tmp_path: Path) -> None:
    segment_path(long, 4).write_bytes(stale_content(tmp_path / "other"))
    assert len(batches(long)) == 8


def test_a_log_never_takes_its_own_older_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment that this log has given back and taken again: salt, bodies and claims in it are right."""
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1500)
    folder = tmp_path / "staging" / "group" / "cycle" / "disk"
    room = StagingRoom(Storage(), tmp_path / "staging")
    log = LogWriter(Storage(), folder, room=room)
    log.start_stream(STREAM)
    number, start = 0, None
    for _ in range(6):
        for _ in range(2):
            log.append_batch(bytes([number + 1]) * 400, number)
            number += 1
        log.sync()
        start = log.close_segment()
        assert start is not None
        assert batches_from(folder, start) == []
        if start.segment > 1:
            room.give_back(segment_path(folder, start.segment - 2))
    assert start is not None
    log.append_batch(b"x" * 400, number)  # into a segment in which the log's own older records follow
    log.close()
    assert batches_from(folder, start) == [b"x" * 400]


def batches_from(folder: Path, start: segments.LogStart) -> list[bytes]:
    reader = LogReader(Storage(), folder, start)
    found = [bytes(body) for record, body in reader.records() if record.type is RecordType.BATCH]
    reader.check_tail()
    return found


# The salt


def test_a_salt_is_read_back(tmp_path: Path) -> None:
    assert load_salt(Storage(), tmp_path) is None
    salt = make_salt(Storage(), tmp_path)
    assert load_salt(Storage(), tmp_path) == salt
    assert make_salt(Storage(), tmp_path) != salt


def test_any_damage_of_the_salt_is_said(synced: Written) -> None:
    path = synced.folder / SALT_FILE
    good = path.read_bytes()
    cases = [good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] for at in range(len(good))]
    for data in cases + [good[:length] for length in range(len(good))]:
        path.write_bytes(data)
        with pytest.raises(StateUnreadable, match="damaged"):
            LogReader(Storage(), synced.folder)


def test_a_salt_of_another_version_is_said(synced: Written) -> None:
    fixed = LAYOUT.pack(b"DMLS", 2, 0, bytes(16))
    (synced.folder / SALT_FILE).write_bytes(fixed + CHECKSUM.pack(xxhash.xxh3_64_intdigest(fixed)))
    with pytest.raises(StateUnreadable, match="version 2"):
        LogReader(Storage(), synced.folder)


def test_a_salt_that_cannot_be_read_is_said(synced: Written) -> None:
    (synced.folder / SALT_FILE).unlink()
    (synced.folder / SALT_FILE).mkdir()
    with pytest.raises(StateUnreadable):
        LogReader(Storage(), synced.folder)


def test_segments_without_a_salt_are_refused(synced: Written) -> None:
    (synced.folder / SALT_FILE).unlink()
    with pytest.raises(StateUnreadable, match="missing, and the log has segments"):
        LogReader(Storage(), synced.folder)


def test_a_stream_record_that_was_torn_leaves_an_empty_log(unsynced: Written) -> None:
    folder = unsynced.damaged(lambda held: held.__setitem__(slice(10, len(held)), bytes(len(held) - 10)))
    found, reader = read_log(folder)
    assert (found, reader.end.position) == ([], 0)
    log = LogWriter(Storage(), folder, reader.end)
    log.start_stream(STREAM)
    log.close()
    assert [StreamRecord.unpack(body) for _, body in read_log(folder)[0]] == [STREAM]
