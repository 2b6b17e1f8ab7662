"""Every call that an operator's token is good for, one method each."""

import json
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlencode
from uuid import UUID

from dmcore.api.answers import accepted, content
from dmcore.api.base import Message
from dmcore.api.http import Transport
from dmcore.api.jobs import JobsReply, JobView
from dmcore.api.nodes import NodesReply
from dmcore.api.operators import (
    AuditReply,
    EventsReply,
    Health,
    JoinSpec,
    NewJoin,
    NewToken,
    TokenSpec,
    TokensReply,
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
from dmcore.api.points import PointShown, PointsReply, PreserveRequest, RecoverRequest, VerifyRequest
from dmcore.model.ids import GroupId, PlanId, PointId
from dmcore.model.jobs import JobKind, JobState

Reply = TypeVar("Reply", bound=Message)


class OperatorClient:
    """Asks one control plane with one token; it owns the transport.

    Each method raises ControlUnreachable, ControlAnswerBroken, PinDiffers, ControlUntrusted, or ControlRefused and its
    kinds, whose `code` is what the control plane answered.
    """

    def __init__(self, transport: Transport, token: str = "") -> None:
        """Without a token only `health` is answered."""
        self._transport = transport
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def health(self) -> Health:
        """Who it is. Needs no token."""
        return self._get("/v1/health", Health)

    def status(self) -> Status:
        """One screen: all plans and nodes, page by page."""
        found = page = self._get("/v1/status", Status)
        while (page.plans and page.more_plans) or (page.nodes and page.more_nodes):
            plan, node = found.plans[-1].id if found.plans else None, found.nodes[-1].node if found.nodes else None
            page = self._get("/v1/status", Status, plans_after=plan, nodes_after=node)
            found = page.model_copy(update={"plans": found.plans + page.plans, "nodes": found.nodes + page.nodes})
        return found

    def sites(self) -> SitesReply:
        """All."""
        return self._get("/v1/sites", SitesReply)

    def create_site(self, spec: SiteSpec) -> SiteView:
        """Admin."""
        return self._ask("POST", "/v1/sites", SiteView, spec)

    def edit_site(self, name: str, edit: SiteEdit) -> SiteView:
        """Admin."""
        return self._ask("PATCH", f"/v1/sites/{_part(name)}", SiteView, edit)

    def create_join(self, spec: JoinSpec) -> NewJoin:
        """A join token. Admin."""
        return self._ask("POST", "/v1/joins", NewJoin, spec)

    def nodes(self) -> NodesReply:
        """All, the revoked ones included, page by page."""
        found = page = self._get("/v1/nodes", NodesReply)
        while page.nodes and page.more:
            page = self._get("/v1/nodes", NodesReply, after=page.nodes[-1].node)
            found = page.model_copy(update={"nodes": found.nodes + page.nodes})
        return found

    def revoke_node(self, node: str) -> None:
        """Nothing it signs is accepted any more. Admin."""
        self._do("DELETE", f"/v1/nodes/{_part(node)}")

    def tokens(self) -> TokensReply:
        """All, page by page. Admin."""
        found = page = self._get("/v1/tokens", TokensReply)
        while page.tokens and page.more:
            page = self._get("/v1/tokens", TokensReply, after=page.tokens[-1].id)
            found = page.model_copy(update={"tokens": found.tokens + page.tokens})
        return found

    def create_token(self, spec: TokenSpec) -> NewToken:
        """The one answer that has its secret. Admin."""
        return self._ask("POST", "/v1/tokens", NewToken, spec)

    def revoke_token(self, token: UUID) -> None:
        """Admin."""
        self._do("DELETE", f"/v1/tokens/{token}")

    def plans(self) -> PlansReply:
        """All, page by page."""
        found = page = self._get("/v1/plans", PlansReply)
        while page.plans and page.more:
            page = self._get("/v1/plans", PlansReply, after=page.plans[-1].id)
            found = page.model_copy(update={"plans": found.plans + page.plans})
        return found

    def plan(self, plan: PlanId) -> PlanView:
        """One."""
        return self._get(f"/v1/plans/{plan}", PlanView)

    def create_plan(self, spec: PlanSpec) -> PlanView:
        """Operator."""
        return self._ask("POST", "/v1/plans", PlanView, spec)

    def edit_plan(self, plan: PlanId, edit: PlanEdit) -> PlanView:
        """What the edit leaves out stays. Operator."""
        return self._ask("PATCH", f"/v1/plans/{plan}", PlanView, edit)

    def delete_plan(self, plan: PlanId) -> None:
        """Its points stay. Admin."""
        self._do("DELETE", f"/v1/plans/{plan}")

    def run_plan(self, plan: PlanId, request: RunRequest | None = None) -> JobsReply:
        """Run it now; the jobs that this made, or that were in flight already. Operator."""
        return self._ask("POST", f"/v1/plans/{plan}/run", JobsReply, request or RunRequest())

    def pause_plan(self, plan: PlanId) -> PlanView:
        """Operator."""
        return self._ask("POST", f"/v1/plans/{plan}/pause", PlanView)

    def resume_plan(self, plan: PlanId) -> PlanView:
        """Operator."""
        return self._ask("POST", f"/v1/plans/{plan}/resume", PlanView)

    def jobs(
        self, *, plan: PlanId | None = None, state: JobState | None = None, kind: JobKind | None = None,
        limit: int | None = None, before: UUID | None = None,
    ) -> JobsReply:  # fmt: skip
        """Jobs, newest first; `before` is the last one of the page before."""
        return self._get("/v1/jobs", JobsReply, plan=plan, state=state, kind=kind, limit=limit, before=before)

    def job(self, job: UUID) -> JobView:
        """One."""
        return self._get(f"/v1/jobs/{job}", JobView)

    def cancel_job(self, job: UUID) -> JobView:
        """Cancelled at once if nobody has it, else its node is told. Operator."""
        return self._ask("POST", f"/v1/jobs/{job}/cancel", JobView)

    def points(
        self, *, plan: PlanId | None = None, group: GroupId | None = None,
        limit: int | None = None, before: PointId | None = None,
    ) -> PointsReply:  # fmt: skip
        """Points, newest first; `before` is the last one of the page before."""
        return self._get("/v1/points", PointsReply, plan=plan, group=group, limit=limit, before=before)

    def point(self, point: PointId) -> PointShown:
        """One, with the newest jobs about it."""
        return self._get(f"/v1/points/{point}", PointShown)

    def verify_point(self, point: PointId, *, sample_percent: float | None = None) -> JobView:
        """A job for its connector: read it whole, or a sample of it. Operator."""
        asked = None if sample_percent is None else VerifyRequest(sample_percent=sample_percent)
        return self._ask("POST", f"/v1/points/{point}/verify", JobView, asked)

    def recover_point(self, point: PointId, to: str) -> JobView:
        """A job for its connector: write it to one of its recovery aliases. Operator."""
        return self._ask("POST", f"/v1/points/{point}/recover", JobView, RecoverRequest(to=to))

    def preserve_point(self, point: PointId, *, preserved: bool) -> JobView:
        """A job for its connector: keep it whatever its age, or no more. Operator."""
        return self._ask("POST", f"/v1/points/{point}/preserve", JobView, PreserveRequest(preserved=preserved))

    def delete_point(self, point: PointId) -> JobView:
        """A job for its connector, whose own retention may keep it. Admin."""
        return self._ask("DELETE", f"/v1/points/{point}", JobView)

    def rebuild(self, connector: str) -> JobView:
        """A job for a connector: state all points again. Admin."""
        return self._ask("POST", f"/v1/connectors/{_part(connector)}/rebuild", JobView)

    def events(self, *, limit: int | None = None, before: int | None = None) -> EventsReply:
        """Newest first; below a number."""
        return self._get("/v1/events", EventsReply, limit=limit, before=before)

    def audit(self, *, limit: int | None = None, before: int | None = None) -> AuditReply:
        """Newest first; below a number. Admin."""
        return self._get("/v1/audit", AuditReply, limit=limit, before=before)

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _get(self, path: str, reply: type[Reply], **query: object) -> Reply:
        given = {name: str(value) for name, value in query.items() if value is not None}
        return self._ask("GET", f"{path}?{urlencode(given)}" if given else path, reply)

    def _ask(self, method: str, path: str, reply: type[Reply], message: Message | None = None) -> Reply:
        return content(self._transport.send(method, path, _body(message), self._headers), reply)

    def _do(self, method: str, path: str) -> None:
        accepted(self._transport.send(method, path, headers=self._headers))


def _body(message: Message | None) -> bytes:
    # What was not given is left out, not null: an edit changes only what it names.
    given: dict[str, Any] = message.model_dump(mode="json", exclude_unset=True) if message else {}
    return json.dumps(given).encode() if message else b""


def _part(name: str) -> str:
    return quote(name, safe="")
