"""What a node says to the control plane, signed, with its clock's error taken out."""

from collections.abc import Callable, Sequence
from typing import TypeVar
from uuid import UUID, uuid4

import structlog

from dmcore.api.base import MAX_BODY_BYTES, Message
from dmcore.api.client_errors import ControlRefused
from dmcore.api.http import Transport
from dmcore.api.jobs import Outcome, Progress
from dmcore.api.nodes import (
    MAX_OFFLINE,
    AssignedPlans,
    HeartbeatReply,
    HeartbeatRequest,
    OfflineCycle,
    OfflineReport,
    OutcomeRequest,
    PollReply,
    PollRequest,
)
from dmcore.api.points import MAX_POINTS, PointFact, PointsReport
from dmcore.host.clock import Clock, utc_now
from dmcore.node.enrolment import Enrolment
from dmcore.node.identity import Identity
from dmcore.node.offer import Offer
from dmcore.node.signed import SignedCalls, Signer
from dmcore.node.version import OWN_VERSION

HEARTBEAT_TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 4 << 20
"""All that an appliance may be told of its plans, and far more than any other answer."""
REFUSED_AS_THEY_ARE = frozenset({413, 422})
"""What is answered so is not taken from anybody, ever."""
POLL_MARGIN_S = 15.0
"""What an answer to a poll may take beyond the wait that was asked for."""

LOGGED_CHARACTERS = 500

Told = TypeVar("Told", bound=Message)

log = structlog.get_logger()


class NodeClient:
    """Every call of one process of a node. Any thread may use it.

    Each raises ControlUnreachable, ControlAnswerBroken, PinDiffers, ControlUntrusted, or ControlRefused and its kinds.
    """

    def __init__(
        self, enrolment: Enrolment, identity: Identity, clock: Clock = utc_now, *, main: "NodeClient | None" = None
    ) -> None:
        """Nothing is connected yet. Close it in the end. `main` is for `branch`."""
        self.node = identity.node
        self.incarnation: UUID = main.incarnation if main else uuid4()
        self.signer: Signer = main.signer if main else Signer(identity, enrolment.control, clock)
        self._enrolment = enrolment
        self._transport = Transport(enrolment.urls, enrolment.trust, max_answer_bytes=MAX_ANSWER_BYTES)
        self._calls = SignedCalls(self._transport, self.signer)

    def branch(self) -> "NodeClient":
        """The same process with connections of its own, to be closed on its own: who waits on them can be cut off."""
        return NodeClient(self._enrolment, self.signer.identity, self.signer.clock, main=self)

    def poll(self, offer: Offer, *, plans_version: int = 0, wait_s: float = 0) -> PollReply:
        """Ask for work, and wait up to `wait_s` for some."""
        request = PollRequest(
            incarnation=self.incarnation, version=OWN_VERSION, sources=offer.sources, targets=offer.targets,
            recoveries=offer.recoveries, busy=offer.busy, slots=offer.slots, plans_version=plans_version, wait_s=wait_s,
        )  # fmt: skip
        return self._calls.ask("POST", "/v1/nodes/poll", PollReply, request, wait_s + POLL_MARGIN_S)

    def plans(self) -> AssignedPlans:
        """All plans that this node may run."""
        return self._calls.ask("GET", "/v1/nodes/plans", AssignedPlans)

    def heartbeat(self, job: UUID, epoch: int, progress: Progress) -> HeartbeatReply:
        """Say that a job is still held, and get directives. A refusal `lease.lost`: it is held no more."""
        request = HeartbeatRequest(incarnation=self.incarnation, epoch=epoch, progress=progress)
        if _too_long(request):
            request = request.model_copy(update={"progress": _in_total(progress)})
        return self._calls.ask("POST", f"/v1/nodes/jobs/{job}/heartbeat", HeartbeatReply, request, HEARTBEAT_TIMEOUT_S)

    def outcome(self, job: UUID, outcome: Outcome) -> None:
        """Say what an attempt came to. Saying it again changes nothing."""
        request = OutcomeRequest(incarnation=self.incarnation, outcome=outcome)
        if _too_long(request):
            request = request.model_copy(update={"outcome": without_disks(outcome)})
        self._calls.tell("POST", f"/v1/nodes/jobs/{job}/outcome", request)

    def points(self, facts: Sequence[PointFact]) -> None:
        """State points, as many as there are. Stating one again changes nothing."""
        for first in range(0, len(facts), MAX_POINTS):
            self._each_or_all(facts[first : first + MAX_POINTS], self._state)

    def offline(self, cycles: Sequence[OfflineCycle]) -> None:
        """Report cycles that were run without a control plane, as many as there are. Again changes nothing."""
        for first in range(0, len(cycles), MAX_OFFLINE):
            self._each_or_all(cycles[first : first + MAX_OFFLINE], self._report)

    def _state(self, facts: Sequence[PointFact]) -> None:
        self._calls.tell("POST", "/v1/nodes/points", PointsReport(points=tuple(facts)))

    def _report(self, cycles: Sequence[OfflineCycle]) -> None:
        report = OfflineReport(cycles=tuple(cycles))
        if _too_long(report) and len(cycles) > 1:
            self._report(cycles[: len(cycles) // 2])
            self._report(cycles[len(cycles) // 2 :])
            return
        if _too_long(report):
            report = OfflineReport(cycles=(cycles[0].model_copy(update={"outcome": without_disks(cycles[0].outcome)}),))
        self._calls.tell("POST", "/v1/nodes/offline", report)

    def _each_or_all(self, told: Sequence[Told], tell: Callable[[Sequence[Told]], None]) -> None:
        """All at once; or, where that is refused for what is in it, all but what is at fault, which is logged.

        One that is never taken must not be in the way of the others, nor of all that this node says afterwards.
        """
        try:
            tell(told)
        except ControlRefused as refused:
            if refused.status not in REFUSED_AS_THEY_ARE:
                raise
            if len(told) == 1:
                log.error(
                    "the control plane does not take this",
                    what=told[0].model_dump_json()[:LOGGED_CHARACTERS],
                    code=refused.code,
                )
                return
            for half in (told[: len(told) // 2], told[len(told) // 2 :]):
                self._each_or_all(half, tell)

    def close(self) -> None:
        """Cut what is under way, in whatever thread; every later call fails at once. Idempotent."""
        self._transport.close()


def without_disks(outcome: Outcome) -> Outcome:
    """An outcome that fits one message, whatever the number of disks."""
    return outcome.model_copy(update={"progress": _in_total(outcome.progress)})


def _in_total(progress: Progress) -> Progress:
    return progress.model_copy(update={"disks": ()})


def _too_long(message: Message) -> bool:
    return len(message.model_dump_json()) > MAX_BODY_BYTES
