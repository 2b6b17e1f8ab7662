import signal
import threading
from collections.abc import Callable, Iterator
from typing import cast

import pytest
import structlog

from dmcore.api.jobs import Job
from dmcore.appliance.cycle import Cycle
from dmcore.appliance.errors import Cancelled, ConnectorBusy
from dmcore.appliance.progress import CycleProgress, CycleReport
from dmcore.errors import ExitCode
from dmcore.model.enums import Stage
from dmctl.errors import Interrupted, Unexpected
from dmctl.running import Runner
from dmctl.stopping import Stop
from tests.dmctl.cycles import JOB, report, stats

Started = Callable[[Cycle], None]


class Witness:
    """A view that keeps what it was shown."""

    def __init__(self) -> None:
        self.stages: list[Stage] = []
        self.told: list[str] = []

    def show(self, progress: CycleProgress) -> None:
        self.stages.append(progress.stage)

    def rest(self) -> None:
        self.told.append("rest")

    def finish(self, report: CycleReport) -> None:
        self.told.append("finish")

    def fail(self, error: Exception) -> None:
        self.told.append("fail")


class CancellableCycle:
    """Runs until it is cancelled."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.begun = threading.Event()

    def cancel(self, why: str) -> None:
        self.cancelled.set()

    def run(self, job: Job, progress: CycleProgress, started: Started) -> CycleReport:
        started(cast("Cycle", self))
        self.begun.set()
        assert self.cancelled.wait(60)
        raise Cancelled(problem="stopped on request")


@pytest.fixture
def stop() -> Iterator[Stop]:
    with Stop() as entered:
        yield entered


def test_a_job_is_run_in_a_thread_and_shown_from_this_one(stop: Stop) -> None:
    threads = []

    def run(job: Job, progress: CycleProgress, started: Started) -> CycleReport:
        threads.append(threading.current_thread())
        progress.stage = Stage.DONE
        return report(stats())

    view = Witness()
    assert Runner(run, view, stop).run(JOB) == report(stats())
    assert threads != [threading.current_thread()]
    assert not threads[0].is_alive()
    assert view.stages[-1] is Stage.DONE
    assert view.told == ["rest", "finish"]


def test_its_log_lines_and_its_error_have_one_correlation_id(stop: Stop) -> None:
    bound = []

    def run(job: Job, progress: CycleProgress, started: Started) -> CycleReport:
        bound.append(structlog.contextvars.get_contextvars()["correlation"])
        raise ConnectorBusy(group="g")

    view = Witness()
    with pytest.raises(ConnectorBusy) as busy:
        Runner(run, view, stop).run(JOB)
    assert [busy.value.correlation] == bound
    assert view.told == ["rest"]


def test_a_correlation_id_of_the_peer_is_kept(stop: Stop) -> None:
    def run(job: Job, progress: CycleProgress, started: Started) -> CycleReport:
        raise ConnectorBusy(group="g", correlation="theirs")

    with pytest.raises(ConnectorBusy) as busy:
        Runner(run, Witness(), stop).run(JOB)
    assert busy.value.correlation == "theirs"


def test_what_nobody_foresaw_is_an_error_too(stop: Stop) -> None:
    def run(job: Job, progress: CycleProgress, started: Started) -> CycleReport:
        raise ZeroDivisionError("x")

    with pytest.raises(Unexpected, match="ZeroDivisionError: x") as unexpected:
        Runner(run, Witness(), stop).run(JOB)
    assert unexpected.value.correlation


def test_control_c_cancels_and_says_that_the_cycle_goes_on(stop: Stop) -> None:
    cycle = CancellableCycle()
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        assert cycle.begun.wait(60)
        signal.pthread_kill(main, signal.SIGINT)

    operator = threading.Thread(target=interrupt)
    operator.start()
    with pytest.raises(Interrupted, match="goes on with its next attempt") as stopped:
        Runner(cycle.run, Witness(), stop).run(JOB)
    operator.join()
    assert stopped.value.exit_code is ExitCode.INTERRUPTED
    assert stop.exit_code is ExitCode.INTERRUPTED


def test_nothing_is_begun_after_it(stop: Stop) -> None:
    def run(job: Job, progress: CycleProgress, started: Started) -> CycleReport:
        raise AssertionError

    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        Runner(run, Witness(), stop).run(JOB)


def test_a_cycle_that_others_cancelled_is_no_interruption(stop: Stop) -> None:
    cycle = CancellableCycle()
    cycle.cancel("another disk has failed")
    with pytest.raises(Cancelled):
        Runner(cycle.run, Witness(), stop).run(JOB)


def test_a_cycle_that_finishes_although_it_was_stopped_counts(stop: Stop) -> None:
    def run(job: Job, progress: CycleProgress, started: Started) -> CycleReport:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        return report(stats())

    assert Runner(run, Witness(), stop).run(JOB) == report(stats())
    assert stop.wait(60)
