"""The thread that looks, the sweep of leftovers, and the clock of throttling."""

import threading
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest
import structlog

from dmcore.appliance.leftovers import remove_leftovers
from dmcore.appliance.offline import LEFTOVER_AGE
from dmcore.appliance.offline_state import OfflineState
from dmcore.appliance.standby import Standby
from dmcore.appliance.throttling import TimedPace
from dmcore.node.errors import AliasUnknown
from dmcore.sources.base import Source
from dmcore.wire.pacer import Pacer
from tests.appliance.test_offline import NOW, record
from tests.sources.memory import MemorySource


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


class TestLeftovers:
    @pytest.fixture
    def state(self, tmp_path: Path) -> OfflineState:
        return OfflineState(tmp_path)

    def test_only_their_own_snapshot_goes(self, state: OfflineState) -> None:
        left, busy, young = (record(snapshot_left=True) for _ in range(3))
        young = young.model_copy(update={"ended_at": NOW + LEFTOVER_AGE})
        source = MemorySource()
        source.add("vm", "a", bytes(4096))
        for each in (left, busy, young):
            state.keep_record(each)
            source.snapshot(["vm"], each.snapshot_name)
        source.snapshot(["vm"], "somebody-elses")
        opened: list[str] = []

        def open_source(alias: str) -> Source:
            opened.append(alias)
            return cast("Source", source)

        now = NOW + LEFTOVER_AGE + timedelta(minutes=1)
        remove_leftovers(state, [busy.job.group], now, open_source)
        assert source.snapshots() == sorted([busy.snapshot_name, young.snapshot_name, "somebody-elses"])
        assert opened == [left.job.source]
        remove_leftovers(state, [busy.job.group], now, open_source)
        assert opened == [left.job.source]  # once

    def test_what_cannot_be_removed_stays_for_the_next_time(self, state: OfflineState) -> None:
        left = record(snapshot_left=True)
        state.keep_record(left)

        def gone(alias: str) -> Source:
            raise AliasUnknown(noun="source", alias=alias, known="none")

        with structlog.testing.capture_logs() as logs:
            remove_leftovers(state, [], NOW + 2 * LEFTOVER_AGE, gone)
        assert (logs[0]["code"], state.record(left.job.group)) == ("alias.unknown", left)


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
