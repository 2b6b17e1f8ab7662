import threading
from collections.abc import Iterator
from typing import cast

import pytest

from dmcore.connector.syncer import LogSyncer
from dmcore.shadow.errors import LogPoisoned
from dmcore.shadow.receiver import DiskReceiver
from tests.connector.kit import TIMEOUT_S, until


class FakeReceiver:
    """Answers `sync` with what the test has put in, in order."""

    def __init__(self) -> None:
        self.answers: list[int | Exception | None] = []
        self.gate = threading.Semaphore(0)
        self.syncs = self.prepared = 0
        self.unprepared: Exception | None = None

    def sync(self, attempt: int) -> int | None:
        assert attempt == 7
        assert self.gate.acquire(timeout=TIMEOUT_S)
        self.syncs += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def prepare(self, attempt: int) -> None:
        assert attempt == 7
        if self.unprepared is not None:
            raise self.unprepared
        self.prepared += 1


class Kit:
    def __init__(self) -> None:
        self.receiver = FakeReceiver()
        self.woken = threading.Semaphore(0)
        self.syncer = LogSyncer(cast("DiskReceiver", self.receiver), 7, self.woken.release)

    def sync(self, answer: int | Exception | None) -> None:
        self.receiver.answers.append(answer)
        self.syncer.request()
        self.receiver.gate.release()


@pytest.fixture
def kit() -> Iterator[Kit]:
    kit = Kit()
    yield kit
    kit.receiver.gate.release()
    kit.syncer.stop()


def test_tells_what_is_durable(kit: Kit) -> None:
    assert kit.syncer.durable is None
    for batch in (0, 3):
        kit.sync(batch)
        assert kit.woken.acquire(timeout=TIMEOUT_S)
        assert kit.syncer.durable == batch


def test_nothing_new_wakes_nobody(kit: Kit) -> None:
    kit.sync(None)
    until(lambda: kit.receiver.syncs == 1)
    kit.sync(4)
    assert kit.woken.acquire(timeout=TIMEOUT_S)
    assert kit.syncer.durable == 4
    assert not kit.woken.acquire(blocking=False)


def test_many_requests_are_one_sync(kit: Kit) -> None:
    """Group commit: while one sync runs, what is asked for meanwhile waits for one more."""
    kit.receiver.answers = [1, 9]
    kit.syncer.request()
    until(lambda: not kit.syncer._wanted)
    for _ in range(8):
        kit.syncer.request()
    kit.receiver.gate.release(2)
    for _ in range(2):
        assert kit.woken.acquire(timeout=TIMEOUT_S)
    assert (kit.syncer.durable, kit.receiver.syncs) == (9, 2)


def test_prepares_for_more_once_what_is_durable_was_told(kit: Kit) -> None:
    kit.receiver.unprepared = LogPoisoned(path="/log", problem="allocating failed")
    kit.sync(3)
    for _ in range(2):
        assert kit.woken.acquire(timeout=TIMEOUT_S)
    assert (kit.syncer.durable, kit.syncer.error) == (3, kit.receiver.unprepared)


@pytest.mark.parametrize("error", [LogPoisoned(path="/log", problem="sync failed"), ZeroDivisionError()], ids=repr)
def test_an_error_is_told_and_ends_it(kit: Kit, error: Exception) -> None:
    kit.sync(error)
    assert kit.woken.acquire(timeout=TIMEOUT_S)
    assert kit.syncer.error is error
    kit.syncer.request()
    kit.syncer.stop()
    assert kit.receiver.syncs == 1
