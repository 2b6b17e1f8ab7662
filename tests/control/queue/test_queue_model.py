"""The queue against a model of it: whatever nodes, operators and time do, in whatever order."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from dmcore.api.jobs import Job
from dmcore.control.errors import LeaseLost, StateConflict
from dmcore.control.queue.claims import UNHEARD_S
from dmcore.control.store.database import Database
from dmcore.control.store.tables import jobs
from dmcore.model.jobs import HELD, IN_FLIGHT, JobState, may_follow
from tests.control.queue_kit import Worker, after, failed, new_world, with_point

GROUPS = 3
NODES = "ab"
SETTINGS = settings(max_examples=30, stateful_step_count=40)


@dataclass
class Lease:
    """A job as a process of a node got it, long ago perhaps."""

    worker: Worker
    job: Job


class QueueModel(RuleBasedStateMachine):
    """What is expected: which jobs there are, their states, and who had which epoch last."""

    template: Path
    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        shutil.copyfile(self.template, self.folder / "control.db")
        self.world = new_world(Database(f"sqlite:///{self.folder / 'control.db'}"))
        self.workers = {letter: self.world.appliance(letter) for letter in NODES}
        self.groups = self.world.plan(GROUPS)
        self.now = 0.0
        self.states: dict[UUID, str] = {}
        self.made: list[UUID] = []
        self.newest: dict[UUID, int] = {}
        """Of each job, the epoch of its latest lease."""
        self.epochs = dict.fromkeys(self.groups, 0)

    def teardown(self) -> None:
        try:
            self.drain()
        finally:
            self.world.database.close()
            shutil.rmtree(self.folder)

    @rule(seconds=st.sampled_from([0.1, 1.0, 15.0, 61.0, 400.0, 4000.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(index=st.integers(0, GROUPS - 1))
    def enqueue(self, index: int) -> None:
        group = self.groups[index]
        busy = any(row.group == group for row in self.rows() if row.state in IN_FLIGHT)
        job = self.world.enqueue(group, after(self.now))
        assert (job is None) == busy
        if job is not None:
            self.states[job] = JobState.QUEUED
            self.made.append(job)

    @rule(target=leases, letter=st.sampled_from(NODES))
    def claim(self, letter: str) -> Lease | None:
        worker = self.workers[letter]
        unheard = self.unheard(worker)
        job = worker.claim(after(self.now))
        if job is None:
            assert not unheard
            return None
        assert isinstance(job, Job)
        assert job.job in self.states
        if unheard:
            assert job.job in unheard
            assert job.epoch == self.newest[job.job]
            return Lease(worker, job)
        assert job.epoch == self.epochs[job.group] + 1
        self.epochs[job.group] = self.newest[job.job] = job.epoch
        return Lease(worker, job)

    @rule(letter=st.sampled_from(NODES))
    def restart(self, letter: str) -> None:
        self.workers[letter] = self.workers[letter].restarted()

    @rule(lease=leases, counter=st.integers(0, 50))
    def heartbeat(self, lease: Lease | None, counter: int) -> None:
        if lease is None:
            return
        try:
            lease.worker.heartbeat(lease.job, after(self.now), counter=counter)
        except LeaseLost:
            return
        assert lease.job.epoch == self.newest[lease.job.job]
        row = self.world.job(lease.job.job)
        assert row.state in HELD
        assert row.node == lease.worker.node

    @rule(
        lease=leases,
        said=st.sampled_from(
            [
                {"result": "completed"},
                {"result": "cancelled"},
                failed(),
                failed("cycle.dropped"),
                failed("source.gone", permanent=True),
                failed("epoch.stale", permanent=True, epoch_floor=5),
            ]
        ),
    )
    def finish(self, lease: Lease | None, said: dict[str, Any]) -> None:
        if lease is None:
            return
        newest = lease.job.epoch == self.newest[lease.job.job]
        before = self.world.job(lease.job.job)
        try:
            lease.worker.finish(lease.job, after(self.now), **said)
        except LeaseLost:
            assert not newest
            assert self.world.job(lease.job.job) == before
            return
        assert newest
        group = lease.job.group
        self.epochs[group] = max(self.epochs[group], self.world.group(group).epoch)

    @rule(ago=st.integers(0, 5))
    def cancel(self, ago: int) -> None:
        if ago >= len(self.made):
            return
        job = self.made[-1 - ago]
        try:
            self.world.cancel(job, after(self.now))
        except StateConflict:
            assert self.states[job] in {JobState.COMPLETED, JobState.FAILED}

    @rule()
    def reap(self) -> None:
        self.world.reap(after(self.now))

    @invariant()
    def no_job_is_lost_and_none_comes_back(self) -> None:
        found = {row.id: row.state for row in self.rows()}
        assert set(found) == set(self.states)
        for job, state in found.items():
            before = JobState(self.states[job])
            assert before == state or may_follow(before, JobState(state)) or self.may_follow_by_way(before, state)
        self.states = found

    @invariant()
    def at_most_one_of_a_group_is_in_flight(self) -> None:
        busy = [row.group for row in self.rows() if row.state in IN_FLIGHT]
        assert len(busy) == len(set(busy))

    @invariant()
    def a_lease_has_an_end_and_a_holder(self) -> None:
        for row in self.rows():
            assert (row.lease_until is not None) == (row.state in HELD)
            assert (row.ended_at is None) == (row.state in IN_FLIGHT)
            assert row.state not in HELD or row.node is not None

    @invariant()
    def an_epoch_never_goes_back(self) -> None:
        for group in self.groups:
            assert self.world.group(group).epoch == self.epochs[group]

    @invariant()
    def a_group_is_in_flight_or_has_a_next_start(self) -> None:
        busy = {row.group for row in self.rows() if row.state in IN_FLIGHT}
        for group in self.groups:
            assert (self.world.group(group).next_start is None) == (group in busy)

    @staticmethod
    def may_follow_by_way(before: JobState, state: str) -> bool:
        """Two steps in one transaction: reaped or taken back, and leased again."""
        return before in HELD and state == JobState.LEASED

    def unheard(self, worker: Worker) -> set[UUID]:
        """The leases that this process has, may not know of, and is told of once more: its polls name none as busy."""
        since, now = after(self.now - UNHEARD_S), after(self.now)
        return {
            row.id
            for row in self.rows()
            if row.state == JobState.LEASED and row.incarnation == worker.incarnation and not row.cancelling
            if row.leased_at <= since and row.lease_until > now
        }

    def drain(self) -> None:
        """When all is well again, every job comes to an end."""
        for _ in range(10 * (GROUPS + 1)):
            self.now += 4000
            self.world.reap(after(self.now))
            self.now += 4000
            job = self.workers["a"].claim(after(self.now))
            if isinstance(job, Job):
                self.workers["a"].finish(job, after(self.now), **with_point(after(self.now)))
        assert not [row for row in self.rows() if row.state in IN_FLIGHT]

    def rows(self) -> list[Any]:
        with self.world.database.read() as connection:
            return list(connection.execute(jobs.select()).all())


@pytest.mark.timeout(300)
def test_the_queue_keeps_its_promises(sqlite_template: Path) -> None:
    QueueModel.template = sqlite_template
    run_state_machine_as_test(QueueModel, settings=SETTINGS)
