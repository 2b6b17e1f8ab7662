"""The loop in which a node asks for work: one thread, one long poll at a time."""

import threading
import time
from dataclasses import replace
from types import TracebackType
from typing import Protocol, Self

import structlog

from dmcore.api.client_errors import ControlRefused
from dmcore.api.jobs import ConnectorJob, Job
from dmcore.api.nodes import AssignedPlans, PollReply
from dmcore.errors import DmcoreError
from dmcore.node.backoff import Backoff
from dmcore.node.control_client import NodeClient
from dmcore.node.control_errors import SUPERSEDED, NodeReplaced
from dmcore.node.lease import LeaseKeeper
from dmcore.node.offer import Offer

IDLE_WAIT_S = 25.0
BUSY_WAIT_S = 5.0
"""With a cycle under way: when it ends, the next poll must say so before the group's next cycle can come."""
MIN_ROUND_S = 0.5
"""A control plane that never waits is not asked without a pause."""
BETWEEN_JOBS_S = 0.05
"""Nor is one that always has a job: it may be one that this node has, or cannot do."""
MAX_QUIET_S = 15.0
"""A node without a free slot says this often that it lives."""
MAX_UNDELIVERED = 1000
"""A control plane that hands out jobs and does not take what came of them gets no more of it."""

log = structlog.get_logger()


class Desk(Protocol):
    """The part of a node that knows what it has and does the work. All calls come from the worker's thread."""

    def offer(self) -> Offer:
        """What to tell with the next poll."""
        ...

    def start(self, job: Job | ConnectorJob, heartbeat_s: float) -> None:
        """Take a job that is leased to this node. Returns at once: the work has a thread of its own."""
        ...

    def before_poll(self, client: NodeClient) -> None:
        """Tell what must be told before the next poll: cycles run offline. Its errors count as the poll's."""
        ...

    def plans(self, assigned: AssignedPlans) -> None:
        """What this node may run, whenever that has changed. Only if the worker was made `with_plans`."""
        ...

    def reached(self) -> None:
        """The control plane answers (again)."""
        ...

    def unreachable(self, error: DmcoreError) -> None:
        """It does not answer, or refuses this node, since now. Told again when that is for another reason."""
        ...

    def ended(self, error: Exception) -> None:
        """The worker has ended by itself, NodeReplaced or a fault: the process must stop, and say why."""
        ...


class Worker:
    """Polls until it is stopped."""

    def __init__(
        self,
        client: NodeClient,
        desk: Desk,
        keeper: LeaseKeeper,
        *,
        with_plans: bool = False,
        backoff: Backoff | None = None,
    ) -> None:
        """Nothing runs yet. What `keeper` has not delivered is delivered before each poll."""
        self._client, self._desk, self._keeper = client.branch(), desk, keeper
        self._with_plans, self._backoff = with_plans, backoff or Backoff()
        self._plans_version: int | None = None
        self._answers: bool | None = None
        self._wrong = ""
        self._may_have_missed = False
        """An answer was lost, perhaps, and there was a job in it: it is given once more, but not at once."""
        self._stopping, self._woken = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="worker")
        self.error: Exception | None = None
        """Why it ended by itself."""

    @property
    def reachable(self) -> bool:
        """Whether the control plane answered the last time."""
        return bool(self._answers)

    def start(self) -> None:
        """Begin to poll."""
        self._thread.start()

    def wake(self) -> None:
        """The offer is another one: a slot is free. Poll again as soon as the open poll has ended."""
        self._woken.set()

    def stop(self) -> None:
        """Cut the open poll, join the thread. Jobs go on; the client stays open. Idempotent."""
        self._stopping.set()
        self._woken.set()
        self._client.close()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._round()
        except Exception as error:  # noqa: BLE001 - whatever it is, the process must hear of it
            self.error = error
            self._desk.ended(error)

    def _round(self) -> None:
        self._woken.clear()
        began = time.monotonic()
        try:
            self._tell_first()
            offer = self._offer()
            wait_s = self._wait_s(offer)
            reply = self._client.poll(offer, plans_version=self._plans_version or 0, wait_s=wait_s)
        except DmcoreError as error:
            self._failed(error)
            return
        self._answered(reply, offer)
        if wait_s:
            self._may_have_missed = False
        if not offer.slots:
            self._woken.wait(min(max(reply.heartbeat_s, MIN_ROUND_S), MAX_QUIET_S))
        elif reply.job or reply.work:
            self._stopping.wait(BETWEEN_JOBS_S)
        elif wait_s:
            self._woken.wait(max(began + MIN_ROUND_S - time.monotonic(), 0))

    def _offer(self) -> Offer:
        offer = self._desk.offer()
        return replace(offer, slots=0) if self._keeper.undelivered >= MAX_UNDELIVERED else offer

    def _wait_s(self, offer: Offer) -> float:
        if not self._answers or not offer.slots:
            return 0  # whether it answers at all should be known at once
        return BUSY_WAIT_S if offer.busy or self._may_have_missed else IDLE_WAIT_S

    def _tell_first(self) -> None:
        try:
            self._keeper.flush(self._client, self._stopping.is_set)
        except ControlRefused as refused:  # of an outcome; it is tried again, and must not hold up what follows
            if refused.reason == SUPERSEDED:
                raise
        self._desk.before_poll(self._client)

    def _answered(self, reply: PollReply, offer: Offer) -> None:
        if not self._answers:
            log.info("control plane answers")
            self._answers = True
            self._desk.reached()
        if job := reply.job or reply.work:
            self._start(job, reply.heartbeat_s, offer)
        if reply.plans_version == self._plans_version or self._get_plans(reply.plans_version):
            self._backoff.reset()

    def _start(self, job: Job | ConnectorJob, heartbeat_s: float, offer: Offer) -> None:
        if offer.slots:
            self._desk.start(job, heartbeat_s)
        else:  # it would wait here, and more of them without end
            log.error("a job that was not asked for is left to its lease", job=str(job.job))

    def _get_plans(self, version: int) -> bool:
        if not self._with_plans:
            self._plans_version = version  # said back: while it differs, polls do not wait
            return True
        try:
            assigned = self._client.plans()
        except DmcoreError as error:
            self._failed(error)
            return False
        self._desk.plans(assigned)
        self._plans_version = assigned.version
        return True

    def _failed(self, error: DmcoreError) -> None:
        if self._stopping.is_set():
            return
        if isinstance(error, ControlRefused) and error.reason == SUPERSEDED:
            raise NodeReplaced(node=self._client.node) from error
        self._may_have_missed = True
        wrong = error.code if error.permanent else ""  # an outage has many faces, and all mean the same
        if self._answers is not False or wrong != self._wrong:
            log.warning("control plane does not answer as it should", code=error.code, problem=str(error))
            self._answers, self._wrong = False, wrong
            self._desk.unreachable(error)
        self._stopping.wait(self._backoff.next_s())

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
