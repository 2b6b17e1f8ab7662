"""A wish to end reaches what is under way, and what begins later."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dmcore.appliance.errors import Cancelled
from dmcore.appliance.stop import Stop
from dmcore.wire.calls import ControlChannel
from dmcore.wire.errors import ConnectionCancelled, PeerGone


class FakeConnection:
    def __init__(self) -> None:
        self.told: list[str] = []

    def cancel(self, why: str) -> None:
        self.told.append(why)

    def close(self) -> None:
        self.told.append("close")


def channel(connection: FakeConnection) -> ControlChannel:
    return ControlChannel(connection)  # type: ignore[arg-type]


@contextmanager
def raises_cancelled(why: str) -> Iterator[None]:
    with pytest.raises(Cancelled) as caught:
        yield
    assert caught.value.problem == why


def test_nothing_was_asked_for() -> None:
    stop, connection = Stop(), FakeConnection()
    stop.check()
    with stop.connected(lambda: channel(connection)):
        assert connection.told == []
    assert connection.told == ["close"]


def test_whoever_watches_is_told_once_and_the_first_reason_stays() -> None:
    stop = Stop()
    told: list[str] = []
    with stop.watching(told.append):
        stop.request("one")
    stop.request("two")
    assert told == ["one"]
    with raises_cancelled("one"):
        stop.check()


def test_whoever_comes_later_is_told_at_once() -> None:
    stop = Stop()
    stop.request("one")
    told: list[str] = []
    with stop.watching(told.append):
        assert told == ["one"]
    with raises_cancelled("one"), stop.connected(lambda: pytest.fail("connected")):
        pass


class TestPause:
    def test_takes_its_time(self) -> None:
        began = time.monotonic()
        Stop().pause(0.05)
        assert time.monotonic() - began >= 0.05

    def test_ends_at_once(self) -> None:
        stop = Stop()
        other = threading.Timer(0.05, stop.request, ["one"])
        other.start()
        began = time.monotonic()
        with raises_cancelled("one"):
            stop.pause(60)
        with raises_cancelled("one"):
            stop.pause(60)
        assert time.monotonic() - began < 5
        other.join()


def test_stops_can_hang_on_each_other() -> None:
    outer, inner = Stop(), Stop()
    with outer.watching(inner.request):
        inner.request("only the inner")
        outer.check()
        outer.request("all")
    with raises_cancelled("only the inner"):
        inner.check()


def test_a_channel_under_way_is_cancelled_and_what_it_raises_is_cancelled() -> None:
    stop, connection = Stop(), FakeConnection()

    def work() -> None:
        with stop.connected(lambda: channel(connection)):
            stop.request("the lease is lost")
            raise ConnectionCancelled(peer="them", problem="the lease is lost")

    with raises_cancelled("the lease is lost"):
        work()
    assert connection.told == ["the lease is lost", "close"]


def test_a_connection_that_breaks_by_itself_is_just_that() -> None:
    stop, connection = Stop(), FakeConnection()
    with pytest.raises(PeerGone), stop.connected(lambda: channel(connection)):
        raise PeerGone(peer="them", problem="gone")


def test_other_errors_pass_even_then() -> None:
    stop = Stop()

    def work() -> None:
        with stop.connected(lambda: channel(FakeConnection())):
            stop.request("stop")
            raise KeyError

    with pytest.raises(KeyError):
        work()
