"""One attempt at a job by this node: run in its own thread, watched, directed and stopped from others."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import uuid4

import structlog
from structlog.contextvars import bound_contextvars

from dmcore.api.jobs import Job, JobResult, Outcome, Progress
from dmcore.api.nodes import HeartbeatReply
from dmcore.appliance import reporting
from dmcore.appliance.cycle import Cycle
from dmcore.appliance.pacing import Pacing
from dmcore.appliance.progress import CycleProgress, CycleReport
from dmcore.errors import DmcoreError
from dmcore.model.ids import CycleId

RunCycle = Callable[[Job, CycleProgress, Callable[[Cycle], None]], CycleReport]
"""`Appliance.run`."""

log = structlog.get_logger()


class End(StrEnum):
    """Why an attempt is stopped from outside. None of them removes the source snapshot: see docs/appliance.md."""

    DIRECTED = "the control plane asks for it"
    LOST = "its lease is another's"
    STOPPED = "the node stops"


@dataclass(frozen=True)
class Alone:
    """What there is to report of an attempt that nobody has asked for."""

    base_cycle: CycleId
    """Of the lease under which it is begun."""
    started_at: datetime


class Duty:
    """Used once. `run` is the duty's own thread's; everything else is any thread's, and never blocks."""

    def __init__(
        self,
        job: Job,
        run_cycle: RunCycle,
        pacing: Pacing,
        alone: Alone | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`alone`: it is begun without a control plane. Else it is leased."""
        self.job, self.alone = job, alone
        self.live = CycleProgress()
        self.correlation = uuid4().hex
        self.seconds = 0.0
        """How long `run` took."""
        self._run_cycle, self._pacing, self._monotonic = run_cycle, pacing, monotonic
        self._lock = threading.Lock()
        self._cycle: Cycle | None = None
        self._end: End | None = None
        self._over = False
        self._pace = pacing.for_job(job.job, job.plan)
        """Kept for the plan's bucket: what is set before the cycle asks for it holds."""

    @property
    def ended_by(self) -> End | None:
        """Why somebody has stopped it; None: nobody has."""
        with self._lock:
            return self._end

    # The holder of its lease

    def progress(self) -> Progress:
        """How far it is."""
        return reporting.progress_of(self.live)

    def directed(self, reply: HeartbeatReply) -> None:
        """What a heartbeat was answered."""
        self._pacing.set_plan_limit(self.job.plan, reply.limit)
        self._pacing.set_site_limit(reply.site_limit)
        if reply.cancel:
            self.stop(End.DIRECTED)
        else:
            self._set_paused(reply.pause)

    def lost(self) -> None:
        """Somebody else may have the job: what it comes to here interests nobody."""
        self.stop(End.LOST)

    def stop(self, end: End) -> None:
        """End what is under way, or what would begin. The first reason stays, but a lost lease is lost."""
        with self._lock:
            self._end = End.LOST if end is End.LOST else self._end or end
            cycle = self._cycle
        if cycle is not None:
            cycle.cancel(end)

    def _set_paused(self, paused: bool) -> None:
        with self._lock:
            if self._over:  # an answer that comes late would leave a switch that nobody needs
                return
            if paused:
                self._pacing.pause(self.job.job)
            else:
                self._pacing.resume(self.job.job)

    # Its own thread

    def run(self) -> Outcome:
        """The whole cycle. Never raises: what went wrong is in the outcome, as a code, and in the log."""
        job, began = self.job, self._monotonic()
        ids = {"plan": str(job.plan), "group": str(job.group), "cycle": str(job.cycle), "job": str(job.job)}
        try:
            with bound_contextvars(**ids, epoch=job.epoch, correlation=self.correlation):
                outcome = self._run()
                self.seconds = self._monotonic() - began
                log.info("attempt ended", result=outcome.result, seconds=round(self.seconds, 3))
                return outcome
        finally:
            with self._lock:
                self._over = True
                self._pacing.forget(job.job)

    def _run(self) -> Outcome:
        if self.ended_by is not None:
            return reporting.cancelled(self.job, self.live)
        try:
            report = self._run_cycle(self.job, self.live, self._started)
            return reporting.completed(self.job, self.live, report)
        except Exception as error:  # noqa: BLE001 - whatever it is, the control plane is told by a code
            return self._failed(error)

    def _started(self, cycle: Cycle) -> None:
        with self._lock:
            self._cycle, end = cycle, self._end
        if end is not None:
            cycle.cancel(end)

    def _failed(self, error: Exception) -> Outcome:
        if self.ended_by is not None:  # whatever came of being stopped
            log.info("attempt stopped", why=self.ended_by)
            return reporting.cancelled(self.job, self.live)
        problem = reporting.problem_of(error, self.correlation)
        own = {} if problem.correlation == self.correlation else {"peers_correlation": problem.correlation}
        log.error("no recovery point", code=problem.code, problem=str(error), exc_info=_unexpected(error), **own)
        return reporting.failed(self.job, self.live, problem, error)


def is_final(outcome: Outcome) -> bool:
    """Whether another attempt of the same cycle cannot change what it came to."""
    if outcome.result is JobResult.FAILED:
        return outcome.problem is None or outcome.problem.permanent or outcome.problem.code == reporting.DROPPED
    return outcome.result is JobResult.COMPLETED


def _unexpected(error: Exception) -> Exception | None:
    """A fault of ours is logged with its traceback."""
    return None if isinstance(error, DmcoreError) else error
