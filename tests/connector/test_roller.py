"""Rolling forward: told to whoever waits, stopped by errors and by stop, taken up again by whoever asks."""

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest

from dmcore.connector.metrics import ConnectorMetrics
from dmcore.connector.roller import Roller
from dmcore.model.ids import GroupId
from dmcore.model.phase import Phase
from dmcore.shadow.group import GroupShadow
from dmcore.targets.errors import FlushFailed, TargetIOFailed
from tests.connector.appliance import Appliance, Attempt
from tests.connector.kit import TIMEOUT_S, Disk, refusal
from tests.connector.rig import Rig
from tests.fault_plan import FaultPlan

FLUSH_FAILED = FlushFailed(path="/shadows", problem="Input/output error")
Step = Phase | Exception | threading.Event | Callable[[], None] | None


class FakeShadow:
    """A group whose steps a test writes down: a phase, an error, something to wait for or to do; None ends a look."""

    def __init__(self, *steps: Step, phase: Phase = Phase.SEALED, drains: int = 0) -> None:
        self.steps, self.group, self.phase, self.drains = list(steps), GroupId(uuid4()), phase, drains

    @property
    def state(self) -> Any:
        return SimpleNamespace(group=self.group, plan=uuid4(), cycle=SimpleNamespace(phase=self.phase))

    def drain(self, progress: Callable[[int], None]) -> bool:
        progress(7)
        self.drains -= 1
        return self.drains >= 0

    def advance(self, _: object, progress: Callable[[int], None]) -> Phase | None:
        progress(10)
        while self.steps:
            step = self.steps.pop(0)
            if isinstance(step, Exception):
                raise step
            if isinstance(step, Phase):
                self.phase = step
            if isinstance(step, Phase | None):
                return step
            if isinstance(step, threading.Event):
                assert step.wait(TIMEOUT_S)
            else:
                step()
        return None

    @property
    def shadow(self) -> GroupShadow:
        return cast("GroupShadow", self)


@pytest.fixture
def roller() -> Iterator[Roller]:
    roller = Roller(lambda _: None)
    yield roller
    roller.stop()


def rolled(roller: Roller, fake: FakeShadow) -> Phase | None:
    roller.start(fake.shadow)
    return roller.wait(fake.shadow, TIMEOUT_S)


def test_to_the_end(roller: Roller) -> None:
    fake = FakeShadow(Phase.APPLIED, Phase.SNAPSHOTTED, Phase.PUBLISHED, Phase.RECLAIMED)
    assert rolled(roller, fake) in {Phase.SNAPSHOTTED, Phase.PUBLISHED, Phase.RECLAIMED}


def test_waiting_ends_with_the_time(roller: Roller) -> None:
    hold = threading.Event()
    fake = FakeShadow(hold, Phase.APPLIED)
    roller.start(fake.shadow)
    assert roller.wait(fake.shadow, 0.01) is Phase.SEALED
    assert roller.done_bytes(fake.group) == 10
    hold.set()


def test_nothing_to_wait_for(roller: Roller) -> None:
    assert roller.wait(FakeShadow().shadow, TIMEOUT_S) is Phase.SEALED  # nobody started it
    assert rolled(roller, FakeShadow()) is Phase.SEALED  # there was nothing to do
    assert roller.done_bytes(GroupId(uuid4())) == 0


@pytest.mark.parametrize("error", [FLUSH_FAILED, ZeroDivisionError("a fault")], ids=["known", "fault"])
def test_an_error_is_told_until_the_next_start(roller: Roller, error: Exception) -> None:
    fake = FakeShadow(Phase.APPLIED, error, Phase.SNAPSHOTTED)
    with pytest.raises(type(error)):
        rolled(roller, fake)
    with pytest.raises(type(error)):
        roller.wait(fake.shadow, TIMEOUT_S)
    assert rolled(roller, fake) is Phase.SNAPSHOTTED


def test_a_failing_state_disk_becomes_a_target_error(roller: Roller) -> None:
    fake = FakeShadow(OSError(28, "No space left on device", "/state/x"), Phase.SNAPSHOTTED)
    with pytest.raises(TargetIOFailed, match=r"/state/x: apply.*No space"):
        rolled(roller, fake)
    assert rolled(roller, fake) is Phase.SNAPSHOTTED


def test_progress_counts_from_the_last_start(roller: Roller) -> None:
    fake = FakeShadow(FLUSH_FAILED, FLUSH_FAILED)
    for _ in range(2):
        with pytest.raises(FlushFailed):
            rolled(roller, fake)
        assert roller.done_bytes(fake.group) == 10


def test_an_answered_cycle_is_no_error(roller: Roller) -> None:
    """The point is there: that it could not be published is not the appliance's to hear."""
    fake = FakeShadow(FLUSH_FAILED, phase=Phase.SNAPSHOTTED)
    assert rolled(roller, fake) is Phase.SNAPSHOTTED
    later = FakeShadow(Phase.SNAPSHOTTED, FLUSH_FAILED)
    assert rolled(roller, later) is Phase.SNAPSHOTTED
    assert roller.wait(later.shadow, TIMEOUT_S) is Phase.SNAPSHOTTED


def test_asked_while_it_runs_it_looks_again(roller: Roller) -> None:
    """What was sealed after the run's last look must not wait for the next question."""
    hold, reached = threading.Event(), threading.Event()
    fake = FakeShadow(reached.set, hold, None, Phase.SNAPSHOTTED)
    roller.start(fake.shadow)
    assert reached.wait(TIMEOUT_S)
    roller.start(fake.shadow)
    hold.set()
    assert roller.wait(fake.shadow, TIMEOUT_S) is Phase.SNAPSHOTTED


def test_asked_while_a_step_fails_it_tries_again(roller: Roller) -> None:
    """Whoever has removed the cause meanwhile must not have to ask twice."""
    hold, reached = threading.Event(), threading.Event()
    fake = FakeShadow(reached.set, hold, FLUSH_FAILED, Phase.SNAPSHOTTED)
    roller.start(fake.shadow)
    assert reached.wait(TIMEOUT_S)
    roller.start(fake.shadow)
    hold.set()
    assert roller.wait(fake.shadow, TIMEOUT_S) is Phase.SNAPSHOTTED


def test_groups_do_not_wait_for_each_other(roller: Roller) -> None:
    hold = threading.Event()
    slow, quick = FakeShadow(hold), FakeShadow(Phase.SNAPSHOTTED)
    roller.start(slow.shadow)
    assert rolled(roller, quick) is Phase.SNAPSHOTTED
    hold.set()


def test_what_was_received_is_drained_before_anything_else() -> None:
    metrics = ConnectorMetrics()
    roller = Roller(lambda _: None, metrics=metrics)
    last = threading.Event()
    fake = FakeShadow(Phase.APPLIED, Phase.SNAPSHOTTED, last.set, drains=3)
    assert rolled(roller, fake) is Phase.SNAPSHOTTED
    assert last.wait(TIMEOUT_S)
    roller.stop()
    assert roller.done_bytes(fake.group) == 10 * 3  # what was drained is none of the sealed cycle's progress
    assert metrics.registry.get_sample_value("dmcore_connector_applied_bytes_total") == 7 * 6 + 10 * 3


def test_a_group_that_always_has_more_to_do_holds_up_no_other() -> None:
    roller = Roller(lambda _: None, threads=1)
    endless, other = FakeShadow(phase=Phase.RECEIVING, drains=1 << 60), FakeShadow(Phase.SNAPSHOTTED)
    roller.start(endless.shadow)
    assert rolled(roller, other) is Phase.SNAPSHOTTED
    assert endless.drains > 0
    roller.stop()


def test_stop_finishes_the_step_and_takes_no_other(roller: Roller) -> None:
    before = set(threading.enumerate())
    hold, reached = threading.Event(), threading.Event()
    fake, queued = FakeShadow(reached.set, hold, Phase.APPLIED, Phase.SNAPSHOTTED), FakeShadow(Phase.APPLIED)
    roller.start(fake.shadow)
    assert reached.wait(TIMEOUT_S)
    stopper = threading.Thread(target=roller.stop)
    stopper.start()
    assert roller.wait(fake.shadow, TIMEOUT_S) is Phase.SEALED  # nobody waits for what may take hours
    hold.set()
    stopper.join()
    assert fake.phase is Phase.APPLIED
    assert set(threading.enumerate()) == before
    roller.start(queued.shadow)
    roller.stop()
    assert queued.phase is Phase.SEALED


# Over the wire


@pytest.mark.parametrize(
    ("call", "error", "code"),
    [
        ("open", TargetIOFailed(path="/x", operation="open", offset=0, problem="gone"), "target.io"),
        ("patch", TargetIOFailed(path="/x", operation="patch", offset=4096, problem="gone"), "target.io"),
        ("flush", FLUSH_FAILED, "target.flush"),
        ("snapshot", OSError(28, "No space left on device"), "target.io"),
        ("snapshot", ZeroDivisionError(), "connector.fault"),
    ],
)
def test_commit_is_told_and_the_next_one_goes_on(
    rig: Rig, faulty: FaultPlan, attempt: Attempt, disk: Disk, call: str, error: Exception, code: str
) -> None:
    faulty.fail(call, error)
    attempt.send(disk, disk.blocks)
    assert refusal(attempt.commit).code == code
    attempt.control = attempt.appliance.control()
    attempt.begin()
    assert attempt.finish().point is not None
    assert rig.image_of(disk, attempt.cycle) == bytes(disk.data)


def test_a_busy_group_is_told_so_and_rolls_on(
    rig: Rig, faulty: FaultPlan, appliance: Appliance, attempt: Attempt, disk: Disk
) -> None:
    faulty.fail("snapshot", FLUSH_FAILED, times=2)
    attempt.send(disk, disk.blocks)
    assert refusal(attempt.commit).code == "target.flush"
    assert appliance.state().busy
    later = appliance.begin(disk)
    assert later.reply is not None
    assert later.reply.answer == "busy"
    rig.wait_until_finished()
    later.begin()
    rig.wait_until_finished()
    assert later.begin().answer == "receiving"
