"""Every call of a whole cycle failed in turn: the right image, or a clean error and a cycle that goes on afterwards.

A cycle at the connector is run once to count its calls. Then it is run again for each of them, from its start, and that
call fails: with EIO, ENOSPC or EROFS, once or for good; a write may be short. When the fault has shown itself, it goes,
and an appliance tries again: in the same process, or in a new one, or after a power cut.
"""

import contextlib
import errno
import os
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from dmcore.errors import DmcoreError
from dmcore.shadow.errors import LogCorrupt
from tests.torture.connector_run import Run
from tests.torture.judge import Promised, Violation
from tests.torture.loss import Everything, Loss, Some
from tests.torture.medium import Image, Medium, nothing, whole
from tests.torture.shrunk import small
from tests.torture.story import Part, Story, a_story
from tests.torture.suite import Suite

CODES = (errno.EIO, errno.ENOSPC, errno.EROFS)
TRIES = 4
"""A fault may show itself once in an attempt's first try, and once more where what it left is cleaned up."""


@dataclass
class Fault:
    """What goes wrong, at which call."""

    at: int
    code: int = 0
    """The errno; 0: a short write."""
    sticky: bool = False
    calls: list[str] = field(default_factory=list)
    hit: str = ""

    def before(self, what: str) -> None:
        self.calls.append(what)
        if not self.code or len(self.calls) < self.at or (len(self.calls) > self.at and not self.sticky):
            return
        if what.startswith(("read", "sync")) and self.code in {errno.ENOSPC, errno.EROFS} and "directory" not in what:
            return  # such a call does not fail so, but for a sync of what was never allocated
        self.hit = self.hit or what
        raise OSError(self.code, os.strerror(self.code))

    def short(self, count: int) -> int:
        if self.code or len(self.calls) + 1 != self.at:
            return count
        self.hit = "short write"
        return max(count // 2, 1)

    def __str__(self) -> str:
        name = errno.errorcode.get(self.code, "short write")
        return f"{name} at call {self.at} ({self.hit}), {'for good' if self.sticky else 'once'}"


class Sweep:
    """The last cycle of a story, under every fault."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.story: Story = a_story(seed)
        self.device = self.rng.random() < 0.5
        self.parts = list(self.story.parts.values())
        self.counts: Counter[str] = Counter()

    def run(self, stride: int = 1) -> Counter[str]:
        """Raises Violation."""
        image, promised = self._prepared()
        calls = self._calls(image, promised)
        self.counts["calls"] += calls
        faults = [(code, sticky) for code in CODES for sticky in (False, True)] + [(0, False)]
        for at in range(self.rng.randint(1, stride), calls + 1, stride):
            for code, sticky in faults:
                fault = Fault(at, code, sticky)
                try:
                    self._fail(image, promised, fault)
                except Exception as error:
                    raise Violation(f"{fault}: {error}") from error
        return self.counts

    def _prepared(self) -> tuple[Image | None, Promised]:
        run = Run(self.story, Medium(), Promised(), device=self.device)
        run.start()
        for part in self.parts[:-1]:
            run.carry(part)
        return run.medium.cut(Loss()), run.now()

    def _calls(self, image: Image | None, promised: Promised) -> int:
        counting = Fault(0)
        run = Run(self.story, Medium(image), promised, device=self.device)
        run.medium.before = counting.before
        run.start()
        run.carry(self.parts[-1])
        return len(counting.calls)

    def _fail(self, image: Image | None, promised: Promised, fault: Fault) -> None:
        run = Run(self.story, Medium(image), promised, device=self.device)
        run.medium.before, run.medium.short = fault.before, fault.short
        part = self.parts[-1]
        for _ in range(TRIES):
            if self._try(run, part):
                break
            run.medium.before, run.medium.short = nothing, whole
            run.stumbled = True
            run = self._next(run)
        else:
            raise Violation("the cycle does not go on when the fault is gone")
        if fault.hit:
            self.counts["faults"] += 1
        self._restarted(run)

    @staticmethod
    def _try(run: Run, part: Part) -> bool:
        """Whether the cycle came to its right end. What may stop it is an error of ours, or the system's."""
        try:
            if not hasattr(run, "shadow"):
                run.start()
            run.carry(part)
        except LogCorrupt as error:
            raise Violation(f"nothing was damaged: {error}") from error
        except (DmcoreError, OSError):
            return False
        return True

    def _next(self, run: Run) -> Run:
        """Who goes on: the same process, one that was started after this one was killed, or after a power cut."""
        how = self.rng.randrange(3)
        if how == 0 and hasattr(run, "shadow"):
            return run
        self.counts["restarts"] += 1
        medium = (
            run.medium.clone()
            if how == 1
            else Medium(run.medium.cut(self.rng.choice((Everything(), Loss(), Some(self.rng)))))
        )
        return Run(self.story, medium, run.now(), device=self.device)

    def _restarted(self, run: Run) -> None:
        """What was said before is so after a power cut."""
        after = Run(self.story, Medium(run.medium.cut(Everything())), run.now(), device=self.device)
        with contextlib.closing(after.start()):
            self.counts["checks"] += 1


class IoFaults(Suite):
    name = "io-faults"

    def run(self, seed: int, folder: Path) -> Counter[str]:
        return sweep(seed)


def sweep(seed: int, stride: int = 1) -> Counter[str]:
    """Every `stride`-th call of a seed's last cycle, failed. Raises Violation."""
    with small(random.Random(f"small {seed}")):
        return Sweep(seed).run(stride)
