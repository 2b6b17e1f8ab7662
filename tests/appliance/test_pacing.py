"""Limits by the hour, live changes, pauses: in buckets, and in whole cycles."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from uuid import uuid4

import pytest

from dmcore.api.limits import NO_LIMIT, Limit, Weekday, Window
from dmcore.appliance.errors import Cancelled
from dmcore.appliance.pacing import LOOKED_UP_S, Pacing, wait_while_paused
from dmcore.appliance.progress import CycleReport
from dmcore.appliance.stop import Stop
from dmcore.model.enums import Stage
from dmcore.model.ids import PlanId
from dmcore.wire import connection as connection_module
from dmcore.wire.connection import Connection
from dmcore.wire.pacer import LONGEST_WAIT_S, Pace
from tests.appliance.cycle_lab import CycleLab, noise
from tests.sources.memory import MemorySource

TIMEOUT_S = 30
PLAN = PlanId(uuid4())
WEEKDAYS = tuple(Weekday)[:5]


class World:
    """A wall clock and a monotonic one that move together."""

    def __init__(self) -> None:
        self.at = datetime(2026, 3, 2, 7, 59, tzinfo=UTC)
        self.began = self.at

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return (self.at - self.began).total_seconds()

    def pass_s(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def pacing(world: World) -> Pacing:
    return Pacing(world.now, world.monotonic)


def sent_in(world: World, pace: Pace, seconds: float) -> int:
    total = 0
    for _ in range(int(seconds * 20)):
        world.pass_s(0.05)
        total += pace.take(1 << 30)
    return total


def test_without_limits_nothing_is_held_back(pacing: Pacing) -> None:
    pace = pacing.for_job(uuid4(), PLAN)
    assert (pace.take(1 << 40), pace.wait_s(1), pace.paused) == (1 << 40, 0.0, False)


def test_a_plans_jobs_share_its_limit_and_other_plans_are_free(world: World, pacing: Pacing) -> None:
    one, two = pacing.for_job(uuid4(), PLAN), pacing.for_job(uuid4(), PLAN)
    pacing.set_plan_limit(PLAN, Limit(bytes_s=100_000))
    world.pass_s(1)
    assert one.take(1 << 20) + two.take(1 << 20) == 10_000
    assert pacing.for_job(uuid4(), PlanId(uuid4())).take(1 << 20) == 1 << 20


def test_all_plans_share_the_sites(world: World, pacing: Pacing) -> None:
    pacing.set_site_limit(Limit(bytes_s=100_000))
    world.pass_s(1)
    paces = [pacing.for_job(uuid4(), PlanId(uuid4())) for _ in range(3)]
    assert sum(pace.take(1 << 20) for pace in paces) == 10_000


def test_a_limit_changes_and_goes_away_while_it_is_in_use(world: World, pacing: Pacing) -> None:
    pace = pacing.for_job(uuid4(), PLAN)
    pacing.set_plan_limit(PLAN, Limit(bytes_s=100_000))
    assert sent_in(world, pace, 10) == pytest.approx(1_000_000, rel=0.02)
    pacing.set_plan_limit(PLAN, Limit(bytes_s=10_000))
    assert sent_in(world, pace, 10) == pytest.approx(100_000, rel=0.02)
    pacing.set_plan_limit(PLAN, NO_LIMIT)
    assert pace.take(1 << 40) == 1 << 40


def test_the_same_limit_again_as_each_heartbeat_brings_it_changes_nothing(world: World, pacing: Pacing) -> None:
    pace = pacing.for_job(uuid4(), PLAN)
    total = 0
    for _ in range(100):
        pacing.set_plan_limit(PLAN, Limit(bytes_s=100_000))
        total += sent_in(world, pace, 0.1)
    assert total == pytest.approx(1_000_000, rel=0.02)


def test_a_window_begins_and_ends_without_anybody_saying_so(world: World, pacing: Pacing) -> None:
    office = Window(days=WEEKDAYS, start=time(8), end=time(18), bytes_s=10_000)
    pacing.set_plan_limits({PLAN: Limit(windows=(office,))})
    pace = pacing.for_job(uuid4(), PLAN)
    assert pace.take(1 << 30) == 1 << 30
    world.pass_s(60)  # Monday, eight o'clock
    assert pace.take(1 << 30) < 1 << 30
    assert sent_in(world, pace, 10) == pytest.approx(100_000, rel=0.02)
    world.at += timedelta(hours=10)
    assert pace.take(1 << 30) == 1 << 30


def test_a_rate_is_looked_up_again_within_a_minute(world: World, pacing: Pacing) -> None:
    pacing.set_site_limit(Limit(windows=(Window(days=WEEKDAYS, start=time(8), end=time(9), bytes_s=5000),)))
    assert LOOKED_UP_S <= 60
    rates = []
    for seconds in (59, LOOKED_UP_S):
        world.pass_s(seconds)
        rates.append(pacing._site.rate_bytes_s)
    assert rates == [None, 5000]
    assert not pacing._site.paused


def test_a_paused_job_sends_nothing_and_others_of_its_plan_do(pacing: Pacing) -> None:
    job, other = uuid4(), uuid4()
    pace = pacing.for_job(job, PLAN)
    pacing.pause(job)
    assert (pace.take(100), pace.paused, pace.wait_s(100), pacing.paused(job)) == (0, True, LONGEST_WAIT_S, True)
    assert pacing.for_job(other, PLAN).take(100) == 100
    pacing.resume(job)
    assert (pace.take(100), pace.paused) == (100, False)


def test_a_job_that_is_over_is_forgotten(pacing: Pacing) -> None:
    job = uuid4()
    pacing.resume(job)
    assert not pacing.paused(job)
    pacing.pause(job)
    pacing.forget(job)
    pacing.forget(job)
    assert not pacing.paused(job)
    assert pacing._jobs == {}


def test_a_cancel_ends_the_waiting_for_the_end_of_a_pause(pacing: Pacing) -> None:
    job, stop = uuid4(), Stop()
    pacing.pause(job)
    timer = threading.Timer(0.05, stop.request, ["the operator"])
    timer.start()
    with pytest.raises(Cancelled, match="the operator"):
        wait_while_paused(pacing.for_job(job, PLAN), stop)
    timer.join()


# whole cycles


@pytest.fixture
def source() -> MemorySource:
    made = MemorySource()
    made.add("vm", "a", noise(1 << 20))
    return made


def test_a_cycle_under_a_limit(lab: CycleLab, source: MemorySource) -> None:
    pacing, job = Pacing(), lab.job()
    pacing.set_plan_limits({job.plan: Limit(bytes_s=2_000_000)})
    report = lab.run(source, job, pace=pacing.for_job(job.job, job.plan))
    assert lab.image(report) == noise(1 << 20)
    assert report.seconds[Stage.TRANSFER] >= 0.4


def test_a_cycle_that_is_paused_for_long_gives_its_connection_up_and_goes_on(
    lab: CycleLab, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "PATIENCE_S", 0.05)
    pacing, job = Pacing(), lab.job()
    held, closed = threading.Event(), threading.Event()
    watch_batches(monkeypatch, lambda: pacing.pause(job.job), held.set)
    watch_closes(monkeypatch, held, closed)
    reports: list[CycleReport] = []
    running = threading.Thread(
        target=lambda: reports.append(lab.run(source, job, pace=pacing.for_job(job.job, job.plan)))
    )
    running.start()
    assert held.wait(TIMEOUT_S)
    assert closed.wait(TIMEOUT_S)
    assert reports == []
    pacing.resume(job.job)
    running.join(TIMEOUT_S)
    (report,) = reports
    assert lab.image(report) == noise(1 << 20)


def watch_batches(monkeypatch: pytest.MonkeyPatch, *then: Callable[[], object]) -> None:
    """Call something once, before the second batch goes."""
    send, count = Connection.send_batch, [0]

    def counted(self: Connection, data: memoryview) -> None:
        count[0] += 1
        for call in then if count[0] == 2 else ():
            call()
        send(self, data)

    monkeypatch.setattr(Connection, "send_batch", counted)


def watch_closes(monkeypatch: pytest.MonkeyPatch, held: threading.Event, closed: threading.Event) -> None:
    close = Connection.close

    def noted(self: Connection) -> None:
        close(self)
        if held.is_set():
            closed.set()

    monkeypatch.setattr(Connection, "close", noted)


def test_a_paused_cycle_is_cancelled_at_once(
    lab: CycleLab, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    pacing, job = Pacing(), lab.job()
    cycle = lab.cycle(source, job, pace=pacing.for_job(job.job, job.plan))
    timer = threading.Timer(0.05, cycle.cancel, ["the operator"])
    watch_batches(monkeypatch, lambda: pacing.pause(job.job), timer.start)
    with pytest.raises(Cancelled, match="the operator"):
        cycle.run()
    timer.join()


class TestPlansLimits:
    """Those that the node is told of, and those that heartbeats bring."""

    def test_hold_for_jobs_that_begin_later(self, world: World, pacing: Pacing) -> None:
        pacing.set_plan_limits({PLAN: Limit(bytes_s=100_000)})
        pace = pacing.for_job(uuid4(), PLAN)
        assert sent_in(world, pace, 10) == pytest.approx(1_000_000, rel=0.02)
        pacing.set_plan_limit(PLAN, Limit(bytes_s=10_000))
        del pace
        assert sent_in(world, pacing.for_job(uuid4(), PLAN), 10) == pytest.approx(100_000, rel=0.02)

    def test_change_for_jobs_that_run(self, world: World, pacing: Pacing) -> None:
        pace, other = pacing.for_job(uuid4(), PLAN), pacing.for_job(uuid4(), PlanId(uuid4()))
        pacing.set_plan_limits({PLAN: Limit(bytes_s=100_000)})
        assert sent_in(world, pace, 10) == pytest.approx(1_000_000, rel=0.02)
        assert other.take(1 << 40) == 1 << 40

    def test_of_plans_without_number_nothing_is_left(self, pacing: Pacing) -> None:
        """A control plane that invents plans, with each answer others."""
        for _ in range(20):
            pacing.set_plan_limits({PlanId(uuid4()): Limit(bytes_s=100_000) for _ in range(10)})
            pacing.set_plan_limit(PlanId(uuid4()), Limit(bytes_s=100_000))
        assert (len(pacing._limits), len(pacing._plans)) == (10, 0)
