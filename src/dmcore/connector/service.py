"""A connector as its control plane sees it: it asks for work, does it in a few threads, and says what came of it.

Nothing of the data plane waits for it, or for the control plane.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import structlog

from dmcore.api.jobs import ConnectorJob, Job, Outcome
from dmcore.api.nodes import AssignedPlans
from dmcore.connector.clock_guard import ClockGuard
from dmcore.connector.keeper import PointKeeper
from dmcore.connector.outbox import Outbox, OutboxSender
from dmcore.connector.work import Tools, Work
from dmcore.errors import DmcoreError
from dmcore.node.aliases import recovery_folder
from dmcore.node.control_client import NodeClient
from dmcore.node.lease import LeaseKeeper
from dmcore.node.offer import Offer
from dmcore.node.settings import ConnectorSettings
from dmcore.node.worker import Worker

THREADS = 3
"""Jobs at a time: a long verification must not hold up a recovery."""

Ended = Callable[[Exception], None]

log = structlog.get_logger()


class JobDesk:
    """Does the worker's jobs in a pool, each under its lease."""

    def __init__(
        self, settings: ConnectorSettings, tools: Tools, leases: LeaseKeeper, guard: ClockGuard, ended: Ended
    ) -> None:
        self._settings, self._tools, self._leases, self._guard, self._ended = settings, tools, leases, guard, ended
        self._lock = threading.Lock()
        self._running: dict[UUID, Work] = {}
        self._stopping = False
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="job")
        self.freed: Callable[[], None] = lambda: None
        """Called when there is room for another job."""

    def offer(self) -> Offer:
        """What this connector has, and how many more jobs it would take."""
        with self._lock:
            slots = max(THREADS - len(self._running), 0)
        return Offer(slots=slots, targets=tuple(self._settings.targets), recoveries=tuple(self._settings.recoveries))

    def start(self, job: Job | ConnectorJob, heartbeat_s: float) -> None:
        """Take a job. One whose earlier attempt is still ending here is left to its lease."""
        if not isinstance(job, ConnectorJob):
            log.error("job refused: this is no appliance", job=str(job.job))
            return
        with self._lock:
            if self._stopping or job.job in self._running:
                return
            work = self._running[job.job] = Work(job, self._tools)
            self._leases.hold(job.job, job.epoch, work, heartbeat_s)
            self._pool.submit(self._run, work)

    def before_poll(self, client: NodeClient) -> None:  # noqa: ARG002 - the worker's protocol
        """Have a look at the clock."""
        self._guard.look()

    def plans(self, assigned: AssignedPlans) -> None:
        """Plans are for appliances."""

    def reached(self) -> None:
        """The control plane answers (again): the worker has said so."""

    def unreachable(self, error: DmcoreError) -> None:
        """It does not: the worker has said so, and nothing here waits for it."""

    def ended(self, error: Exception) -> None:
        """This process must stop."""
        self._ended(error)

    def leave_all(self) -> None:
        """End all jobs at their next step, and leave them to their leases."""
        with self._lock:
            self._stopping = True
            for work in self._running.values():
                work.lost()

    def stop(self) -> None:
        """Do so, and join the threads. Idempotent."""
        self.leave_all()
        self._pool.shutdown(wait=True)

    def _run(self, work: Work) -> None:
        self._end(work.job.job, work.run())
        with self._lock:
            del self._running[work.job.job]
        self.freed()

    def _end(self, job: UUID, outcome: Outcome | None) -> None:
        try:
            if outcome is not None:
                self._leases.finish(job, outcome)
                return
        except OSError as problem:  # it is not durable here, so the job is done once more
            log.error("a job's outcome cannot be kept", job=str(job), problem=str(problem))
        self._leases.abandon(job)


class ConnectorService:
    """Made only where there is an enrolment. Every thread is joined when `stop` returns."""

    def __init__(
        self,
        settings: ConnectorSettings,
        client: NodeClient,
        points: PointKeeper,
        outbox: Outbox,
        guard: ClockGuard,
        ended: Ended,
    ) -> None:
        """Nothing runs yet. `ended` is told why this process must stop. Raises FileBroken."""
        self._stating = client.branch()
        tools = Tools(points, self._stating, lambda alias: recovery_folder(settings, alias))
        self._leases = LeaseKeeper(client, settings.state_dir)
        self._desk = JobDesk(settings, tools, self._leases, guard, ended)
        self._sender = OutboxSender(outbox, self._stating, points.facts)
        self._worker = Worker(client, self._desk, self._leases)
        self._desk.freed = self._worker.wake

    @property
    def reachable(self) -> bool:
        """Whether the control plane answered the last time."""
        return self._worker.reachable

    def start(self) -> None:
        """Say what is to be said, and ask for work."""
        self._leases.start()
        self._sender.start()
        self._worker.start()

    def stop(self) -> None:
        """Ask for no more, leave what runs to its lease, join every thread. Idempotent."""
        self._worker.stop()
        self._desk.leave_all()
        self._stating.close()
        self._desk.stop()
        self._leases.stop()
        self._sender.stop()
