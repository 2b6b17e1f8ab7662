from contextlib import ExitStack
from typing import cast
from uuid import uuid4

from dmcore.connector.senders import Senders
from dmcore.model.ids import DiskId, GroupId
from dmcore.wire.connection import Connection

GROUP, DISK, OTHER = GroupId(uuid4()), DiskId(uuid4()), DiskId(uuid4())


class FakeConnection:
    def __init__(self) -> None:
        self.cancelled = ""

    def cancel(self, why: str) -> None:
        self.cancelled = why


def opened(senders: Senders, undo: ExitStack, attempt: int, disk: DiskId = DISK) -> FakeConnection:
    connection = FakeConnection()
    undo.enter_context(senders.sending(GROUP, disk, attempt, cast("Connection", connection)))
    return connection


def test_the_later_attempt_stays_in_whatever_order_they_come() -> None:
    for attempts in ((1, 2), (2, 1)):
        with ExitStack() as undo:
            senders = Senders()
            found = {attempt: opened(senders, undo, attempt) for attempt in attempts}
            assert "another attempt" in found[1].cancelled
            assert not found[2].cancelled
        assert senders._newest == {}


def test_disks_do_not_meet() -> None:
    with ExitStack() as undo:
        senders = Senders()
        one, other = opened(senders, undo, 1), opened(senders, undo, 2, OTHER)
        assert not one.cancelled
        assert not other.cancelled


def test_who_has_ended_is_not_cancelled() -> None:
    senders = Senders()
    with ExitStack() as first:
        ended = opened(senders, first, 1)
    with ExitStack() as second:
        opened(senders, second, 2)
        assert not ended.cancelled


def test_an_older_one_that_ends_later_takes_nothing_along() -> None:
    senders = Senders()
    with ExitStack() as second:
        with ExitStack() as first:
            opened(senders, first, 1)
            newest = opened(senders, second, 2)
        third = opened(senders, second, 3)
        assert newest.cancelled
        assert not third.cancelled
