"""A control plane in memory: an OperatorClient that answers by itself, and lets a test say what happens meanwhile."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from dmcore.api.jobs import JobsReply, JobView
from dmcore.api.nodes import NodesReply
from dmcore.api.operator_client import OperatorClient
from dmcore.api.operators import (
    AuditReply,
    EventsReply,
    Health,
    JoinSpec,
    NewJoin,
    NewToken,
    TokenSpec,
    TokensReply,
    TokenView,
)
from dmcore.api.plans import (
    PlanEdit,
    PlanSpec,
    PlansReply,
    PlanView,
    RunRequest,
    SiteEdit,
    SiteSpec,
    SitesReply,
    SiteView,
    Status,
)
from dmcore.api.points import PointJob, PointShown, PointsReply, PointView
from dmcore.model.enums import Role
from dmcore.model.ids import GroupId, PlanId, PointId
from dmcore.model.jobs import JobKind, JobState
from tests.dmctl.facts import APPLIANCE, CONNECTOR, CONTROL, NOW, a_group, a_job, a_node, a_token, refused


class FakeControl(OperatorClient):
    """All of it is open to a test. `meanwhile` is called with each job that is asked for, and gives it as it is now."""

    def __init__(self, page: int = 500) -> None:
        self.page = page
        self.site_views: dict[str, SiteView] = {}
        self.node_views = [
            a_node(APPLIANCE, Role.APPLIANCE, sources=("vms",)),
            a_node(CONNECTOR, Role.CONNECTOR, targets=("shadows",), recoveries=("standby",)),
        ]
        self.token_views: list[TokenView] = []
        self.plan_views: dict[PlanId, PlanView] = {}
        self.job_views: list[JobView] = []
        self.point_views: list[PointView] = []
        self.about: tuple[PointJob, ...] = ()
        self.event_log = EventsReply(events=(), more=False)
        self.audit_log = AuditReply(entries=(), more=False)
        self.screen = Status(now=NOW, plans=(), nodes=(), queued=0, running=0)
        self.meanwhile: Callable[[JobView], JobView] = lambda job: job
        self.asked: list[tuple[Any, ...]] = []
        self.wrong: Exception | None = None
        self.closed = False

    def _answer(self, *what: Any) -> None:
        self.asked.append(what)
        if self.wrong is not None:
            raise self.wrong

    def health(self) -> Health:
        self._answer("health")
        return Health(control=CONTROL, api="1.0")

    def status(self) -> Status:
        self._answer("status")
        return self.screen

    def sites(self) -> SitesReply:
        self._answer("sites")
        return SitesReply(sites=tuple(self.site_views.values()))

    def create_site(self, spec: SiteSpec) -> SiteView:
        self._answer("create_site", spec)
        if spec.name in self.site_views:
            raise refused("name.taken", f"there is a site {spec.name} already")
        made = SiteView(name=spec.name, limit=spec.limit, appliances=0, connectors=0)
        self.site_views[spec.name] = made
        return made

    def edit_site(self, name: str, edit: SiteEdit) -> SiteView:
        self._answer("edit_site", name, edit)
        self.site_views[name] = self.site_views[name].model_copy(update={"limit": edit.limit})
        return self.site_views[name]

    def create_join(self, spec: JoinSpec) -> NewJoin:
        self._answer("create_join", spec)
        return NewJoin(token="dmj1.secret", expires_at=NOW + timedelta(hours=1))

    def nodes(self) -> NodesReply:
        self._answer("nodes")
        return NodesReply(nodes=tuple(self.node_views))

    def revoke_node(self, node: str) -> None:
        self._answer("revoke_node", node)

    def tokens(self) -> TokensReply:
        self._answer("tokens")
        return TokensReply(tokens=tuple(self.token_views))

    def create_token(self, spec: TokenSpec) -> NewToken:
        self._answer("create_token", spec)
        made = a_token(spec.name, spec.role, expires_at=NOW + timedelta(days=spec.days))
        self.token_views.append(made)
        return NewToken(**made.model_dump(), secret="dmo_secret")

    def revoke_token(self, token: UUID) -> None:
        self._answer("revoke_token", token)

    def plans(self) -> PlansReply:
        self._answer("plans")
        return PlansReply(plans=tuple(self.plan_views.values()))

    def plan(self, plan: PlanId) -> PlanView:
        self._answer("plan", plan)
        return self.plan_views[plan]

    def create_plan(self, spec: PlanSpec) -> PlanView:
        self._answer("create_plan", spec)
        if spec.name in {plan.name for plan in self.plan_views.values()}:
            raise refused("name.taken", f"there is a plan {spec.name} already")
        places = {"site": spec.site or "paris", "connector": spec.connector or CONNECTOR}
        groups = tuple(a_group(machines=(machine,)) for machine in spec.machines)
        facts = spec.model_dump(exclude={"site", "connector"}) | places
        made = PlanView(**facts, id=PlanId(uuid4()), paused=False, created_at=NOW, groups=groups)
        self.plan_views[made.id] = made
        return made

    def edit_plan(self, plan: PlanId, edit: PlanEdit) -> PlanView:
        self._answer("edit_plan", plan, edit)
        return self._changed(plan, **edit.model_dump(exclude_unset=True))

    def delete_plan(self, plan: PlanId) -> None:
        self._answer("delete_plan", plan)
        del self.plan_views[plan]

    def run_plan(self, plan: PlanId, request: RunRequest | None = None) -> JobsReply:
        self._answer("run_plan", plan, request)
        view = self.plan_views[plan]
        made = [a_job(plan=plan, plan_name=view.name, group=each.id, machines=each.machines) for each in view.groups]
        self.job_views = [*made, *self.job_views]
        return JobsReply(jobs=tuple(made), more=False)

    def pause_plan(self, plan: PlanId) -> PlanView:
        self._answer("pause_plan", plan)
        return self._changed(plan, paused=True)

    def resume_plan(self, plan: PlanId) -> PlanView:
        self._answer("resume_plan", plan)
        return self._changed(plan, paused=False)

    def jobs(
        self, *, plan: PlanId | None = None, state: JobState | None = None, kind: JobKind | None = None,
        limit: int | None = None, before: UUID | None = None,
    ) -> JobsReply:  # fmt: skip
        self._answer("jobs", plan, state, kind, limit, before)
        ids = [job.id for job in self.job_views]
        older = self.job_views[ids.index(before) + 1 :] if before else self.job_views
        fitting = [
            job for job in older
            if plan in {None, job.plan} and state in {None, job.state} and kind in {None, job.kind}
        ]  # fmt: skip
        size = min(limit or self.page, self.page)
        return JobsReply(jobs=tuple(fitting[:size]), more=len(fitting) > size)

    def job(self, job: UUID) -> JobView:
        self._answer("job", job)
        for number, each in enumerate(self.job_views):
            if each.id == job:
                self.job_views[number] = self.meanwhile(each)
                return self.job_views[number]
        raise refused("object.unknown", f"there is no job {job}")

    def cancel_job(self, job: UUID) -> JobView:
        self._answer("cancel_job", job)
        number = next(number for number, each in enumerate(self.job_views) if each.id == job)
        waits = self.job_views[number].state is JobState.QUEUED
        update = {"state": JobState.CANCELLED} if waits else {"cancelling": True}
        self.job_views[number] = self.job_views[number].model_copy(update=update)
        return self.job_views[number]

    def points(
        self, *, plan: PlanId | None = None, group: GroupId | None = None,
        limit: int | None = None, before: PointId | None = None,
    ) -> PointsReply:  # fmt: skip
        self._answer("points", plan, group, limit, before)
        ids = [point.id for point in self.point_views]
        older = self.point_views[ids.index(before) + 1 :] if before else self.point_views
        fitting = [point for point in older if plan in {None, point.plan}]
        size = min(limit or self.page, self.page)
        return PointsReply(points=tuple(fitting[:size]), more=len(fitting) > size)

    def point(self, point: PointId) -> PointShown:
        self._answer("point", point)
        found = next((each for each in self.point_views if each.id == point), None)
        if found is None:
            raise refused("object.unknown", f"there is no point {point}")
        return PointShown(**found.model_dump(), jobs=self.about)

    def verify_point(self, point: PointId, *, sample_percent: float | None = None) -> JobView:
        return self._work(JobKind.VERIFY, point, *[] if sample_percent is None else [sample_percent])

    def recover_point(self, point: PointId, to: str) -> JobView:
        return self._work(JobKind.RECOVER, point, to)

    def preserve_point(self, point: PointId, *, preserved: bool) -> JobView:
        return self._work(JobKind.PRESERVE, point, preserved)

    def delete_point(self, point: PointId) -> JobView:
        return self._work(JobKind.EXPIRE, point)

    def rebuild(self, connector: str) -> JobView:
        return self._work(JobKind.INDEX, connector)

    def events(self, *, limit: int | None = None, before: int | None = None) -> EventsReply:
        self._answer("events", limit, before)
        return self.event_log

    def audit(self, *, limit: int | None = None, before: int | None = None) -> AuditReply:
        self._answer("audit", limit, before)
        return self.audit_log

    def close(self) -> None:
        self.closed = True

    def _work(self, kind: JobKind, *what: object) -> JobView:
        self._answer(kind, *what)
        made = a_job(kind=kind, node=CONNECTOR, cycle=None, group=None, machines=())
        self.job_views.insert(0, made)
        return made

    def _changed(self, plan: PlanId, **changes: Any) -> PlanView:
        self.plan_views[plan] = PlanView(**self.plan_views[plan].model_dump() | changes)
        return self.plan_views[plan]

    def add_plan(self, name: str = "web", plan: UUID | None = None, **changes: Any) -> PlanView:
        """As if somebody had made it; with an id of the test's."""
        spec = PlanSpec(name=name, source="vms", target="shadows", machines=("web1", "web2"), rpo_s=300)
        made = self.create_plan(spec)
        del self.plan_views[made.id]
        view = PlanView(**made.model_dump() | {"id": plan or made.id} | changes)
        self.plan_views[view.id] = view
        self.asked.clear()
        return view
