"""One job of the control plane at a connector: run, watched, stopped, and what it came to."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never
from uuid import uuid4

import structlog

from dmcore.api.base import Problem
from dmcore.api.jobs import ConnectorJob, JobResult, Outcome, PointOutcome, PointVerdict, Progress
from dmcore.api.nodes import HeartbeatReply
from dmcore.connector.errors import ClockJumped, ConnectorFault, JobCancelled, JobMalformed, PointBusy, PointKept
from dmcore.connector.keeper import PointKeeper
from dmcore.connector.outbox import Stater, pages
from dmcore.errors import DmcoreError
from dmcore.model.ids import PointId
from dmcore.model.jobs import JobKind
from dmcore.shadow.errors import PointUnknown
from dmcore.shadow.verify import Sample
from dmcore.targets.errors import TargetIOFailed

VERDICTS: dict[type[DmcoreError], PointVerdict] = {
    PointKept: PointVerdict.KEPT,
    PointBusy: PointVerdict.BUSY,
    PointUnknown: PointVerdict.UNKNOWN,
    ClockJumped: PointVerdict.KEPT,
}
DECISIONS = (PointKept, PointBusy, PointUnknown)
"""What may well become of a point that is to expire: the job is done all the same."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Tools:
    """What jobs are done with."""

    keeper: PointKeeper
    client: Stater
    recovery_folder: Callable[[str], Path]
    """From an alias to the folder that this connector's configuration has for it. Raises ConfigurationError."""


class Work:
    """Runs in one thread; the lease keeper's asks and directs it meanwhile."""

    def __init__(self, job: ConnectorJob, tools: Tools) -> None:
        self.job, self._tools = job, tools
        self._stop = threading.Event()
        self._left = False
        self._counter = self._done_bytes = self._total_bytes = 0
        self._points: dict[PointId, PointOutcome] = {}
        self._problem: DmcoreError | None = None

    # The holder of its lease

    def progress(self) -> Progress:
        """How far it is: bytes read, points done."""
        return Progress(counter=self._counter, done_bytes=self._done_bytes, total_bytes=self._total_bytes)

    def directed(self, reply: HeartbeatReply) -> None:
        """A cancel ends it at its next step. There is nothing to pause or to limit."""
        if reply.cancel:
            self._stop.set()

    def lost(self) -> None:
        """Its lease is over, or this process ends: stop at the next step, and leave it to the next attempt."""
        self._left = True
        self._stop.set()

    # Its own thread

    def run(self) -> Outcome | None:
        """Do it. Never raises: what went wrong is in the outcome, as a code, and in the log. None: it was left."""
        try:
            self._run()
        except JobCancelled:
            return None if self._left else self._outcome(JobResult.CANCELLED)
        except Exception as error:  # noqa: BLE001 - whatever it is, the outcome says so
            self._problem = self._problem or _known(error)
        if self._left and self._problem:  # perhaps because it was left
            return None
        return self._outcome(JobResult.FAILED if self._problem else JobResult.COMPLETED)

    def _run(self) -> None:
        kind, keeper = self.job.kind, self._tools.keeper
        if kind is JobKind.INDEX:
            self._index()
        elif kind is JobKind.EXPIRE:
            self._each(keeper.expire)
        elif kind is JobKind.VERIFY:
            sample = self._sample()
            self._total_bytes = keeper.size_of(self.job.points, sample)
            self._each(lambda point: keeper.verify(point, self._advance, sample))
        elif kind is JobKind.PRESERVE:
            self._preserve()
        elif kind is JobKind.RECOVER:
            self._recover()
        else:
            assert_never(kind)

    def _sample(self) -> Sample | None:
        """The same blocks at every attempt."""
        percent = self.job.sample_percent
        return None if percent is None else Sample(percent, self.job.job.bytes)

    def _preserve(self) -> None:
        preserved = self.job.preserved
        if preserved is None:
            raise JobMalformed(job=str(self.job.job), problem="it does not say whether to preserve")
        self._each(lambda point: self._tools.keeper.preserve(point, preserved=preserved))

    def _recover(self) -> None:
        if self.job.to is None:
            raise JobMalformed(job=str(self.job.job), problem="it does not say where to")
        root = self._tools.recovery_folder(self.job.to)
        self._each(lambda point: self._tools.keeper.recover_under(point, root, self.job.job, self._advance))

    def _index(self) -> None:
        for page in pages(self._tools.keeper.facts()):
            self._tools.client.points(page)
            self._count(len(page))

    def _each(self, act: Callable[[PointId], object]) -> None:
        """All points, also when one fails: the first error is the job's."""
        for point in self.job.points:
            with self._judged(point):
                act(point)
            self._count(1)

    @contextmanager
    def _judged(self, point: PointId) -> Iterator[None]:
        try:
            yield
        except JobCancelled:
            raise
        except Exception as error:  # noqa: BLE001 - the same
            known = _known(error)
            if verdict := VERDICTS.get(type(known)):
                until = known.until if isinstance(known, PointKept) else None
                self._points[point] = PointOutcome(point=point, verdict=verdict, kept_until=until)
            if self.job.kind is not JobKind.EXPIRE or not isinstance(known, DECISIONS):
                self._problem = self._problem or known
            log.warning("job's point", **self._ids, point=str(point), code=known.code, problem=str(known))
        else:
            self._points[point] = PointOutcome(point=point, verdict=PointVerdict.DONE)

    def _advance(self, count: int) -> None:
        self._done_bytes += count
        self._count(count)

    def _count(self, count: int) -> None:
        self._counter += count
        if self._stop.is_set():
            raise JobCancelled(job=str(self.job.job))

    def _outcome(self, result: JobResult) -> Outcome:
        return Outcome(
            epoch=self.job.epoch, result=result, problem=self._told(), progress=self.progress(),
            points=tuple(self._points.values()),
        )  # fmt: skip

    def _told(self) -> Problem | None:
        """The problem as it may cross. Its words stay here, in the log, under the same id."""
        error = self._problem
        if error is None:
            return None
        error.correlation = error.correlation or uuid4().hex
        log.error(
            "job failed", **self._ids, code=error.code, problem=str(error), correlation=error.correlation,
            exc_info=error if isinstance(error, ConnectorFault) else None,
        )  # fmt: skip
        return Problem(code=error.code, permanent=error.permanent, correlation=error.correlation)

    @property
    def _ids(self) -> dict[str, str | int]:
        return {"job": str(self.job.job), "kind": self.job.kind, "epoch": self.job.epoch}


def _known(error: Exception) -> DmcoreError:
    if isinstance(error, DmcoreError):
        return error
    if isinstance(error, OSError):
        where, problem = str(error.filename or "connector"), error.strerror or str(error)
        return TargetIOFailed(path=where, operation="job", offset=0, problem=problem)
    fault = ConnectorFault(problem=type(error).__name__, correlation=uuid4().hex)
    fault.__cause__ = error
    return fault
