"""The clients against a real control plane, over real TLS: each message is what the other side expects."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from dmcore.api.client_errors import ControlDenied, ControlRefused, PinDiffers
from dmcore.api.http import Transport
from dmcore.api.jobs import ConnectorJob, Job, JobResult, JobView, Outcome, PointOutcome, PointVerdict, Progress
from dmcore.api.limits import Limit
from dmcore.api.nodes import OfflineCycle
from dmcore.api.operator_client import OperatorClient
from dmcore.api.operators import Action, EventKind, JoinSpec, OperatorRole, TokenSpec
from dmcore.api.plans import PlanEdit, PlanSpec, PlanView, SiteEdit, SiteSpec
from dmcore.api.points import PointFact
from dmcore.api.server_trust import ServerTrust
from dmcore.api.tickets import verify_ticket
from dmcore.control.plane import initialise
from dmcore.control.server import ControlServer
from dmcore.control.settings import ControlPlaneSettings, LeaseSettings
from dmcore.host.address import Address
from dmcore.host.clock import Clock, utc_now
from dmcore.model.enums import Consistency, Role, Stage
from dmcore.model.ids import point_id
from dmcore.model.jobs import JobKind, JobState
from dmcore.model.points import PointState
from dmcore.node.control_client import NodeClient
from dmcore.node.control_errors import NodeReplaced
from dmcore.node.enrolment import Enrolment, enroll
from dmcore.node.identity import Identity, load_identity
from dmcore.node.lease import LeaseKeeper
from dmcore.node.offer import Offer
from dmcore.node.worker import Worker
from tests.node.control_kit import TestDesk, TestHolder, quick

SITES = {Role.APPLIANCE: "paris", Role.CONNECTOR: "aws"}
OFFERS = {
    Role.APPLIANCE: Offer(slots=2, sources=("vms",)),
    Role.CONNECTOR: Offer(slots=2, targets=("shadows",), recoveries=("spare",)),
}
PLAN = PlanSpec(name="web", source="vms", target="shadows", machines=("web1",), rpo_s=3600)


@dataclass
class LiveNode:
    """A whole node, but for its data plane."""

    identity: Identity
    enrolment: Enrolment
    client: NodeClient
    desk: TestDesk
    keeper: LeaseKeeper
    worker: Worker

    def job(self, number: int = 1) -> Job:
        self.desk.wait_for(lambda: len(self.desk.jobs) >= number)
        found = self.desk.jobs[number - 1]
        assert isinstance(found, Job)
        return found

    def work(self, number: int = 1) -> ConnectorJob:
        self.desk.wait_for(lambda: len(self.desk.jobs) >= number)
        found = self.desk.jobs[number - 1]
        assert isinstance(found, ConnectorJob)
        return found

    def hold(self, job: Job | ConnectorJob) -> TestHolder:
        holder = TestHolder(Progress(stage=Stage.TRANSFER, counter=1, done_bytes=10, total_bytes=20))
        self.keeper.hold(job.job, job.epoch, holder, 0.25)
        return holder


@dataclass
class Deployment:
    """A control plane and its admin."""

    folder: Path
    server: ControlServer
    admin: OperatorClient
    undo: ExitStack

    @property
    def url(self) -> str:
        return f"https://{self.server.address}"

    @property
    def trust(self) -> ServerTrust:
        return ServerTrust(fingerprint=self.server.plane.certificate.fingerprint)

    def operator(self, token: str) -> OperatorClient:
        return self.undo.enter_context(OperatorClient(Transport([self.url], self.trust), token))

    def node(self, role: Role, clock: Clock = utc_now, offer: Offer | None = None) -> LiveNode:
        state_dir, site = self.folder / role, SITES[role]
        identity = load_identity(state_dir)
        token = self.admin.create_join(JoinSpec(site=site, role=role)).token
        enrolment = enroll(token, identity, site, role, state_dir, clock=clock)
        return self.process(role, identity, enrolment, clock, offer)

    def process(
        self, role: Role, identity: Identity, enrolment: Enrolment, clock: Clock = utc_now, offer: Offer | None = None
    ) -> LiveNode:
        """One more process of a node."""
        client = NodeClient(enrolment, identity, clock)
        self.undo.callback(client.close)
        keeper = self.undo.enter_context(LeaseKeeper(client, self.folder / role, backoff=quick()))
        desk = TestDesk(offered=offer or OFFERS[role])
        worker = Worker(client, desk, keeper, with_plans=role is Role.APPLIANCE, backoff=quick())
        return LiveNode(identity, enrolment, client, desk, keeper, self.undo.enter_context(worker))

    def wait_job(self, job: UUID, *states: JobState) -> None:
        deadline = utc_now() + timedelta(seconds=15)
        while (found := self.admin.job(job).state) not in states:
            assert utc_now() < deadline, f"{job} is {found}"


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Deployment]:
    settings = ControlPlaneSettings(
        state_dir=tmp_path / "control", listen=Address("127.0.0.1", 0),
        leases=LeaseSettings(lease_s=10, heartbeat_s=0.5, tick_s=0.1),
    )  # fmt: skip
    token = initialise(settings).secret
    with ControlServer(settings) as server, ExitStack() as undo:
        trust = ServerTrust(fingerprint=server.plane.certificate.fingerprint)
        admin = undo.enter_context(OperatorClient(Transport([f"https://{server.address}"], trust), token))
        made = Deployment(tmp_path, server, admin, undo)
        for site in SITES.values():
            made.admin.create_site(SiteSpec(name=site))
        yield made


@pytest.fixture
def both(control: Deployment) -> tuple[LiveNode, LiveNode]:
    """An appliance and a connector that have told what they have."""
    appliance, connector = control.node(Role.APPLIANCE), control.node(Role.CONNECTOR)
    appliance.desk.wait_for(lambda: "reached" in appliance.desk.told)
    connector.desk.wait_for(lambda: "reached" in connector.desk.told)
    return appliance, connector


def completed(job: Job, **more: Any) -> Outcome:
    return Outcome(
        epoch=job.epoch, result=JobResult.COMPLETED, point=point_id(job.cycle, job.group), source_time=utc_now(), **more
    )


def fact(job: Job) -> PointFact:
    return PointFact(
        id=point_id(job.cycle, job.group), plan=job.plan, group=job.group, cycle=job.cycle, source_time=utc_now(),
        consistency=Consistency.CRASH, state=PointState.AVAILABLE, disks=1, revision=1,
    )  # fmt: skip


class TestTour:
    """From a plan to its points, as nodes and operators see it."""

    @pytest.fixture
    def plan(self, control: Deployment, both: tuple[LiveNode, LiveNode]) -> PlanView:
        return control.admin.create_plan(PLAN)

    def test_a_cycle(self, control: Deployment, both: tuple[LiveNode, LiveNode], plan: PlanView) -> None:
        appliance, connector = both
        job = appliance.job()
        key = load_pem_public_key(appliance.enrolment.ticket_key_path.read_bytes())
        assert isinstance(key, Ed25519PublicKey)
        ticket = verify_ticket(key, job.ticket, utc_now())
        assert (ticket.node, ticket.connector) == (appliance.identity.node, connector.identity.node)
        assert (ticket.cycle, ticket.epoch, job.machines) == (job.cycle, job.epoch, ("web1",))
        holder = appliance.hold(job)
        control.wait_job(job.job, JobState.RUNNING)
        assert control.admin.job(job.job).progress.done_bytes == 10
        appliance.keeper.finish(job.job, completed(job))
        control.wait_job(job.job, JobState.COMPLETED)
        connector.client.points([fact(job)])
        [point] = control.admin.points(plan=plan.id).points
        assert (point.id, point.connector) == (point_id(job.cycle, job.group), connector.identity.node)
        shown = control.admin.point(point.id)
        assert shown.model_dump(exclude={"jobs"}) == point.model_dump()
        assert [each.job for each in shown.jobs] == [job.job]
        assert control.admin.points(before=point.id).points == ()
        assert control.admin.jobs(plan=plan.id, state=JobState.COMPLETED, kind=JobKind.CYCLE, limit=5).jobs
        assert control.admin.jobs(before=job.job).jobs == ()
        assert holder.times_lost == 0

    def test_a_cancelled_cycle_and_the_next(
        self, control: Deployment, both: tuple[LiveNode, LiveNode], plan: PlanView
    ) -> None:
        appliance, _ = both
        job = appliance.job()
        holder = appliance.hold(job)
        control.wait_job(job.job, JobState.RUNNING)
        assert control.admin.cancel_job(job.job).cancelling
        holder.wait_told(lambda reply: reply.cancel)
        appliance.keeper.finish(job.job, Outcome(epoch=job.epoch, result=JobResult.CANCELLED))
        control.wait_job(job.job, JobState.CANCELLED)
        [made] = control.admin.run_plan(plan.id).jobs
        again = appliance.job(2)
        assert (again.job, again.epoch > job.epoch) == (made.id, True)

    def test_pauses_and_limits_reach_a_running_job(
        self, control: Deployment, both: tuple[LiveNode, LiveNode], plan: PlanView
    ) -> None:
        appliance, _ = both
        holder = appliance.hold(appliance.job())
        assert control.admin.pause_plan(plan.id).paused
        holder.wait_told(lambda reply: reply.pause)
        assert not control.admin.resume_plan(plan.id).paused
        control.admin.edit_plan(plan.id, PlanEdit(limit=Limit(bytes_s=1 << 20)))
        control.admin.edit_site("paris", SiteEdit(limit=Limit(bytes_s=2 << 20)))
        holder.wait_told(lambda reply: reply.limit.bytes_s == 1 << 20 and reply.site_limit.bytes_s == 2 << 20)
        appliance.desk.wait_for(lambda: appliance.desk.assigned[-1].site_limit.bytes_s == 2 << 20)
        [group] = appliance.desk.assigned[-1].groups
        assert (group.plan, group.rpo_s, group.limit.bytes_s) == (plan.id, 3600, 1 << 20)

    def test_a_connectors_jobs(self, control: Deployment, both: tuple[LiveNode, LiveNode], plan: PlanView) -> None:
        appliance, connector = both
        job = appliance.job()
        appliance.keeper.finish(job.job, completed(job))
        control.wait_job(job.job, JobState.COMPLETED)
        connector.client.points([fact(job)])
        point = point_id(job.cycle, job.group)
        admin = control.admin
        asked: list[tuple[JobKind, Callable[[], JobView]]] = [
            (JobKind.VERIFY, lambda: admin.verify_point(point)),
            (JobKind.RECOVER, lambda: admin.recover_point(point, "spare")),
            (JobKind.PRESERVE, lambda: admin.preserve_point(point, preserved=True)),
            (JobKind.EXPIRE, lambda: admin.delete_point(point)),
            (JobKind.INDEX, lambda: admin.rebuild(connector.identity.node)),
        ]
        for number, (kind, ask) in enumerate(asked, start=1):
            made, work = ask(), connector.work(number)
            assert (work.job, work.kind, made.kind) == (made.id, kind, kind)
            verdicts = () if kind is JobKind.INDEX else (PointOutcome(point=point, verdict=PointVerdict.DONE),)
            connector.keeper.finish(work.job, Outcome(epoch=work.epoch, result=JobResult.COMPLETED, points=verdicts))
            control.wait_job(work.job, JobState.COMPLETED)
        assert connector.work(2).to == "spare"
        assert connector.work(3).preserved is True

    def test_cycles_that_were_run_offline(
        self, control: Deployment, both: tuple[LiveNode, LiveNode], plan: PlanView
    ) -> None:
        appliance, _ = both
        job, now = appliance.job(), utc_now()
        appliance.keeper.finish(job.job, completed(job))
        control.wait_job(job.job, JobState.COMPLETED)
        cycle = OfflineCycle(
            plan=job.plan, group=job.group, base_cycle=job.cycle, successor=1, started_at=now, ended_at=now,
            outcome=Outcome(epoch=job.epoch, result=JobResult.COMPLETED),
        )  # fmt: skip
        appliance.client.offline([cycle])
        appliance.client.offline([cycle])
        found = control.admin.jobs(plan=plan.id).jobs
        assert sorted(each.offline for each in found) == [False, True]

    def test_the_rest(self, control: Deployment, both: tuple[LiveNode, LiveNode], plan: PlanView) -> None:
        admin, (appliance, connector) = control.admin, both
        assert admin.health().control == appliance.enrolment.control
        assert {node.node for node in admin.nodes().nodes} == {appliance.identity.node, connector.identity.node}
        assert {site.name for site in admin.sites().sites} == set(SITES.values())
        assert [each.id for each in admin.plans().plans] == [plan.id]
        assert admin.plan(plan.id).machines == ("web1",)
        assert admin.status().plans[0].id == plan.id
        viewer = admin.create_token(TokenSpec(name="ci", role=OperatorRole.VIEWER))
        assert "ci" in {token.name for token in admin.tokens().tokens}
        looking = control.operator(viewer.secret)
        assert looking.plans() == admin.plans()
        with pytest.raises(ControlRefused) as refused:
            looking.delete_plan(plan.id)
        assert refused.value.reason == "auth.role"
        admin.revoke_token(viewer.id)
        with pytest.raises(ControlDenied):
            looking.status()
        with pytest.raises(ControlRefused) as missing:
            admin.job(uuid4())
        assert missing.value.status == 404
        admin.delete_plan(plan.id)
        assert admin.plans().plans == ()
        assert admin.events(limit=5).events == ()
        first = admin.audit(limit=1).entries[0]
        assert first.action is Action.PLAN_DELETED
        assert admin.audit(before=first.number).entries[0].number < first.number


class TestTrust:
    def test_a_join_token_is_good_once(self, control: Deployment) -> None:
        spec = JoinSpec(site="paris", role=Role.APPLIANCE)
        token = control.admin.create_join(spec).token
        for name in ("one", "two"):
            state_dir = control.folder / name
            identity = load_identity(state_dir)
            if name == "one":
                enroll(token, identity, "paris", Role.APPLIANCE, state_dir)
                continue
            with pytest.raises(ControlDenied) as refused:
                enroll(token, identity, "paris", Role.APPLIANCE, state_dir)
            assert refused.value.reason == "join.refused"

    def test_a_pin_that_differs_sends_nothing(self, control: Deployment) -> None:
        transport = Transport([control.url], ServerTrust(fingerprint="0" * 64))
        with OperatorClient(transport, "dmo_x") as client, pytest.raises(PinDiffers):
            client.status()

    @pytest.mark.parametrize("minutes", [10, -10])
    def test_a_nodes_clock_that_is_off(self, control: Deployment, minutes: int) -> None:
        clock = lambda: utc_now() + timedelta(minutes=minutes)  # noqa: E731 - a clock
        node = control.node(Role.APPLIANCE, clock)
        node.desk.wait_for(lambda: "reached" in node.desk.told)
        assert abs(node.client.signer.skew + timedelta(minutes=minutes)) < timedelta(seconds=5)
        kinds = {event.kind for event in control.admin.events().events}
        assert EventKind.CLOCK_SKEWED in kinds

    def test_a_revoked_node_is_refused_and_asks_on(self, control: Deployment) -> None:
        node = control.node(Role.CONNECTOR)
        node.desk.wait_for(lambda: "reached" in node.desk.told)
        control.admin.revoke_node(node.identity.node)
        with pytest.raises(ControlDenied) as refused:
            node.client.plans()
        assert refused.value.reason == "node.unknown"
        assert node.worker.error is None

    def test_a_cloned_node_stops(self, control: Deployment) -> None:
        """The process that polled last is the node; the other one hears of it with its next word, and ends."""
        original = control.node(Role.APPLIANCE, offer=Offer(slots=0, sources=("vms",)))
        original.desk.wait_for(lambda: "reached" in original.desk.told)
        clone = control.process(Role.APPLIANCE, original.identity, original.enrolment)
        clone.desk.wait_for(lambda: "reached" in clone.desk.told)
        original.worker.wake()
        original.desk.wait_for(lambda: "ended" in original.desk.told)
        assert isinstance(original.desk.why_ended, NodeReplaced)
        assert clone.desk.why_ended is None
        assert EventKind.NODE_CLONED in {event.kind for event in control.admin.events().events}
