"""The thread that looks, and the clock of throttling."""

import threading

import pytest
import structlog

from dmcore.appliance.standby import Standby
from dmcore.appliance.throttling import TimedPace
from dmcore.wire.pacer import Pacer


class TestStandby:
    def test_looks_again_and_again_whatever_happens(self) -> None:
        looked, swept = threading.Semaphore(0), threading.Semaphore(0)

        def look() -> None:
            looked.release()
            raise RuntimeError("a bug")

        with structlog.testing.capture_logs() as logs, Standby(look, swept.release, look_s=0.001):
            for _ in range(3):
                assert looked.acquire(timeout=10)
        assert logs[0]["event"] == "a fault while this node looked for what is due"
        assert swept.acquire(timeout=10)
        assert not swept.acquire(blocking=False)  # at once, then every hour

    def test_stops_without_having_started(self) -> None:
        made = Standby(lambda: None, lambda: None)
        made.stop()
        made.stop()


class TestThrottling:
    def test_counts_from_the_first_byte_held_back_to_the_next_look(self) -> None:
        now, seconds = [100.0], list[float]()
        pacer = Pacer(1000, clock=lambda: now[0])
        pace = TimedPace(pacer, seconds.append, clock=lambda: now[0])
        assert (pace.take(50), pace.paused) == (0, False)
        assert pace.wait_s(50) > 0
        now[0] += 0.04
        assert pace.take(50) == 40
        now[0] += 0.01
        assert pace.take(10) == 10
        now[0] += 5
        pacer.set_rate(None)
        assert pace.take(10) == 10
        assert seconds == pytest.approx([0.04, 0.01])
        pacer.set_rate(0)
        assert pace.paused
        pace.give_back(5)
