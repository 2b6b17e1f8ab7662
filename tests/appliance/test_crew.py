"""Several cycles at a time, never two of a group; and what one attempt makes of its ends."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
import structlog

from dmcore.api.jobs import Job, JobResult, Outcome
from dmcore.api.limits import Limit
from dmcore.appliance.crew import Crew
from dmcore.appliance.duty import Duty, End
from dmcore.appliance.errors import Cancelled, ConnectorBusy
from dmcore.appliance.pacing import Pacing
from dmcore.appliance.progress import CycleProgress, CycleReport
from dmcore.appliance.stop import Stop
from dmcore.model.enums import Consistency
from dmcore.model.ids import GroupId, PointId
from tests.node.control_kit import GO_ON, new_job

TIMEOUT_S = 10.0


class FakeCycle:
    """Runs until it is cancelled, or let go."""

    def __init__(self) -> None:
        self.stop, self.woken, self.runs = Stop(), threading.Event(), threading.Event()
        self.error: Exception | None = None

    def cancel(self, why: str) -> None:
        self.stop.request(why)
        self.woken.set()

    def run(self, _job: Job, _live: CycleProgress, started: Callable[[Any], None]) -> Any:
        started(self)
        self.runs.set()
        assert self.woken.wait(TIMEOUT_S)
        self.stop.check()
        raise self.error or ConnectorBusy(group="g")


def duty_of(cycle: FakeCycle, **changes: Any) -> Duty:
    return Duty(new_job(**changes), cycle.run, Pacing())


@pytest.fixture
def done() -> list[Duty]:
    return []


@pytest.fixture
def crew(done: list[Duty]) -> Iterator[Crew]:
    made = Crew(2, lambda duty, _: done.append(duty))
    yield made
    made.stop()
    made.stop()


class TestCrew:
    def test_runs_as_many_as_it_has_threads(self, crew: Crew, done: list[Duty]) -> None:
        cycles = [FakeCycle() for _ in range(3)]
        duties = [duty_of(cycle) for cycle in cycles]
        assert crew.slots == 2
        assert [crew.take(duty) for duty in duties] == [True] * 3
        assert cycles[0].runs.wait(TIMEOUT_S)
        assert cycles[1].runs.wait(TIMEOUT_S)
        assert (crew.slots, crew.busy()) == (0, tuple(duty.job.group for duty in duties))
        assert not cycles[2].runs.is_set()
        cycles[0].woken.set()
        assert cycles[2].runs.wait(TIMEOUT_S)
        assert done == duties[:1]

    def test_of_a_group_the_later_one_takes_the_place(self, crew: Crew, done: list[Duty]) -> None:
        older, newer = FakeCycle(), FakeCycle()
        first = duty_of(older)
        crew.take(first)
        assert older.runs.wait(TIMEOUT_S)
        second = duty_of(newer, group=first.job.group)
        crew.take(second)
        assert newer.runs.wait(TIMEOUT_S)
        assert (done, first.ended_by) == ([first], End.LOST)
        assert crew.of_group(first.job.group) == [second]

    def test_a_fault_at_the_end_is_logged_and_frees_the_slot(self) -> None:
        def fail(_: Duty, __: Outcome) -> None:
            raise RuntimeError("a bug")

        crew, cycle = Crew(1, fail), FakeCycle()
        with structlog.testing.capture_logs() as logs:
            crew.take(duty_of(cycle))
            cycle.woken.set()
            crew.stop()
        assert "an attempt's end could not be told" in [entry["event"] for entry in logs]
        assert crew.duties() == []

    def test_takes_nothing_once_it_stops(self, crew: Crew) -> None:
        crew.stop()
        assert not crew.take(duty_of(FakeCycle()))
        assert crew.slots == 0

    def test_a_stop_ends_those_that_run_and_those_that_wait(self) -> None:
        results: list[JobResult] = []
        crew = Crew(2, lambda _, outcome: results.append(outcome.result))
        cycles = [FakeCycle() for _ in range(4)]
        for cycle in cycles:
            crew.take(duty_of(cycle))
        assert cycles[1].runs.wait(TIMEOUT_S)
        crew.stop()
        assert results == [JobResult.CANCELLED] * 4
        assert not cycles[3].runs.is_set()

    def test_says_that_a_slot_is_free_when_it_is(self) -> None:
        """Who asks for work is woken by it, and must not find the node full once more."""
        slots: list[tuple[int, tuple[GroupId, ...]]] = []
        made, cycle = Crew(1, lambda *_: None), FakeCycle()
        made.freed = lambda: slots.append((made.slots, made.busy()))
        made.take(duty_of(cycle))
        cycle.woken.set()
        made._pool.shutdown(wait=True)
        assert slots == [(1, ())]


class TestDuty:
    @pytest.mark.parametrize("end", End)
    def test_stopped_while_it_runs(self, end: End) -> None:
        cycle = FakeCycle()
        duty = duty_of(cycle)
        with ThreadPoolExecutor(1) as thread:
            running = thread.submit(duty.run)
            assert cycle.runs.wait(TIMEOUT_S)
            duty.stop(end)
        outcome = running.result()
        assert (outcome.result, outcome.problem) == (JobResult.CANCELLED, None)
        with pytest.raises(Cancelled, match=end.value):
            cycle.stop.check()

    def test_stopped_before_it_has_a_cycle(self) -> None:
        cycle = FakeCycle()

        def run(job: Job, live: CycleProgress, started: Callable[[Any], None]) -> Any:
            duty.stop(End.DIRECTED)
            return cycle.run(job, live, started)

        duty = Duty(new_job(), run, Pacing())
        assert duty.run().result is JobResult.CANCELLED

    def test_a_lost_lease_outdoes_other_ends(self) -> None:
        duty = duty_of(FakeCycle())
        duty.stop(End.DIRECTED)
        duty.lost()
        duty.stop(End.STOPPED)
        assert duty.ended_by is End.LOST

    def test_an_unexpected_error_is_logged_with_its_traceback(self) -> None:
        cycle = FakeCycle()
        cycle.error = KeyError("a bug")
        cycle.woken.set()
        duty = duty_of(cycle)
        with structlog.testing.capture_logs() as logs:
            outcome = duty.run()
        assert outcome.problem is not None
        assert (outcome.problem.code, outcome.problem.correlation) == ("internal", duty.correlation)
        assert logs[0]["exc_info"] is cycle.error

    def test_does_what_a_heartbeat_is_answered(self) -> None:
        pacing = Pacing()
        duty = Duty(new_job(), FakeCycle().run, pacing)
        duty.directed(GO_ON.model_copy(update={"pause": True}))
        assert pacing.paused(duty.job.job)
        duty.directed(GO_ON)
        assert not pacing.paused(duty.job.job)
        duty.directed(GO_ON.model_copy(update={"cancel": True}))
        assert duty.ended_by is End.DIRECTED
        assert duty.progress().counter == 0

    def test_an_answer_that_comes_after_the_end_leaves_nothing(self) -> None:
        cycle, pacing = FakeCycle(), Pacing()
        cycle.woken.set()
        duty = Duty(new_job(), cycle.run, pacing)
        duty.directed(GO_ON.model_copy(update={"pause": True}))
        duty.run()
        duty.directed(GO_ON.model_copy(update={"pause": True}))
        assert not pacing.paused(duty.job.job)
        assert pacing._jobs == {}

    def test_a_limit_that_comes_before_its_cycle_holds(self) -> None:
        pacing = Pacing()
        duty = Duty(new_job(), FakeCycle().run, pacing)
        duty.directed(GO_ON.model_copy(update={"limit": Limit(bytes_s=1024)}))
        assert pacing.for_job(duty.job.job, duty.job.plan).take(1 << 40) < 1 << 10

    def test_a_point_whose_time_cannot_be_told_is_told_of_as_a_fault(self) -> None:
        """Whatever it is, the control plane hears of an end."""
        job = new_job()

        def run(*_: Any) -> CycleReport:
            long_ago = datetime(1601, 1, 1, tzinfo=UTC)
            point = PointId(uuid4())
            return CycleReport(job.plan, job.group, job.cycle, point, long_ago, Consistency.CRASH, (), {})

        outcome = Duty(job, run, Pacing()).run()
        assert outcome.problem is not None
        assert (outcome.result, outcome.problem.code) == (JobResult.FAILED, "internal")
