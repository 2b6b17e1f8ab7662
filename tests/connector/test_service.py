"""A connector that works for a control plane, over a client that is an object: polls, jobs, heartbeats, outcomes."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast
from uuid import UUID

import pytest

from dmcore.api.client_errors import ControlRefused
from dmcore.api.jobs import JobResult
from dmcore.connector.clock_guard import ClockGuard
from dmcore.connector.keeper import PointKeeper
from dmcore.connector.outbox import Outbox
from dmcore.connector.service import THREADS, ConnectorService, JobDesk
from dmcore.host.clock import utc_now
from dmcore.lab.layout import make_lab
from dmcore.model.ids import PointId
from dmcore.model.jobs import JobKind
from dmcore.node.control_client import NodeClient
from dmcore.node.control_errors import NodeReplaced
from dmcore.node.settings import ConnectorSettings, RecoverySettings, load_connector
from dmcore.shadow.storage import Storage
from tests.connector.fake_control import UNREACHABLE, FakeNodeClient, a_job
from tests.connector.kit import TIMEOUT_S, until
from tests.connector.points import a_fact
from tests.connector.test_work import FakeKeeper
from tests.node.control_kit import new_job

POINTS = [PointId(UUID(int=number)) for number in range(1, 9)]


class Bench:
    """A service whose points are a fake's."""

    def __init__(self, settings: ConnectorSettings) -> None:
        self.settings, self.client, self.keeper = settings, FakeNodeClient(), FakeKeeper()
        self.ended: list[Exception] = []
        settings.state_dir.mkdir(exist_ok=True)
        self.outbox = Outbox(settings.state_dir / "outbox", Storage())
        self.guard = ClockGuard(settings.state_dir, utc_now)
        self.service = self.make()

    def make(self) -> ConnectorService:
        keeper, client = cast("PointKeeper", self.keeper), cast("NodeClient", self.client)
        return ConnectorService(self.settings, client, keeper, self.outbox, self.guard, self.ended.append)

    @property
    def desk(self) -> JobDesk:
        return self.service._desk


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    lab = make_lab(tmp_path / "lab")
    settings = load_connector(lab.connector_config)
    recoveries = {"vault": RecoverySettings(path=lab.root / "target")}
    bench = Bench(settings.model_copy(update={"recoveries": recoveries}))
    yield bench
    bench.service.stop()


class Gate:
    """Every step of a verification says so, and waits for the test."""

    def __init__(self, keeper: FakeKeeper) -> None:
        self.reached, self.open = threading.Semaphore(0), threading.Event()
        keeper.between = self.wait

    def wait(self) -> None:
        self.reached.release()
        assert self.open.wait(TIMEOUT_S)

    def wait_for(self, count: int) -> None:
        for _ in range(count):
            assert self.reached.acquire(timeout=TIMEOUT_S)


def test_it_offers_what_its_configuration_has(bench: Bench) -> None:
    bench.service.start()
    until(lambda: bench.client.offers)
    offer = bench.client.offers[0]
    assert (offer.slots, offer.targets, offer.recoveries, offer.sources) == (THREADS, ("shadows",), ("vault",), ())
    until(lambda: bench.service.reachable)


@pytest.mark.parametrize("kind", [JobKind.VERIFY, JobKind.EXPIRE, JobKind.INDEX])
def test_a_job_is_done_and_its_outcome_delivered(bench: Bench, kind: JobKind) -> None:
    job = a_job(kind, *POINTS[:2])
    bench.client.give(job)
    bench.service.start()
    assert bench.client.outcome_of(job).result is JobResult.COMPLETED
    until(lambda: not bench.desk._running)


def test_a_recovery_goes_under_the_configured_folder(bench: Bench) -> None:
    job = a_job(JobKind.RECOVER, POINTS[0], to="vault")
    elsewhere = a_job(JobKind.RECOVER, POINTS[0], to="shadows")
    bench.client.give(job, elsewhere)
    bench.service.start()
    assert bench.client.outcome_of(job).result is JobResult.COMPLETED
    refused = bench.client.outcome_of(elsewhere).problem
    assert refused is not None
    assert refused.code == "alias.unknown"
    assert [(each[0], each[2]) for each in bench.keeper.done] == [("recover", bench.settings.recoveries["vault"].path)]


def test_a_long_verification_holds_up_neither_polls_nor_other_jobs(bench: Bench) -> None:
    gate = Gate(bench.keeper)
    long = a_job(JobKind.VERIFY, POINTS[0])
    bench.client.give(long)
    bench.service.start()
    gate.wait_for(1)
    polls = len(bench.client.offers)
    short = a_job(JobKind.EXPIRE, POINTS[1])
    bench.client.give(short)
    assert bench.client.outcome_of(short).result is JobResult.COMPLETED
    assert len(bench.client.offers) > polls - 1
    until(lambda: len(bench.client.heartbeats.get(long.job, [])) >= 2)
    counters = [progress.counter for progress in bench.client.heartbeats[long.job]]
    assert counters == sorted(counters)
    assert counters[-1] == 50
    gate.open.set()
    assert bench.client.outcome_of(long).result is JobResult.COMPLETED


def test_no_more_jobs_than_threads_are_asked_for(bench: Bench) -> None:
    gate = Gate(bench.keeper)
    jobs = [a_job(JobKind.VERIFY, point) for point in POINTS[: THREADS + 2]]
    bench.client.give(*jobs)
    bench.service.start()
    gate.wait_for(THREADS)
    until(lambda: bench.client.offers[-1].slots == 0)
    assert len(bench.client.jobs) == 2
    gate.open.set()
    for job in jobs:
        assert bench.client.outcome_of(job).result is JobResult.COMPLETED


def test_a_cancelled_job(bench: Bench) -> None:
    gate = Gate(bench.keeper)
    job = a_job(JobKind.VERIFY, POINTS[0])
    bench.client.give(job)
    bench.service.start()
    gate.wait_for(1)
    bench.client.cancelled.add(job.job)
    until(bench.desk._running[job.job]._stop.is_set)
    gate.open.set()
    assert bench.client.outcome_of(job).result is JobResult.CANCELLED


def test_a_stop_leaves_jobs_to_their_leases(bench: Bench) -> None:
    before = set(threading.enumerate())
    gate = Gate(bench.keeper)
    job = a_job(JobKind.VERIFY, POINTS[0])
    bench.client.give(job)
    bench.service.start()
    gate.wait_for(1)
    stopper = threading.Thread(target=bench.service.stop)
    stopper.start()
    until(lambda: bench.desk._stopping)
    gate.open.set()
    stopper.join()
    bench.service.stop()
    assert bench.client.outcomes == {}
    assert set(threading.enumerate()) <= before
    bench.desk.start(job, 1)
    assert bench.keeper.done == []


def test_a_job_that_still_ends_here_is_not_begun_again(bench: Bench) -> None:
    gate = Gate(bench.keeper)
    job = a_job(JobKind.VERIFY, POINTS[0])
    bench.desk.start(job, 1)
    gate.wait_for(1)
    bench.desk.start(job.model_copy(update={"epoch": 2}), 1)
    gate.open.set()
    until(lambda: not bench.desk._running)
    assert len(bench.keeper.done) == 1


def test_an_appliances_job_is_refused(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.desk.start(new_job(), 1)
    assert "this is no appliance" in capsys.readouterr().out
    assert bench.desk._running == {}


def test_an_outcome_that_cannot_be_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    abandoned: list[UUID] = []
    monkeypatch.setattr(bench.service._leases, "finish", full)
    monkeypatch.setattr(bench.service._leases, "abandon", abandoned.append)
    job = a_job(JobKind.EXPIRE, POINTS[0])
    bench.desk.start(job, 1)
    until(lambda: not bench.desk._running)
    assert abandoned == [job.job]


# The control plane comes and goes


def test_outcomes_and_points_wait_for_it(bench: Bench) -> None:
    gate = Gate(bench.keeper)
    job = a_job(JobKind.VERIFY, POINTS[0])
    bench.client.give(job)
    bench.service.start()
    gate.wait_for(1)
    bench.client.refuse(UNREACHABLE)
    bench.outbox.put(a_fact(1))
    gate.open.set()
    until(lambda: not bench.desk._running)
    until(lambda: not bench.service.reachable)
    assert (bench.client.outcomes, bench.client.stated, bench.outbox.waiting) == ({}, [], 1)
    bench.client.refuse(None)
    assert bench.client.outcome_of(job).result is JobResult.COMPLETED
    until(lambda: not bench.outbox.waiting)
    assert bench.client.stated == [a_fact(1)]


def test_an_outcome_survives_the_process(bench: Bench) -> None:
    job = a_job(JobKind.EXPIRE, POINTS[0])
    bench.client.refuse(UNREACHABLE)
    bench.desk.start(job, 1)
    until(lambda: not bench.desk._running)
    bench.service.stop()
    assert bench.client.outcomes == {}
    bench.client.refuse(None)
    bench.service = bench.make()
    bench.service.start()
    assert bench.client.outcome_of(job).result is JobResult.COMPLETED


def superseded() -> Exception:
    return ControlRefused(status=409, reason="node.superseded", message="", correlation="0" * 32)


def test_a_clone_ends_this_process(bench: Bench) -> None:
    bench.client.refuse(superseded())
    bench.service.start()
    until(lambda: bench.ended)
    assert isinstance(bench.ended[0], NodeReplaced)


def test_it_looks_at_the_clock_with_every_poll(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    monkeypatch.setattr(bench.guard, "look", lambda: looks.append(1))
    bench.service.start()
    until(lambda: looks)
