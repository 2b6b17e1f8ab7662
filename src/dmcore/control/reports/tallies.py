"""Counters over what has ended since a process began: each finished job and each event once, whoever wrote it."""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from sqlalchemy import Connection, Row, Select, select

from dmcore.api.jobs import Outcome
from dmcore.api.operators import EventKind
from dmcore.control.store.tables import events, jobs
from dmcore.model.enums import Stage
from dmcore.model.jobs import JobKind, JobState

OVERLAP = timedelta(seconds=90)
"""What ended then may be committed only now: longer than any transaction of ours lasts."""
LONGEST_GAP = timedelta(hours=1)
"""What ended longer before a scrape is left out: a forgotten process must not read days of jobs at once."""
JOBS_AT_ONCE = 500
BOUNDS_S = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0)
BYTES = ("read_bytes", "changed_bytes", "zero_bytes", "sealed_bytes", "wire_bytes", "resumed_bytes",
         "untracked_bytes")  # fmt: skip
WHOLE = "whole"
_TOLD: Select[Any] = select(jobs.c.due_at, jobs.c.ended_at, jobs.c.kind, jobs.c.state, jobs.c.attempts, jobs.c.outcome)


class Durations:
    """A histogram."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self._counts[sum(seconds > bound for bound in BOUNDS_S)] += 1
        self.sum_s += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bound, and how many are at most that."""
        bounds = [*map(str, BOUNDS_S), "+Inf"]
        return [(bound, float(sum(self._counts[: place + 1]))) for place, bound in enumerate(bounds)]


class Tallies:
    """Totals of finished jobs and of events. Not thread-safe."""

    def __init__(self, connection: Connection, now: datetime) -> None:
        """What is in the database already is not counted."""
        self._since = now
        self._seen: dict[UUID | int, datetime] = {}
        for ended in self._ended(connection):
            self._seen.update(ended)
        self.finished: Counter[tuple[str, str]] = Counter()
        self.totals: Counter[str] = Counter()
        self.disks: Counter[tuple[str, str]] = Counter()
        self.retries = 0
        self.lease_losses = 0
        self.durations: dict[str, Durations] = {name: Durations() for name in (*Stage, WHOLE)}

    def catch_up(self, connection: Connection, now: datetime) -> None:
        """Count what has ended since the last time."""
        self._since = max(self._since, now - LONGEST_GAP)
        finished, lost = self._ended(connection)
        for some in _in_batches(list(finished)):
            for job in connection.execute(_TOLD.where(jobs.c.id.in_(some))):
                self._count(job)
        self.lease_losses += len(lost)
        self._seen |= finished | lost
        self._since = max([self._since, *self._seen.values()])
        self._seen = {key: at for key, at in self._seen.items() if at > self._since - OVERLAP}

    def metrics(self) -> list[Metric]:
        """The counters."""
        return [
            _counter("dmcore_jobs_finished", "Jobs that are over", ("kind", "state"), self.finished),
            _counter("dmcore_bytes", "Of finished cycles", ("kind",), {(k,): v for k, v in self.totals.items()}),
            _counter("dmcore_disks", "Disks of finished cycles", ("rung", "reason"), self.disks),
            _counter("dmcore_retries", "Attempts beyond the first, of jobs that are over", (), {(): self.retries}),
            _counter("dmcore_lease_losses", "Leases that ran out", (), {(): self.lease_losses}),
            self._seconds(),
        ]

    def _seconds(self) -> Metric:
        family = HistogramMetricFamily(
            "dmcore_cycle_seconds", "Finished cycles, by stage, and whole from due to ended", labels=("stage",)
        )
        for name, durations in self.durations.items():
            family.add_metric([name], durations.buckets(), durations.sum_s)
        return family

    def _ended(self, connection: Connection) -> tuple[dict[UUID | int, datetime], dict[UUID | int, datetime]]:
        """Finished jobs and lost leases that were not seen before, and when."""
        since = self._since - OVERLAP
        finished = select(jobs.c.id, jobs.c.ended_at.label("at")).where(jobs.c.ended_at > since)
        lost = select(events.c.number.label("id"), events.c.at).where(events.c.at > since)
        lost = lost.where(events.c.kind == EventKind.LEASE_LOST)
        return self._unseen(connection, finished), self._unseen(connection, lost)

    def _unseen(self, connection: Connection, asked: Select[Any]) -> dict[UUID | int, datetime]:
        return {row.id: row.at for row in connection.execute(asked) if row.id not in self._seen}

    def _count(self, job: Row[Any]) -> None:
        self.finished[job.kind, job.state] += 1
        self.retries += max(job.attempts - 1, 0)
        if job.kind == JobKind.CYCLE and job.outcome:
            self._count_cycle(job, Outcome.model_validate(job.outcome))

    def _count_cycle(self, job: Row[Any], outcome: Outcome) -> None:
        for disk in outcome.progress.disks:
            self.disks[disk.rung, disk.reason] += 1
            self.totals.update({name.removesuffix("_bytes"): getattr(disk, name) or 0 for name in BYTES})
        if job.state == JobState.COMPLETED:
            self.durations[WHOLE].add(max((job.ended_at - job.due_at).total_seconds(), 0.0))
            for stage, seconds in outcome.seconds.items():
                self.durations[stage].add(seconds)


def _counter(name: str, text: str, labels: tuple[str, ...], values: dict[Any, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric(list(key), value)
    return family


def _in_batches(ids: list[UUID | int]) -> Iterator[list[UUID | int]]:
    return (ids[start : start + JOBS_AT_ONCE] for start in range(0, len(ids), JOBS_AT_ONCE))
