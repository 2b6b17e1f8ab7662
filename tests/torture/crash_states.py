"""Crash states of the real log, redo, map and state: the power is cut after every step, in several ways, and again
in the recovery.

One run of a story is recorded. At each of its steps the medium is taken as a power cut would leave it, once for each
way to lose what was not synced, and as a process that is killed would. From each of these the connector is started, and
the cycle goes on to its end; at one step of that it is stopped again. The invariants are in tests/torture/judge.py.
"""

import contextlib
import errno
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from dmcore.errors import TargetError
from dmcore.model.phase import Phase
from dmcore.shadow.errors import StateUnreadable
from tests.torture.connector_run import Run
from tests.torture.judge import Promised, Violation
from tests.torture.loss import Everything, Loss, losses
from tests.torture.medium import Image, Medium, nothing
from tests.torture.shrunk import small
from tests.torture.story import TWIN, Story, a_story
from tests.torture.suite import Suite

FAILING = 0.15
"""How many recoveries meet a failing sync."""
SYNCS = 10
"""It is one of the first of these."""
EARLY = 20
"""The first steps of a recovery are cut as often as all others."""
SAID = ("opened", "acknowledged", "committed", "drained")
PROMISES = 0.25
"""How many recoveries are cut where something was just said to somebody."""
LEVELS = 3
"""How many times in a row the power is cut."""


class State:
    """What a crash has left: of the medium after a power cut, of the cache too where only the process was killed."""

    def __init__(self, run: Run, loss: Loss | None, level: int, what: str) -> None:
        self.promised, self.level, self.killed = run.now(), level, loss is None
        self.medium = run.medium.clone() if loss is None else None
        self.images: list[Image] = [
            run.medium.cut(each) for each in ((Everything(), Loss()) if loss is None else (loss,))
        ]
        lost = type(loss).__name__ if loss else "killed"
        self.place = f"{run.place}; step {run.steps}, cycle {run.part}, behind {what!r}, {lost}"

    def key(self) -> int:
        return hash((*(frozenset(image.items()) for image in self.images), self.promised))

    def restart(self, story: Story, *, device: bool) -> Run:
        run = Run(story, self.medium or Medium(self.images[0]), self.promised, device=device)
        run.place = self.place
        return run


class Enumeration:
    """All the crash states of one story."""

    def __init__(self, seed: int, most: int | None = None) -> None:
        self.rng = random.Random(seed)
        self.story = a_story(seed)
        self.device = self.rng.random() < 0.5
        self.most = most
        self.counts: Counter[str] = Counter()
        self.seen: set[int] = set()
        self.waiting: list[State] = []

    def run(self) -> Counter[str]:
        """Raises Violation."""
        first = Run(self.story, Medium(), Promised(), device=self.device)
        first.medium.after = lambda what: self._cut(first, 1, what)
        first.start()
        for part in self.story.parts.values():
            first.carry(part)
        self.counts["steps"] += first.steps
        self.length = first.steps // len(self.story.parts) + 1
        while self.waiting and (self.most is None or self.counts["recoveries"] < self.most):
            self._recover(self.waiting.pop(self.rng.randrange(len(self.waiting))))
        return self.counts

    def _cut(self, run: Run, level: int, what: str, *, only: int | str = "") -> None:
        """The power goes here in each of the ways that make a difference; with `only`, in one, at that step."""
        run.steps += 1
        if only and only not in {run.steps, what}:
            return
        if only:
            run.medium.after = nothing
        unsynced = run.medium.unsynced()
        ways = [None, *losses(self.rng, max(unsynced), min(unsynced))] if unsynced else [Loss()]
        for loss in [self.rng.choice(ways)] if only else ways:
            state = State(run, loss, level, what)
            self.counts["states"] += 1
            key = state.key()
            if key not in self.seen:
                self.seen.add(key)
                self.counts["distinct states"] += 1
                self.waiting.append(state)

    def _recover(self, state: State) -> None:
        self.counts["recoveries"] += 1
        run = state.restart(self.story, device=self.device)
        if state.level < LEVELS:
            step: int | str = self.rng.randint(1, self.rng.choice((EARLY, self.length)))
            again = self.rng.choice(SAID) if self.rng.random() < PROMISES else step
            run.medium.after = lambda what: self._cut(run, state.level + 1, what, only=again)
        if self.rng.random() < FAILING:
            run.medium.before = self._failing_sync(self.rng.randint(1, SYNCS))
        try:
            self._again_if_a_sync_failed(run, run.start)
            self._go_on(run)
        except Exception as error:
            raise Violation(f"after a crash at {state.place}: {error}") from error

    def _failing_sync(self, at: int) -> Callable[[str], None]:
        """The n-th sync fails: what it was to make durable is lost, and still in the cache."""
        left, kind = [at], self.rng.choice(("sync ", "sync seg-"))

        def fail(what: str) -> None:
            hit = what.startswith(kind)
            left[0] -= hit
            if left[0] == 0 and hit:
                self.counts["failed syncs"] += 1
                raise OSError(errno.EIO, f"injected into {what!r}")

        return fail

    def _go_on(self, run: Run) -> None:
        """To the end of the cycle that was being carried, or of the first after it that is not left."""
        number = run.part % TWIN
        cycle = run.shadow.state.cycle
        receiving = cycle is not None and cycle.phase is Phase.RECEIVING
        part = self.story.parts[number] if run.part < TWIN else self.story.twin(number)
        if receiving and run.part < TWIN and self.rng.random() < 0.2:
            part = self.story.twin(number)
        self._again_if_a_sync_failed(run, partial(run.carry, part))
        while part.left:
            number += 1
            part = self.story.parts[number]
            self._again_if_a_sync_failed(run, partial(run.carry, part))

    @staticmethod
    def _again_if_a_sync_failed(run: Run, work: Callable[[], object]) -> None:
        with contextlib.suppress(TargetError, StateUnreadable, OSError):
            work()
            return
        run.stumbled = True
        work()


class CrashStates(Suite):
    name = "crash-states"

    def run(self, seed: int, folder: Path) -> Counter[str]:
        return enumerate_states(seed)


def enumerate_states(seed: int, most: int | None = None) -> Counter[str]:
    """The crash states of a seed's story, all or the first few. Raises Violation."""
    with small(random.Random(f"small {seed}")):
        return Enumeration(seed, most).run()
