"""What a stream has brought while there is no room: held in order, tried again, given up in time; and nobody twice."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from dmcore.connector.intake import Feed, Intake
from dmcore.seal.header import StreamHeader
from dmcore.shadow.errors import LogPoisoned, StagingFull
from dmcore.shadow.receiver import DiskReceiver
from dmcore.shadow.staging import StagingRoom
from dmcore.shadow.storage import Storage
from tests.shadow.test_log import HEADER

FULL = StagingFull(path="/staging", needed_bytes=1, free_bytes=0)


class FakeReceiver:
    """Takes what it is given until it is full, or fails."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.taken: list[Any] = []
        self.full = False
        self.waits = False
        self.error: Exception | None = None

    def start(self, attempt: int, header: StreamHeader, wrapped_keys: bytes) -> None:
        assert (attempt, wrapped_keys) == (7, b"keys")
        self._take("start", header)

    def append(self, attempt: int, data: memoryview) -> int:
        assert attempt == 7
        return self._take("append", bytes(data))

    def append_again(self, attempt: int, data: memoryview) -> int:
        assert attempt == 7
        return self._take("again", bytes(data))

    def _take(self, call: str, what: object) -> int:
        self.calls.append((call, what))
        if self.error is not None:
            raise self.error
        self.waits = self.full
        if self.full:
            raise FULL
        self.taken.append(what)
        return len(self.taken)


class Kit:
    def __init__(self, root: Path) -> None:
        self.receiver = FakeReceiver()
        self.room = StagingRoom(Storage(), root, wait_s=100)
        self.now = 1000.0
        self.direct = self.woken = self.appended = 0
        feed = Feed(cast("DiskReceiver", self.receiver), 7, b"keys", self._append, self._go_direct)
        self.intake = Intake(feed, self.room, self._wake, lambda: self.now)

    def _append(self) -> None:
        self.appended += 1

    def _go_direct(self) -> None:
        self.direct += 1

    def _wake(self) -> None:
        self.woken += 1

    def put(self, *batches: bytes) -> None:
        for batch in batches:
            self.intake.put(memoryview(batch))


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[Kit]:
    held = Kit(tmp_path)
    yield held
    held.intake.stop_waiting()
    assert not held.room.short


def test_what_comes_is_appended_while_there_is_room(kit: Kit) -> None:
    kit.intake.put(HEADER)
    kit.put(b"0", b"1")
    assert kit.receiver.taken == [HEADER, b"0", b"1"]
    assert (kit.appended, kit.direct, kit.intake.waiting) == (2, 0, False)


def test_without_room_it_is_held_in_order(kit: Kit) -> None:
    kit.receiver.full = True
    kit.put(b"0", b"1", b"2")
    assert (kit.receiver.taken, kit.intake.waiting, kit.room.short) == ([], True, True)
    kit.receiver.full = False
    kit.intake.go_on()
    assert kit.receiver.taken == [b"0", b"1", b"2"]
    assert (kit.appended, kit.intake.waiting) == (3, False)


def test_a_batch_that_waits_is_verified_once(kit: Kit) -> None:
    kit.receiver.full = True
    kit.put(b"0", b"1")
    kit.receiver.full = False
    kit.intake.go_on()
    assert [what for call, what in kit.receiver.calls if call == "append"] == [b"0", b"1"]
    assert kit.receiver.calls[-2:] == [("again", b"0"), ("append", b"1")]


def test_a_stream_header_waits_too(kit: Kit) -> None:
    kit.receiver.full = True
    kit.intake.put(HEADER)
    kit.put(b"0")
    kit.receiver.full = False
    kit.intake.go_on()
    assert kit.receiver.taken == [HEADER, b"0"]
    assert {call for call, _ in kit.receiver.calls} == {"start", "append"}


def test_room_that_came_free_just_before_is_found_at_once(kit: Kit) -> None:
    kit.receiver.full = True
    kit._go_direct = lambda: setattr(kit.receiver, "full", False)  # type: ignore[method-assign]
    feed = Feed(cast("DiskReceiver", kit.receiver), 7, b"keys", kit._append, kit._go_direct)
    intake = Intake(feed, kit.room, kit._wake, lambda: kit.now)
    intake.put(memoryview(b"0"))
    assert (kit.receiver.taken, intake.waiting) == ([b"0"], False)


def test_the_disk_is_taken_direct_once_a_wait(kit: Kit) -> None:
    kit.receiver.full = True
    kit.put(b"0", b"1")
    kit.intake.go_on()
    assert kit.direct == 1
    kit.receiver.full = False
    kit.intake.go_on()
    kit.receiver.full = True
    kit.put(b"2")
    assert kit.direct == 2


def test_more_room_wakes_the_session(kit: Kit, tmp_path: Path) -> None:
    kit.receiver.full = True
    kit.put(b"0")
    kit.room.shrink(tmp_path / "group" / "cycle" / "disk", 1)
    assert kit.woken == 1


def test_nobody_waits_for_ever(kit: Kit) -> None:
    kit.receiver.full = True
    kit.put(b"0")
    kit.now += 99
    kit.intake.go_on()
    kit.now += 1
    with pytest.raises(StagingFull):
        kit.intake.go_on()


def test_the_time_counts_from_the_last_batch_that_found_room(kit: Kit) -> None:
    kit.receiver.full = True
    kit.put(b"0")
    kit.now += 99
    kit.receiver.full = False
    kit.intake.go_on()
    kit.receiver.full = True
    kit.put(b"1")
    kit.now += 99
    kit.intake.go_on()
    assert kit.intake.waiting


def test_no_space_that_has_broken_the_log_is_not_waited_for(kit: Kit) -> None:
    kit.receiver.error = FULL
    with pytest.raises(StagingFull):
        kit.put(b"0")
    assert not kit.room.short


def test_another_failure_ends_it(kit: Kit) -> None:
    kit.receiver.full = True
    kit.put(b"0")
    kit.receiver.error = LogPoisoned(path="/log", problem="write failed")
    with pytest.raises(LogPoisoned):
        kit.intake.go_on()
