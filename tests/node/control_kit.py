"""A node that is enrolled at a control plane that tests make."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dmcore.api.jobs import ConnectorJob, Job, JobResult, Outcome, Progress
from dmcore.api.join import JoinToken
from dmcore.api.limits import NO_LIMIT
from dmcore.api.nodes import AssignedPlans, EnrollReply, HeartbeatReply, PollReply
from dmcore.api.server_trust import ServerTrust
from dmcore.errors import DmcoreError
from dmcore.host.clock import Clock, utc_now
from dmcore.model.enums import Role
from dmcore.model.ids import CycleId, GroupId, PlanId
from dmcore.model.jobs import JobKind
from dmcore.model.names import node_id_of
from dmcore.node.backoff import Backoff
from dmcore.node.control_client import NodeClient
from dmcore.node.enrolment import Enrolment
from dmcore.node.identity import Identity, load_identity
from dmcore.node.offer import Offer
from tests.api.fake_control import FakeControl

CONTROL = UUID(int=0xC0)
SITE = "paris"
POLL, PLANS, OFFLINE = "POST /v1/nodes/poll", "GET /v1/nodes/plans", "POST /v1/nodes/offline"
ENROLL, POINTS = "POST /v1/nodes/enroll", "POST /v1/nodes/points"

TICKET_KEY = Ed25519PrivateKey.generate().public_key()
TICKET_PEM = TICKET_KEY.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
TICKET_SHA256 = node_id_of(TICKET_KEY.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))

NOTHING = PollReply(plans_version=0)
GO_ON = HeartbeatReply(limit=NO_LIMIT, site_limit=NO_LIMIT, heartbeat_s=0.25)
NO_PLANS = AssignedPlans(version=0, site_limit=NO_LIMIT, groups=())


def heartbeat(job: UUID) -> str:
    return f"POST /v1/nodes/jobs/{job}/heartbeat"


def outcome_of(job: UUID) -> str:
    return f"POST /v1/nodes/jobs/{job}/outcome"


def completed(epoch: int = 1, **more: Any) -> Outcome:
    return Outcome(epoch=epoch, result=JobResult.COMPLETED, **more)


def new_job(**changes: Any) -> Job:
    made = Job(
        job=uuid4(), ticket="a.b.c", plan=PlanId(uuid4()), group=GroupId(uuid4()), cycle=CycleId(uuid4()), epoch=1,
        connector="0" * 64, machines=("web1",), source="vms", target="shadows",
    )  # fmt: skip
    return made.model_copy(update=changes)


def new_work() -> ConnectorJob:
    return ConnectorJob(job=uuid4(), kind=JobKind.INDEX, epoch=1)


def polled(job: Job | ConnectorJob, plans_version: int = 0) -> PollReply:
    if isinstance(job, Job):
        return PollReply(job=job, plans_version=plans_version, heartbeat_s=0.25)
    return PollReply(work=job, plans_version=plans_version, heartbeat_s=0.25)


def quick() -> Backoff:
    return Backoff(first_s=0.01, cap_s=0.05)


def token_for(server: FakeControl, /, role: Role = Role.APPLIANCE, **changes: Any) -> JoinToken:
    made = JoinToken(
        urls=(server.url,), control=CONTROL, secret="s" * 43, site=SITE, role=role, tls=server.files.fingerprint,
        ticket_key=TICKET_SHA256,
    )  # fmt: skip
    return made.model_copy(update=changes)


def enrolled(identity: Identity, **changes: Any) -> EnrollReply:
    return EnrollReply(control=CONTROL, node=identity.node, ticket_key=TICKET_PEM).model_copy(update=changes)


@dataclass
class Node:
    """Its state directory, key and enrolment."""

    state_dir: Path
    control: FakeControl
    identity: Identity

    @classmethod
    def make(cls, state_dir: Path, control: FakeControl) -> "Node":
        return cls(state_dir, control, load_identity(state_dir))

    @property
    def enrolment(self) -> Enrolment:
        trust = ServerTrust(self.control.files.fingerprint, self.control.files.certificate)
        folder = self.state_dir / "control"
        return Enrolment(CONTROL, (self.control.url,), SITE, Role.APPLIANCE, trust, folder / "ticket.pub")

    def client(self, clock: Clock = utc_now) -> NodeClient:
        return NodeClient(self.enrolment, self.identity, clock)


@dataclass
class TestHolder:
    """Counts what it is told."""

    __test__ = False

    at: Progress = field(default_factory=Progress)
    replies: list[HeartbeatReply] = field(default_factory=list)
    was_lost: threading.Event = field(default_factory=threading.Event)
    times_lost: int = 0
    told: threading.Condition = field(default_factory=threading.Condition)

    def progress(self) -> Progress:
        return self.at

    def directed(self, reply: HeartbeatReply) -> None:
        with self.told:
            self.replies.append(reply)
            self.told.notify_all()

    def wait_told(self, condition: Callable[[HeartbeatReply], bool]) -> None:
        with self.told:
            assert self.told.wait_for(lambda: any(map(condition, self.replies)), 10), "never told so"

    def lost(self) -> None:
        self.times_lost += 1
        self.was_lost.set()


@dataclass
class TestDesk:
    """A node's work that only writes down what it was given."""

    __test__ = False

    offered: Offer = field(default_factory=Offer)
    first: Callable[[NodeClient], None] = lambda _: None
    told: list[str] = field(default_factory=list)
    jobs: list[Job | ConnectorJob] = field(default_factory=list)
    assigned: list[AssignedPlans] = field(default_factory=list)
    errors: list[DmcoreError] = field(default_factory=list)
    fault: Exception | None = None
    why_ended: Exception | None = None
    changed: threading.Condition = field(default_factory=threading.Condition)

    def offer(self) -> Offer:
        return self.offered

    def start(self, job: Job | ConnectorJob, heartbeat_s: float) -> None:
        if self.fault:
            raise self.fault
        self._tell("start", lambda: self.jobs.append(job))

    def before_poll(self, client: NodeClient) -> None:
        self.first(client)

    def plans(self, assigned: AssignedPlans) -> None:
        self._tell("plans", lambda: self.assigned.append(assigned))

    def reached(self) -> None:
        self._tell("reached", lambda: None)

    def unreachable(self, error: DmcoreError) -> None:
        self._tell("unreachable", lambda: self.errors.append(error))

    def ended(self, error: Exception) -> None:
        self.why_ended = error
        self._tell("ended", lambda: None)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, 10), f"never came; told: {self.told}"

    def _tell(self, what: str, keep: Callable[[], None]) -> None:
        with self.changed:
            keep()
            self.told.append(what)
            self.changed.notify_all()


def at(moment: datetime) -> Clock:
    return lambda: moment.astimezone(UTC)
