"""A control plane as an object: what a node says to it is written down, what it answers is set by the test."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from dmcore.api.client_errors import ControlRefused, ControlUnreachable
from dmcore.api.jobs import ConnectorJob, Job, Outcome, Progress
from dmcore.api.limits import NO_LIMIT
from dmcore.api.nodes import AssignedPlans, HeartbeatReply, OfflineCycle, PollReply
from dmcore.errors import DmcoreError
from dmcore.node.control_errors import SUPERSEDED
from dmcore.node.offer import Offer

TIMEOUT_S = 20.0
POLL_S = 0.02
GO_ON = HeartbeatReply(limit=NO_LIMIT, site_limit=NO_LIMIT, heartbeat_s=0.25)
NO_PLANS = AssignedPlans(version=1, site_limit=NO_LIMIT, groups=())
AWAY = ControlUnreachable(url="https://control", problem="as if it were off")


def lease_lost() -> ControlRefused:
    return ControlRefused(reason="lease.lost", message="another's", status=409)


@dataclass
class ScriptedControl:
    """All of it under one condition, which tests wait on."""

    assigned: AssignedPlans = NO_PLANS
    reply: HeartbeatReply = GO_ON
    queue: list[Job | ConnectorJob] = field(default_factory=list)
    leased: list[Job | ConnectorJob] = field(default_factory=list)
    lost: set[UUID] = field(default_factory=set)
    beats: dict[UUID, list[Progress]] = field(default_factory=dict)
    outcomes: list[tuple[UUID, Outcome]] = field(default_factory=list)
    reported: list[OfflineCycle] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    offers: list[Offer] = field(default_factory=list)
    refusal: DmcoreError | None = None
    refused: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    # what a test does

    def enqueue(self, *jobs: Job | ConnectorJob) -> None:
        with self.changed:
            self.queue += jobs

    def away(self, why: DmcoreError = AWAY) -> None:
        """Whoever asks gets this, until `back`."""
        with self.changed:
            self.refusal = why

    def back(self) -> None:
        with self.changed:
            self.refusal = None

    def supersede(self) -> None:
        self.away(ControlRefused(reason=SUPERSEDED, message="another process", status=409))

    def wait_for(self, condition: Callable[[], object], what: str = "it") -> None:
        with self.changed:
            assert self.changed.wait_for(condition, TIMEOUT_S), f"{what} never came: {self.said[-20:]}"

    def wait_beats(self, job: UUID, more: int = 2) -> None:
        """So many more heartbeats of a job, whatever was said before."""
        with self.changed:
            wanted = len(self.beats.get(job, ())) + more
        self.wait_for(lambda: len(self.beats.get(job, ())) >= wanted, "a heartbeat")

    def wait_noticed(self) -> None:
        """Somebody was refused."""
        self.wait_for(lambda: self.refused, "a refused call")

    def wait_refused(self, more: int = 3) -> None:
        """So many more calls were refused, whatever was before."""
        with self.changed:
            wanted = self.refused + more
        self.wait_for(lambda: self.refused >= wanted, "a refused call")

    def outcome(self, job: Job) -> Outcome:
        """Waits for a job's."""
        self.wait_for(lambda: self._outcomes(job), "an outcome")
        return self._outcomes(job)[-1]

    def _outcomes(self, job: Job) -> list[Outcome]:
        return [outcome for done, outcome in self.outcomes if done == job.job and outcome.epoch == job.epoch]

    # what a node says

    def _take(self, what: str, act: Callable[[], Any]) -> Any:
        with self.changed:
            self.changed.notify_all()
            if self.refusal is not None:
                self.refused += 1
                raise self.refusal
            self.said.append(what)
            return act()

    def client(self) -> Any:
        """In a `NodeClient`'s place."""
        return ScriptedClient(self)


class ScriptedClient:
    def __init__(self, control: ScriptedControl) -> None:
        self.control, self.incarnation, self.node = control, uuid4(), "0" * 64
        self._closed = threading.Event()

    def branch(self) -> "ScriptedClient":
        return ScriptedClient(self.control)

    def close(self) -> None:
        self._closed.set()

    def poll(self, offer: Offer, *, plans_version: int = 0, wait_s: float = 0) -> PollReply:
        reply: PollReply = self._ask("poll", lambda: self._poll(offer))
        if reply.job is None:
            self._closed.wait(min(wait_s, POLL_S))
        return reply

    def plans(self) -> AssignedPlans:
        found: AssignedPlans = self._ask("plans", lambda: self.control.assigned)
        return found

    def heartbeat(self, job: UUID, epoch: int, progress: Progress) -> HeartbeatReply:
        reply: HeartbeatReply = self._ask("heartbeat", lambda: self._heartbeat(job, progress))
        return reply

    def outcome(self, job: UUID, outcome: Outcome) -> None:
        self._ask("outcome", lambda: self.control.outcomes.append((job, outcome)))

    def offline(self, cycles: Sequence[OfflineCycle]) -> None:
        self._ask("offline", lambda: self.control.reported.extend(cycles))

    def _ask(self, what: str, act: Callable[[], Any]) -> Any:
        if self._closed.is_set():
            raise AWAY
        return self.control._take(what, act)

    def _poll(self, offer: Offer) -> PollReply:
        control = self.control
        control.offers.append(offer)
        fitting = [job for job in control.queue if not isinstance(job, Job) or job.group not in offer.busy]
        if not fitting or not offer.slots:
            return PollReply(plans_version=control.assigned.version, heartbeat_s=0.25)
        job = fitting[0]
        control.queue.remove(job)
        control.leased.append(job)
        named = {"job": job} if isinstance(job, Job) else {"work": job}
        return PollReply(**named, plans_version=control.assigned.version, heartbeat_s=0.25)

    def _heartbeat(self, job: UUID, progress: Progress) -> HeartbeatReply:
        if job in self.control.lost:
            raise lease_lost()
        self.control.beats.setdefault(job, []).append(progress)
        return self.control.reply
