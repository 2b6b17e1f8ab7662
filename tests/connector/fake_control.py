"""A control plane as its client shows it to a connector: an object, no network."""

import threading
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

from dmcore.api.client_errors import ControlUnreachable
from dmcore.api.jobs import ConnectorJob, Outcome, Progress
from dmcore.api.limits import NO_LIMIT
from dmcore.api.nodes import HeartbeatReply, PollReply
from dmcore.api.points import PointFact
from dmcore.model.ids import NodeId
from dmcore.model.jobs import JobKind
from dmcore.node.offer import Offer

UNREACHABLE = ControlUnreachable(url="https://control", problem="refused")
HEARTBEAT_S = 0.25


def a_job(kind: JobKind, *points: Any, **changes: Any) -> ConnectorJob:
    return ConnectorJob(job=uuid4(), kind=kind, epoch=1, points=points, **changes)


class FakeNodeClient:
    """What NodeClient does, with jobs that a test hands out. A branch is a client that is closed on its own."""

    def __init__(self, main: "FakeNodeClient | None" = None) -> None:
        self.main = main or self
        self.node, self.closed = NodeId("ab" * 32), False
        self.changed = threading.Condition()
        self.jobs: list[ConnectorJob] = []
        self.offers: list[Offer] = []
        self.outcomes: dict[UUID, Outcome] = {}
        self.heartbeats: dict[UUID, list[Progress]] = {}
        self.cancelled: set[UUID] = set()
        self.stated: list[PointFact] = []
        self.refusal: Exception | None = None
        """What everything is answered with."""
        self.branches: list[FakeNodeClient] = []

    def branch(self) -> "FakeNodeClient":
        made = FakeNodeClient(self.main)
        self.main.branches.append(made)
        return made

    def give(self, *jobs: ConnectorJob) -> None:
        with self.main.changed:
            self.jobs += jobs
            self.main.changed.notify_all()

    def refuse(self, error: Exception | None) -> None:
        """Answer everything so, what waits too; None: no more."""
        with self.main.changed:
            self.main.refusal = error
            self.main.changed.notify_all()

    def outcome_of(self, job: ConnectorJob, timeout_s: float = 20.0) -> Outcome:
        with self.changed:
            assert self.changed.wait_for(lambda: job.job in self.outcomes, timeout_s)
            return self.outcomes[job.job]

    # What a node calls

    def poll(self, offer: Offer, *, plans_version: int = 0, wait_s: float = 0) -> PollReply:
        main = self.main
        with main.changed:
            self._require_open()
            main.offers.append(offer)
            main.changed.notify_all()
            if offer.slots:
                main.changed.wait_for(lambda: self.closed or main.refusal or main.jobs, wait_s)
            self._require_open()
            job = main.jobs.pop(0) if offer.slots and main.jobs else None
        return PollReply(work=job, plans_version=plans_version, heartbeat_s=HEARTBEAT_S)

    def heartbeat(self, job: UUID, epoch: int, progress: Progress) -> HeartbeatReply:
        with self.main.changed:
            self._require_open()
            self.main.heartbeats.setdefault(job, []).append(progress)
            self.main.changed.notify_all()
            cancel = job in self.main.cancelled
        return HeartbeatReply(cancel=cancel, limit=NO_LIMIT, site_limit=NO_LIMIT, heartbeat_s=HEARTBEAT_S)

    def outcome(self, job: UUID, outcome: Outcome) -> None:
        with self.main.changed:
            self._require_open()
            self.main.outcomes[job] = outcome
            self.main.changed.notify_all()

    def points(self, facts: Sequence[PointFact]) -> None:
        with self.main.changed:
            self._require_open()
            self.main.stated += facts
            self.main.changed.notify_all()

    def close(self) -> None:
        with self.main.changed:
            self.closed = True
            self.main.changed.notify_all()

    def _require_open(self) -> None:
        if self.closed:
            raise UNREACHABLE
        if self.main.refusal is not None:
            raise self.main.refusal
