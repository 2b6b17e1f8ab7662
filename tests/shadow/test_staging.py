"""The room for staging: what is promised, taken and free; spare segments; who waits; and what a restart knows of it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dmcore.shadow import allocating, segments
from dmcore.shadow.errors import StagingFull
from dmcore.shadow.log import LogWriter
from dmcore.shadow.segments import LogEnd, LogReader, segment_path
from dmcore.shadow.staging import SPARE_FOLDER, StagingRoom
from dmcore.shadow.storage import Storage
from tests.shadow.test_log import STREAM

MIB = 1 << 20
QUOTA = 10 * MIB
SEGMENT = 1 * MIB
LESS_THAN_ANY_FILE_SYSTEM = -(1 << 60)
"""As a reserve: only the quota bounds the room then."""


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", SEGMENT)


class Staging:
    """A staging directory, and the folders of logs in it."""

    def __init__(self, root: Path) -> None:
        self.root = root / "staging"
        self.storage = Storage()

    def room(self, quota_bytes: int | None = QUOTA, **changes: int) -> StagingRoom:
        return StagingRoom.open(
            self.storage, self.root, changes.get("reserve_bytes", LESS_THAN_ANY_FILE_SYSTEM), quota_bytes
        )

    def cycle(self, number: int = 1) -> Path:
        return self.root / "group" / f"cycle-{number}"

    def log(self, cycle: int = 1, disk: str = "disk") -> Path:
        return self.cycle(cycle) / disk

    def spares(self) -> list[str]:
        return self.storage.names(self.root / SPARE_FOLDER)


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    return Staging(tmp_path)


def free(room: StagingRoom, log: Path) -> int:
    """What a log may still take, as it finds out by asking for too much."""
    with pytest.raises(StagingFull) as full:
        room.grow(log, 1 << 61)
    return full.value.free_bytes


# Quota and reserve


def test_logs_take_room_and_give_it_back(staging: Staging) -> None:
    room = staging.room()
    room.grow(staging.log(1), 4 * MIB)
    room.grow(staging.log(2), 6 * MIB)
    assert (room.used_bytes, free(room, staging.log(1))) == (QUOTA, 0)
    with pytest.raises(StagingFull, match="needs 1 bytes and 0 are free"):
        room.grow(staging.log(1), 1)
    room.shrink(staging.log(2), 2 * MIB)
    assert (room.used_bytes, free(room, staging.log(1))) == (QUOTA - 2 * MIB, 2 * MIB)
    room.remove(staging.cycle(2))
    assert room.used_bytes == 4 * MIB


def test_the_reserve_stays_free(staging: Staging) -> None:
    room = staging.room(None)
    there = staging.storage.free_bytes(staging.root)
    reserved = StagingRoom(staging.storage, staging.root, reserve_bytes=there + (1 << 40))
    assert free(room, staging.log()) > 0
    assert free(reserved, staging.log()) == 0


def test_without_a_quota_the_file_system_bounds_it(staging: Staging) -> None:
    room = staging.room(None, reserve_bytes=0)
    room.grow(staging.log(), MIB)
    with pytest.raises(StagingFull):
        room.grow(staging.log(), 1 << 60)


# Promises


def test_what_is_reserved_is_kept_from_others(staging: Staging) -> None:
    room = staging.room()
    room.reserve(staging.cycle(1), 6 * MIB)
    assert free(room, staging.log(1)) == QUOTA
    assert free(room, staging.log(2)) == 4 * MIB
    with pytest.raises(StagingFull):
        room.reserve(staging.cycle(2), 4 * MIB + 1)
    room.reserve(staging.cycle(2), 4 * MIB)
    assert free(room, staging.log(3)) == 0


def test_a_cycle_uses_up_what_it_was_promised(staging: Staging) -> None:
    room = staging.room()
    room.reserve(staging.cycle(1), 6 * MIB)
    room.grow(staging.log(1, "a"), 2 * MIB)
    room.grow(staging.log(1, "b"), 3 * MIB)
    assert free(room, staging.log(2)) == 4 * MIB
    room.grow(staging.log(1, "a"), 3 * MIB)
    assert free(room, staging.log(2)) == 2 * MIB


def test_what_was_promised_is_free_when_the_cycle_is_gone(staging: Staging) -> None:
    room = staging.room()
    room.reserve(staging.cycle(1), QUOTA)
    assert free(room, staging.log(2)) == 0
    room.remove(staging.root / "group")
    assert free(room, staging.log(2)) == QUOTA


def test_a_promise_from_before_a_restart_is_not_refused(staging: Staging) -> None:
    room = staging.room()
    room.grow(staging.log(2), QUOTA)
    room.promise(staging.cycle(1), 6 * MIB)
    room.remove(staging.cycle(2))
    assert free(room, staging.log(2)) == 4 * MIB


# Logs in the room


def write(staging: Staging, room: StagingRoom, bodies: int, cycle: int = 1, end: LogEnd | None = None) -> LogWriter:
    """A log of batches of half a segment."""
    log = LogWriter(staging.storage, staging.log(cycle), end, room)
    log.start_stream(STREAM)
    for number in range(bodies):
        log.append_batch(bytes([number + 1]) * (SEGMENT // 2 - 1000), number)
    log.sync()
    return log


def test_a_small_log_takes_little(staging: Staging) -> None:
    room = staging.room()
    log = LogWriter(staging.storage, staging.log(), room=room)
    assert room.used_bytes < 10_000
    log.start_stream(STREAM)
    log.append_batch(b"x" * 1000, 0)
    log.sync()
    log.prepare()
    assert room.used_bytes < allocating.FIRST_BYTES + 10_000
    log.close()


def test_a_growing_log_allocates_ahead_of_its_appends(staging: Staging) -> None:
    """The thread that syncs does it, so that the one that appends does not wait."""
    room = staging.room()
    log = LogWriter(staging.storage, staging.log(), room=room)
    log.start_stream(STREAM)
    sizes = [room.used_bytes]
    for number in range(60):
        log.append_batch(b"x" * 50_000, number)
        log.sync()
        log.prepare()
        sizes.append(room.used_bytes)
        assert room.used_bytes <= max(4 * log.position, 2 * SEGMENT + log.position)
    assert segment_path(staging.log(), log.position // SEGMENT + 1).exists()
    log.close()


def test_nothing_is_allocated_ahead_while_somebody_waits(staging: Staging) -> None:
    room = staging.room()
    log = write(staging, room, 2)
    before = room.used_bytes
    room.waits(print)
    log.prepare()
    assert room.used_bytes == before
    room.waits_no_more(print)
    log.prepare()
    assert room.used_bytes > before
    log.close()


def test_no_room_to_allocate_ahead_is_no_error(staging: Staging) -> None:
    room = staging.room(SEGMENT + 100_000)
    log = write(staging, room, 2)
    log.prepare()
    with pytest.raises(StagingFull):
        log.append_batch(b"x" * SEGMENT, 2)
    assert not log.poisoned
    log.close()


def test_a_log_takes_what_it_needs_where_there_is_no_room_for_more(staging: Staging) -> None:
    room = staging.room(400_000)
    log = LogWriter(staging.storage, staging.log(), room=room)
    log.start_stream(STREAM)
    log.append_batch(b"x" * (allocating.FIRST_BYTES - 1000), 0)
    log.append_batch(b"x" * 50_000, 1)
    assert allocating.FIRST_BYTES < room.used_bytes < 400_000
    log.close()


def test_appending_goes_on_once_there_is_room(staging: Staging) -> None:
    room = staging.room(2 * SEGMENT + 10_000)
    room.grow(staging.log(2), SEGMENT)
    log = write(staging, room, 2)
    batch = b"x" * (SEGMENT // 2)
    for _ in range(2):
        with pytest.raises(StagingFull):
            log.append_batch(batch, 2)
    room.remove(staging.cycle(2))
    log.append_batch(batch, 2)
    log.sync()
    log.close()
    reader = LogReader(staging.storage, staging.log())
    assert [record.body_bytes for record, _ in reader.records()].count(len(batch)) == 1
    reader.check_tail()
    assert reader.end.position == log.position


# Spare segments


def test_whole_segments_are_used_again(staging: Staging) -> None:
    room = staging.room()
    write(staging, room, 5).close()
    room.remove(staging.cycle(1))
    assert len(staging.spares()) == 3
    assert room.used_bytes == 3 * SEGMENT
    inodes = {path.stat().st_ino for path in (staging.root / SPARE_FOLDER).iterdir()}
    log = write(staging, room, 5, cycle=2)
    assert len(staging.spares()) == 1  # a log's first segment is its own, as most stay small
    assert {segment_path(staging.log(2), number).stat().st_ino for number in (1, 2)} < inodes
    log.close()
    reader = LogReader(staging.storage, staging.log(2))
    assert sum(1 for _ in reader.records()) == 8
    reader.check_tail()
    assert reader.end.position == log.position


def test_the_spares_are_bounded(staging: Staging) -> None:
    room = StagingRoom(staging.storage, staging.root, max_spares=1)
    write(staging, room, 9).close()
    for number in (0, 1):
        room.give_back(segment_path(staging.log(), number))
    assert len(staging.spares()) == 1
    room.remove(staging.cycle(1))
    assert len(staging.spares()) == 1
    assert room.used_bytes == SEGMENT


def test_a_segment_that_is_not_whole_is_removed(staging: Staging) -> None:
    room = staging.room()
    log = LogWriter(staging.storage, staging.log(), room=room)
    log.start_stream(STREAM)
    log.close()
    room.give_back(segment_path(staging.log(), 0))
    assert staging.spares() == []
    assert not segment_path(staging.log(), 0).exists()


def test_spares_make_room_for_what_needs_it(staging: Staging) -> None:
    room = staging.room(4 * SEGMENT)
    write(staging, room, 5).close()
    room.remove(staging.cycle(1))
    assert len(staging.spares()) == 3
    room.grow(staging.log(2), 2 * SEGMENT)
    assert len(staging.spares()) == 2
    room.grow(staging.log(2), SEGMENT + 1)
    assert staging.spares() == []
    assert room.used_bytes == 3 * SEGMENT + 1


def test_spares_that_are_promised_are_not_taken(staging: Staging) -> None:
    room = staging.room(3 * SEGMENT)
    write(staging, room, 5).close()
    room.remove(staging.cycle(1))
    room.reserve(staging.cycle(1), 2 * SEGMENT + 1)
    staging.storage.make_dir(staging.log(2))
    assert not room.take_spare(segment_path(staging.log(2), 1))
    staging.storage.make_dir(staging.log(1))
    assert room.take_spare(segment_path(staging.log(1), 1))


def test_a_start_keeps_no_spares_and_counts_what_is_there(staging: Staging) -> None:
    room = staging.room()
    write(staging, room, 5, cycle=1).close()
    write(staging, room, 1, cycle=2).close()
    room.remove(staging.cycle(1))
    assert staging.spares()
    again = staging.room()
    assert staging.spares() == []
    on_disk = staging.storage.used_bytes(staging.root)
    assert again.used_bytes == on_disk
    assert SEGMENT // 2 < on_disk < 2 * SEGMENT


def test_what_a_scan_cuts_off_is_free_again(staging: Staging) -> None:
    room = staging.room()
    write(staging, room, 2).close()
    before = room.used_bytes
    os.truncate(segment_path(staging.log(), 0), SEGMENT // 2)
    reader = LogReader(staging.storage, staging.log())
    assert sum(1 for _ in reader.records()) == 2
    reader.check_tail()
    LogWriter(staging.storage, staging.log(), reader.end, room).close()
    assert room.used_bytes <= before - SEGMENT // 2 + 8192


# Waiting


@pytest.mark.parametrize(
    "release",
    [
        lambda room, staging: room.shrink(staging.log(), 1),
        lambda room, staging: room.remove(staging.cycle()),
        lambda room, staging: room.recount(staging.log()),
        lambda room, staging: room.give_back(segment_path(staging.log(), 0)),
    ],
    ids=["shrink", "remove", "recount", "give back"],
)
def test_who_waits_is_told_of_more_room(staging: Staging, release: Callable[[StagingRoom, Staging], None]) -> None:
    room = staging.room()
    write(staging, room, 1).close()
    woken: list[int] = []

    def wake() -> None:
        woken.append(room.used_bytes)  # other locks may be taken, and the room be asked

    room.waits(wake)
    short = [room.short]
    release(room, staging)
    told = len(woken)
    room.waits_no_more(wake)
    room.waits_no_more(wake)
    short.append(room.short)
    room.shrink(staging.log(), 1)
    assert (len(woken), short) == (told, [True, False])
    assert told
