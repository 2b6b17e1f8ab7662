"""Clean-up by a running appliance: at its start, every hour, and soon after an attempt that left its snapshot."""

import threading
import time
from collections.abc import Callable, Collection

import structlog

from dmcore.appliance import offline
from dmcore.appliance.leftovers import FoundSnapshot, Sweep, Verdict
from dmcore.appliance.offline import GroupRecord
from dmcore.appliance.offline_state import OfflineState
from dmcore.host.clock import Clock
from dmcore.model.ids import GroupId

APART_S = 60.0
"""Attempts may fail one after the other: sources and connectors are not asked more often than this for it."""

log = structlog.get_logger()


class Sweeper:
    """`sweep` and `look` belong to one thread; `attempt_ended` may be called from any."""

    def __init__(
        self,
        sweep: Sweep,
        state: OfflineState,
        busy: Callable[[], Collection[GroupId]],
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sweep, self._state, self._busy, self._clock, self._monotonic = sweep, state, busy, clock, monotonic
        self._ended = threading.Event()
        self._swept_at = monotonic()

    def attempt_ended(self) -> None:
        """It may have left something."""
        self._ended.set()

    def look(self) -> None:
        """Sweep, if an attempt has ended that left something. Asked often."""
        if self._ended.is_set() and self._monotonic() - self._swept_at >= APART_S:
            self._ended.clear()
            if any(each.snapshot_left for each in self._idle()):
                self.sweep()

    def sweep(self) -> None:
        """Remove what may go, and note what is gone."""
        self._swept_at = self._monotonic()
        records = {each.snapshot_name: each for each in self._idle() if each.snapshot_left}
        found = self._sweep.look(self._busy(), self._clock(), known=records.keys())
        gone = {each.name: each for each in found if each.is_leftover and self._removed(each)}
        left = {each.name for each in found} - gone.keys()
        for name, record in records.items():
            if name not in left and record.job.source not in self._sweep.problems:
                old = name in gone and gone[name].verdict is Verdict.OLD
                self._note(record, offline.given_up(record, snapshot_left=False) if old else _without(record))
        kept = [f"{each.name}: {each.verdict}" for each in found if each.name in left]
        log.info("looked for leftover source snapshots", removed=len(gone), kept=kept)

    def _removed(self, leftover: FoundSnapshot) -> bool:
        return leftover.group not in self._busy() and self._sweep.remove(leftover)  # it may have begun meanwhile

    def _idle(self) -> list[GroupRecord]:
        busy = self._busy()
        return [each for each in self._state.records() if each.job.group not in busy]

    def _note(self, record: GroupRecord, after: GroupRecord) -> None:
        if self._state.record(record.job.group) == record:
            self._state.keep_record(after)


def _without(record: GroupRecord) -> GroupRecord:
    """Another attempt of its cycle, if there is one, makes a new snapshot."""
    return record.model_copy(update={"snapshot_left": False})
