"""Source snapshots that were left: which go, on whose word, and which are never touched."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import structlog

from dmcore.appliance import offline
from dmcore.appliance.agent import make_sweep
from dmcore.appliance.errors import Cancelled
from dmcore.appliance.leftovers import JUST_MADE, Sweep, Verdict, ask_all, judged
from dmcore.appliance.offline_state import OfflineState
from dmcore.appliance.sweeper import APART_S, Sweeper
from dmcore.host.errors import FileBroken
from dmcore.model.enums import SnapshotKind
from dmcore.model.ids import CycleId, GroupId, source_snapshot_name
from dmcore.model.phase import Phase
from dmcore.node.errors import AliasUnknown
from dmcore.sources.base import Source
from dmcore.sources.errors import SnapshotFailed
from dmcore.wire.messages import FinishedCycle, OpenCycle, StateReply
from tests.appliance.cycle_lab import CycleLab, text
from tests.appliance.test_offline import NOW, record
from tests.sources.faulty import FaultySource
from tests.sources.memory import MemorySource

CYCLE, OTHER = CycleId(uuid4()), CycleId(uuid4())
GROUP = GroupId(uuid4())
DAY = 86_400.0
ALIAS = record().job.source


def reply(opened: CycleId | None = None, phase: Phase = Phase.RECEIVING, finished: CycleId | None = None) -> StateReply:
    cycle = OpenCycle(cycle=opened, phase=phase, snapshot_identity="s", snapshot_name="n") if opened else None
    done = FinishedCycle(cycle=finished, phase=Phase.DROPPED) if finished else None
    return StateReply(busy=False, epoch=1, cycle=cycle, finished=done, disks=())


class TestVerdict:
    @pytest.mark.parametrize("phase", [Phase.SEALED, Phase.APPLIED, Phase.SNAPSHOTTED, Phase.PUBLISHED])
    def test_sealed_or_later(self, phase: Phase) -> None:
        assert judged(CYCLE, [reply(CYCLE, phase)], just_made=True) is Verdict.OVER

    def test_finished_dropped_or_never_begun(self) -> None:
        assert judged(CYCLE, [reply(finished=CYCLE)], just_made=True) is Verdict.OVER
        assert judged(CYCLE, [reply(OTHER)], just_made=False) is Verdict.OVER
        assert judged(CYCLE, [reply(), reply(finished=OTHER)], just_made=False) is Verdict.OVER

    def test_received(self) -> None:
        """Whatever any other connector says, or does not say."""
        for others in ([], [reply()], [reply(finished=CYCLE)], [None]):
            assert judged(CYCLE, [*others, reply(CYCLE)], just_made=False) is Verdict.NEEDED

    def test_somebody_who_must_know_does_not_answer(self) -> None:
        for replies in ([], [None], [reply(), None], [reply(finished=CYCLE), None]):
            assert judged(CYCLE, replies, just_made=False) is Verdict.UNASKED

    def test_not_known_of_yet(self) -> None:
        """Another appliance may be about to begin."""
        assert judged(CYCLE, [reply()], just_made=True) is Verdict.YOUNG


class Node:
    """A source, what the connectors say, and who looks when."""

    def __init__(self, source: Source | None = None) -> None:
        self.memory = MemorySource(SnapshotKind.REFLINK)
        self.memory.add("vm", "a", bytes(4096))
        self.source = source or self.memory
        self.says: Sequence[StateReply | None] = [reply()]
        self.asked: list[GroupId] = []
        self.sweep = Sweep([ALIAS], self._open, self._ask, DAY)
        self.now = datetime.now(UTC)

    def _open(self, alias: str) -> Source:
        return self.source

    def _ask(self, group: GroupId) -> Sequence[StateReply | None]:
        self.asked.append(group)
        return self.says

    def left(self, group: GroupId = GROUP, cycle: CycleId | None = None) -> str:
        name = source_snapshot_name(group, cycle or CycleId(uuid4()))
        self.memory.snapshot(["vm"], name)
        return name

    def verdict(self, **kind: Any) -> Verdict:
        ((found),) = self.sweep.look(**{"busy": (), "now": self.now, **kind})
        return found.verdict


class TestSweep:
    def test_a_running_attempts_snapshot_is_not_even_asked_about(self) -> None:
        node = Node()
        node.left()
        assert (node.verdict(busy=[GROUP], now=node.now + timedelta(days=400)), node.asked) == (Verdict.RUNNING, [])

    def test_names_that_are_not_ours(self) -> None:
        node = Node()
        for name in ("somebody-elses", f"dmcore-{GROUP}", f"dmcore-{GROUP}-mine", f"dmcore-{'x' * 36}-{CYCLE}",
                     f"dmcore-{GROUP}-{str(CYCLE).upper()}", f"dmcore-{GROUP}-{CYCLE}-2"):  # fmt: skip
            node.memory.snapshot(["vm"], name)
        assert node.sweep.look((), node.now + timedelta(days=400)) == []

    def test_by_age(self) -> None:
        node = Node()
        node.left()
        node.says = [None]
        assert node.verdict(now=node.now + timedelta(seconds=DAY - 60)) is Verdict.UNASKED
        assert node.verdict(now=node.now + timedelta(seconds=DAY + 60)) is Verdict.OLD

    def test_one_that_was_just_made(self) -> None:
        node = Node()
        name = node.left()
        assert node.verdict() is Verdict.YOUNG
        assert node.verdict(known=[name]) is Verdict.OVER
        assert node.verdict(now=node.now + JUST_MADE + timedelta(minutes=1)) is Verdict.OVER

    def test_half_made(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """How old it is nobody knows: it counts from when it was first seen."""
        node = Node()
        node.left()
        monkeypatch.setattr(node.memory, "find_snapshot", lambda _: None)
        for minutes, expected in ((0, Verdict.YOUNG), (9, Verdict.YOUNG), (10, Verdict.OVER)):
            assert node.verdict(now=node.now + timedelta(minutes=minutes)) is expected

    def test_damaged(self, monkeypatch: pytest.MonkeyPatch) -> None:
        node = Node()
        node.left()

        def damaged(name: str) -> None:
            raise SnapshotFailed(path="x", name=name, problem="damaged")

        monkeypatch.setattr(node.memory, "find_snapshot", damaged)
        assert node.verdict() is Verdict.YOUNG

    def test_removed(self) -> None:
        node = Node()
        name = node.left()
        (found,) = node.sweep.look((), node.now, known=[name])
        assert found.is_leftover
        assert node.sweep.remove(found)
        assert node.memory.snapshots() == []

    def test_not_removed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Neither when the source says so nor when it is still there afterwards."""
        node = Node()
        name = node.left()
        (found,) = node.sweep.look((), node.now, known=[name])
        monkeypatch.setattr(node.memory, "delete_snapshot", lambda _: None)
        with structlog.testing.capture_logs() as logs:
            assert not node.sweep.remove(found)
        assert logs[-1]["event"] == "leftover source snapshot stays"
        faulty = FaultySource(node.memory)
        faulty.plan.fail("delete_snapshot", SnapshotFailed(path="x", name="y", problem="as told"))
        node.source = faulty
        assert not node.sweep.remove(found)
        assert ALIAS in node.sweep.problems

    def test_a_source_that_cannot_be_opened(self) -> None:
        def gone(alias: str) -> Source:
            raise AliasUnknown(noun="source", alias=alias, known="none")

        sweep = Sweep(["a", "b"], gone, lambda _: [], DAY)
        assert sweep.look((), NOW) == []
        assert set(sweep.problems) == {"a", "b"}


class TestAsking:
    def test_a_real_connector(self, lab: CycleLab) -> None:
        """What it has of a group, whatever the plan; a cycle that has ended is named."""
        source = MemorySource(SnapshotKind.REFLINK)
        source.add("vm", "a", text(4096 * 8))
        report = lab.run(source)
        sweep = make_sweep(lab.settings, lab.identity)
        (said,) = sweep._ask(report.group)
        assert said is not None
        assert said.cycle is None
        assert said.finished == FinishedCycle(cycle=report.cycle, phase=Phase.RECLAIMED)
        (unknown,) = sweep._ask(GroupId(uuid4()))
        assert unknown == StateReply(busy=False, epoch=0, cycle=None, disks=())
        lab.stop_connector()
        assert sweep._ask(report.group) == [None]
        lab.start_connector()

    def test_a_pairing_that_cannot_be_read(self) -> None:
        def broken() -> dict[str, Any]:
            raise FileBroken(path="pairing.json", problem="damaged")

        assert ask_all(broken)(GROUP) == [None]

    def test_a_stopped_attempts_snapshot(self, lab: CycleLab, monkeypatch: pytest.MonkeyPatch) -> None:
        """While the cycle is received it stays; once another one has taken its place it goes."""
        source = MemorySource(SnapshotKind.REFLINK)
        source.add("vm", "a", text(4096 * 8))
        job = lab.job()
        cycle = lab.cycle(source, job)

        def stopped(_: object) -> None:
            cycle.cancel("stopped")
            cycle._stop.check()

        monkeypatch.setattr(cycle._transfer, "run", stopped)
        with pytest.raises(Cancelled):
            cycle.run()
        sweep = make_sweep(lab.settings, lab.identity)
        sweep._aliases, sweep._open = ("machines",), lambda _: source
        now = datetime.now(UTC) + timedelta(hours=1)
        (found,) = sweep.look((), now)
        assert found.verdict is Verdict.NEEDED
        lab.shadow.drop("an operator dropped it")
        lab.settle()
        (found,) = sweep.look((), now)
        assert found.verdict is Verdict.OVER
        assert sweep.remove(found)


class Bench:
    def __init__(self, root: Path) -> None:
        self.node, self.state = Node(), OfflineState(root)
        self.busy: list[GroupId] = []
        self.seconds = 0.0
        self.sweeper = Sweeper(
            self.node.sweep, self.state, lambda: self.busy, lambda: self.node.now, lambda: self.seconds
        )

    def record(self, **changes: Any) -> offline.GroupRecord:
        made = record(snapshot_left=True, **changes)
        self.state.keep_record(made)
        return made

    def left(self, made: offline.GroupRecord) -> bool:
        held = self.state.record(made.job.group)
        assert held is not None
        return held.snapshot_left


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


class TestSweeper:
    def test_a_kept_snapshot_goes_once_its_cycle_is_over(self, bench: Bench) -> None:
        made = bench.record()
        name = bench.node.left(made.job.group, made.cycle)
        bench.node.says = [reply(made.cycle)]
        bench.sweeper.sweep()
        assert (bench.node.memory.snapshots(), bench.left(made)) == ([name], True)
        bench.node.says = [reply(finished=made.cycle)]
        bench.sweeper.sweep()
        assert (bench.node.memory.snapshots(), bench.left(made)) == ([], False)
        assert bench.state.record(made.job.group) == made.model_copy(update={"snapshot_left": False})

    def test_by_age_its_cycle_is_given_up(self, bench: Bench) -> None:
        made = bench.record()
        bench.node.left(made.job.group, made.cycle)
        bench.node.says, bench.node.now = [reply(made.cycle)], bench.node.now + timedelta(days=2)
        bench.sweeper.sweep()
        assert bench.state.record(made.job.group) == offline.given_up(made, snapshot_left=False)

    def test_one_that_runs_is_let_be(self, bench: Bench) -> None:
        made = bench.record()
        name = bench.node.left(made.job.group, made.cycle)
        bench.busy = [made.job.group]
        bench.sweeper.sweep()
        assert (bench.node.memory.snapshots(), bench.left(made)) == ([name], True)

    def test_one_whose_group_begins_meanwhile_is_let_be(self, bench: Bench) -> None:
        made = bench.record()
        name = bench.node.left(made.job.group, made.cycle)
        looked = bench.node.sweep.look

        def look(*arguments: Any, **more: Any) -> Any:
            found = looked(*arguments, **more)
            bench.busy = [made.job.group]
            return found

        bench.node.sweep.look = look  # type: ignore[method-assign]
        bench.sweeper.sweep()
        assert bench.node.memory.snapshots() == [name]

    def test_what_earlier_cycles_of_a_group_have_left(self, bench: Bench) -> None:
        """A storm of cancelled jobs: only the last cycle is remembered, and all their snapshots go."""
        made = bench.record()
        for _ in range(5):
            bench.node.left(made.job.group)
        bench.node.now += timedelta(hours=1)
        bench.sweeper.sweep()
        assert bench.node.memory.snapshots() == []

    def test_nothing_is_noted_of_a_source_that_cannot_be_seen(self, bench: Bench) -> None:
        made = bench.record()
        faulty = FaultySource(bench.node.memory)
        faulty.plan.fail("snapshots", SnapshotFailed(path="x", name="*", problem="as told"))
        bench.node.source = faulty
        bench.sweeper.sweep()
        assert bench.left(made)

    def test_soon_after_an_attempt_that_left_something(self, bench: Bench) -> None:
        made = bench.record()
        bench.node.left(made.job.group, made.cycle)
        bench.sweeper.attempt_ended()
        bench.sweeper.look()
        assert bench.left(made)  # not so soon after the last time
        bench.seconds += APART_S
        bench.sweeper.look()
        assert not bench.left(made)

    def test_not_after_one_that_left_nothing(self, bench: Bench) -> None:
        bench.node.left()
        bench.seconds += APART_S
        for ended in (False, True):
            if ended:
                bench.sweeper.attempt_ended()
            bench.sweeper.look()
        assert bench.node.asked == []
