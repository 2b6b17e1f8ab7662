"""Whatever is asked, in whatever order, with whatever clock: a point that a rule keeps is there, and whole.

The real keeper, catalogue, clock guard and expiry over a target in memory; the model knows how much time has really
passed, which clocks do not.
"""

import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dmcore.connector.clock_guard import ClockGuard
from dmcore.connector.errors import ClockJumped, PointBusy, PointKept
from dmcore.connector.groups import Groups
from dmcore.connector.keeper import PointKeeper
from dmcore.connector.keyring import PlanKeyring
from dmcore.model.ids import PointId
from dmcore.model.points import PointState
from dmcore.node.settings import RetentionSettings
from dmcore.shadow.errors import ExpiryFailed, PointUnknown
from dmcore.shadow.points import Catalogue, Point
from dmcore.shadow.storage import Storage
from dmcore.targets.errors import TargetIOFailed
from tests.connector.points import START, a_point
from tests.targets.faulty import FaultyTarget
from tests.targets.memory import MemoryTarget

KEEP_NEWEST = 2
KEEP_S = 86_400
FAILED = TargetIOFailed(path="/x", operation="delete", offset=0, problem="Input/output error")


@dataclass
class Truth:
    """What the model knows of a point."""

    point: Point
    made_s: float
    made_right: bool
    """When the clock was right: others carry a wrong time."""
    good: bool = True
    preserved: bool = False
    locked: bool = False


class RetentionMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dmcore-retention-"))
        self.target = MemoryTarget()
        self.faulty = FaultyTarget(self.target)
        self.catalogue = Catalogue(Storage(), self.folder / "points")
        self.elapsed_s = 0.0
        """How much time has really passed."""
        self.offset = timedelta()
        """How wrong the clock is."""
        self.booted_s = 0.0
        self.truth: dict[PointId, Truth] = {}
        self.asked: set[PointId] = set()
        """Points whose removal was let begin."""
        self.numbers = 0
        self.restart()

    def now(self) -> datetime:
        return START + timedelta(seconds=self.elapsed_s) + self.offset

    @rule()
    def restart(self) -> None:
        self.booted_s = self.elapsed_s
        self.guard = ClockGuard(self.folder, self.now, lambda: self.elapsed_s - self.booted_s)
        shadow = SimpleNamespace(
            state=SimpleNamespace(open_cycle=None), catalogue=self.catalogue, forget_old_digests=lambda: None
        )
        groups: Any = SimpleNamespace(
            catalogues=lambda: [self.catalogue], target=lambda _: self.faulty, get=lambda _: shadow, all=list
        )
        rules = RetentionSettings(keep_newest=KEEP_NEWEST, keep_s=KEEP_S)
        keyring = cast("PlanKeyring", None)
        self.keeper = PointKeeper(cast("Groups", groups), keyring, rules, self.guard, self.now, lambda _: None)
        self.guard.look()
        self.keeper.finish_expiries()

    @rule()
    def make(self) -> None:
        self.numbers += 1
        point = a_point(self.numbers, hours=self.elapsed_s / 3600 + self.numbers / 1000)
        for disk in point.disks:
            self.target.snapshot_contents[disk.snapshot] = bytearray(1)
        point = point.model_copy(update={"disks": [self._own(disk.snapshot, disk) for disk in point.disks]})
        self.catalogue.add(point)
        at = self.now().timestamp()
        os.utime(self.folder / "points" / f"{point.id}.json", (at, at))
        self.truth[point.id] = Truth(point, self.elapsed_s, made_right=not self.offset)

    def _own(self, snapshot: str, disk: Any) -> Any:
        """A snapshot of its own for each point."""
        name = f"{snapshot}-{self.numbers}"
        self.target.snapshot_contents[name] = self.target.snapshot_contents.pop(snapshot)
        return disk.model_copy(update={"snapshot": name})

    @rule(hours=st.sampled_from([0.1, 1, 10, 30, 100]))
    def time_passes(self, hours: float) -> None:
        """In steps in which a connector that runs looks at its clock."""
        for _ in range(int(hours // 5) + 1):
            self.elapsed_s += hours * 3600 / (int(hours // 5) + 1)
            self.guard.look()

    @rule(days=st.sampled_from([-400, -3, 3, 400]))
    def clock_jumps(self, days: int) -> None:
        self.offset += timedelta(days=days)

    @rule()
    def clock_is_set_right(self) -> None:
        self.offset = timedelta()
        (self.folder / "clock").unlink(missing_ok=True)  # what an operator does who has looked
        self.restart()

    @precondition(lambda self: self.truth)
    @rule(data=st.data(), preserved=st.booleans())
    def preserve(self, data: st.DataObject, preserved: bool) -> None:
        truth = self._pick(data)
        with suppress(PointUnknown, PointBusy):
            self.keeper.preserve(truth.point.id, preserved=preserved)
            truth.preserved = preserved

    @precondition(lambda self: self.truth)
    @rule(data=st.data())
    def lock(self, data: st.DataObject) -> None:
        truth = self._pick(data)
        if truth.point.id not in self.asked:
            self.catalogue.change(truth.point.id, locked=True)
            truth.locked = True

    @precondition(lambda self: self.truth)
    @rule(data=st.data(), good=st.booleans())
    def verification_ends(self, data: st.DataObject, good: bool) -> None:
        truth = self._pick(data)
        state = PointState.AVAILABLE if good else PointState.DEGRADED
        if truth.point.id not in self.asked:
            self.catalogue.change(truth.point.id, state=state)
            truth.good = good

    @precondition(lambda self: self.truth)
    @rule(data=st.data(), failing=st.sampled_from([0, 0, 1, 2]))
    def expire(self, data: st.DataObject, failing: int) -> None:
        truth = self._pick(data)
        if failing:
            self.faulty.plan.fail("delete_snapshot", FAILED, after=failing - 1)
        kept = self._why_kept(truth)
        try:
            self.keeper.expire(truth.point.id)
        except (PointKept, ClockJumped, PointUnknown, PointBusy):
            pass
        except ExpiryFailed:
            assert truth.point.id in self.asked or not kept, f"{kept}, and its removal was begun"
            self.asked.add(truth.point.id)
        else:
            assert truth.point.id in self.asked or not kept, f"{kept}, and it was removed"
            del self.truth[truth.point.id]
            self.asked.discard(truth.point.id)
        self.faulty.plan._faults.clear()

    @rule()
    def expire_all(self) -> None:
        """What a hostile or broken control plane asks."""
        for point in sorted(self.truth):
            truth = self.truth[point]
            kept = self._why_kept(truth)
            with suppress(PointKept, ClockJumped, PointUnknown, PointBusy):
                self.keeper.expire(point)
                assert point in self.asked or not kept, f"{kept}, and it was removed"
                del self.truth[point]
                self.asked.discard(point)

    @invariant()
    def what_is_not_being_removed_is_whole(self) -> None:
        held = {point.id: point for point in self.catalogue.all()}
        snapshots = set(self.target.snapshots())
        for point in set(self.truth) - self.asked:
            assert point in held, "a point is gone that nobody has removed"
            assert {disk.snapshot for disk in held[point].disks} <= snapshots, "a snapshot of a point is gone"
        gone_for_good = {point for point in self.asked if point not in held}
        for point in gone_for_good:  # a restart has finished what was begun
            self.asked.discard(point)
            self.truth.pop(point, None)

    @invariant()
    def the_last_good_point_is_there(self) -> None:
        good = [truth for truth in self.truth.values() if truth.good]
        if good:
            assert any(truth.point.id not in self.asked for truth in good)

    def _why_kept(self, asked: Truth) -> str:
        """The rules, by what has really happened: a wrong clock makes no point old."""
        newer = [
            truth for truth in self.truth.values()
            if truth.good and truth.point.id not in self.asked and truth.point.source_time > asked.point.source_time
        ]  # fmt: skip
        rules = {
            "it is locked": asked.locked,
            "it is preserved": asked.preserved,
            "it is the last good one": asked.good and not newer,
            "it is among the newest": len(newer) < KEEP_NEWEST,
            "it is too young": asked.made_right and self.elapsed_s - asked.made_s < KEEP_S - 1,
        }
        return next((why for why, applies in rules.items() if applies), "")

    def _pick(self, data: st.DataObject) -> Truth:
        return self.truth[data.draw(st.sampled_from(sorted(self.truth)))]

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)


TestRetention = RetentionMachine.TestCase
TestRetention.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
