"""Each method asks its route with its body, and reads its answer."""

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from dmcore.api.base import Message
from dmcore.api.client_errors import ControlAnswerBroken, ControlDenied, ControlRefused
from dmcore.api.http import Transport
from dmcore.api.jobs import JobsReply, JobView, Progress
from dmcore.api.limits import Limit
from dmcore.api.nodes import NodesReply
from dmcore.api.operator_client import OperatorClient
from dmcore.api.operators import (
    AuditReply,
    EventsReply,
    Health,
    JoinSpec,
    NewJoin,
    NewToken,
    OperatorRole,
    TokenSpec,
    TokensReply,
)
from dmcore.api.plans import (
    GroupMode,
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
from dmcore.api.points import PointShown, PointsReply, PointView
from dmcore.api.server_trust import ServerTrust
from dmcore.model.enums import Consistency, Role, Rung
from dmcore.model.ids import CycleId, GroupId, NodeId, PlanId, PointId
from dmcore.model.jobs import JobKind, JobState
from dmcore.model.points import PointState
from tests.api.fake_control import FakeControl, Fault, Refuse

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PLAN, GROUP, CYCLE, POINT = PlanId(UUID(int=1)), GroupId(UUID(int=2)), CycleId(UUID(int=3)), PointId(UUID(int=4))
JOB, TOKEN, NODE = UUID(int=5), UUID(int=6), NodeId("a" * 64)

SITE_SPEC = SiteSpec(name="paris")
PLAN_SPEC = PlanSpec(name="web", source="vms", target="shadows", machines=("web1",), rpo_s=300)
SITE_VIEW = SiteView(name="paris", appliances=1, connectors=0)
PLAN_VIEW = PlanView(
    **PLAN_SPEC.model_dump(exclude={"site", "connector"}), id=PLAN, site="paris", connector=NODE, paused=False,
    created_at=NOW, groups=(),
)  # fmt: skip
JOB_VIEW = JobView(
    id=JOB, kind=JobKind.CYCLE, state=JobState.QUEUED, plan=PLAN, plan_name="web", group=GROUP, machines=("web1",),
    cycle=CYCLE, node=None, epoch=0, attempts=0, offline=False, due_at=NOW, started_at=None, ended_at=None,
    cancelling=False, progress=Progress(), rate_bytes_s=None, eta_s=None, problem=None, point=None, source_time=None,
    seconds={}, points=(),
)  # fmt: skip
JOBS = JobsReply(jobs=(JOB_VIEW,), more=False)
POINT_VIEW = PointView(
    id=POINT, plan=PLAN, group=GROUP, cycle=CYCLE, source_time=NOW, consistency=Consistency.CRASH,
    state=PointState.AVAILABLE, disks=1, connector=NODE,
)  # fmt: skip
NEW_TOKEN = NewToken(
    id=TOKEN, name="ci", role=OperatorRole.VIEWER, created_at=NOW, expires_at=NOW, revoked=False, used_at=None,
    secret="dmo_x",
)  # fmt: skip
POINT_SHOWN = PointShown(**POINT_VIEW.model_dump())
STATUS = Status(now=NOW, plans=(), nodes=(), queued=0, running=0)

Call = Callable[[OperatorClient], object]
CALLS: list[tuple[str, Call, dict[str, Any] | None, Message | None]] = [
    ("GET /v1/health", lambda c: c.health(), None, Health(control=UUID(int=9), api="1.0")),
    ("GET /v1/status", lambda c: c.status(), None, STATUS),
    ("GET /v1/sites", lambda c: c.sites(), None, SitesReply(sites=(SITE_VIEW,))),
    ("POST /v1/sites", lambda c: c.create_site(SITE_SPEC), {"name": "paris"}, SITE_VIEW),
    (
        "PATCH /v1/sites/paris",
        lambda c: c.edit_site("paris", SiteEdit(limit=Limit(bytes_s=2048))),
        {"limit": {"bytes_s": 2048}},
        SITE_VIEW,
    ),
    (
        "POST /v1/joins",
        lambda c: c.create_join(JoinSpec(site="paris", role=Role.CONNECTOR)),
        {"site": "paris", "role": "connector"},
        NewJoin(token="dmj1.x", expires_at=NOW),
    ),
    ("GET /v1/nodes", lambda c: c.nodes(), None, NodesReply(nodes=())),
    (f"DELETE /v1/nodes/{NODE}", lambda c: c.revoke_node(NODE), None, None),
    ("GET /v1/tokens", lambda c: c.tokens(), None, TokensReply(tokens=())),
    (
        "POST /v1/tokens",
        lambda c: c.create_token(TokenSpec(name="ci", role=OperatorRole.VIEWER)),
        {"name": "ci", "role": "viewer"},
        NEW_TOKEN,
    ),
    (f"DELETE /v1/tokens/{TOKEN}", lambda c: c.revoke_token(TOKEN), None, None),
    ("GET /v1/plans", lambda c: c.plans(), None, PlansReply(plans=(PLAN_VIEW,))),
    (f"GET /v1/plans/{PLAN}", lambda c: c.plan(PLAN), None, PLAN_VIEW),
    (
        "POST /v1/plans",
        lambda c: c.create_plan(PLAN_SPEC),
        {"name": "web", "source": "vms", "target": "shadows", "machines": ["web1"], "rpo_s": 300},
        PLAN_VIEW,
    ),
    (f"PATCH /v1/plans/{PLAN}", lambda c: c.edit_plan(PLAN, PlanEdit(rpo_s=60)), {"rpo_s": 60}, PLAN_VIEW),
    (f"DELETE /v1/plans/{PLAN}", lambda c: c.delete_plan(PLAN), None, None),
    (f"POST /v1/plans/{PLAN}/run", lambda c: c.run_plan(PLAN), {}, JOBS),
    (
        f"POST /v1/plans/{PLAN}/run",
        lambda c: c.run_plan(PLAN, RunRequest(groups=(GROUP,), resync=Rung.COMPARE)),
        {"groups": [str(GROUP)], "resync": "compare"},
        JOBS,
    ),
    (f"POST /v1/plans/{PLAN}/pause", lambda c: c.pause_plan(PLAN), None, PLAN_VIEW),
    (f"POST /v1/plans/{PLAN}/resume", lambda c: c.resume_plan(PLAN), None, PLAN_VIEW),
    ("GET /v1/jobs", lambda c: c.jobs(), None, JOBS),
    (f"GET /v1/jobs/{JOB}", lambda c: c.job(JOB), None, JOB_VIEW),
    (f"POST /v1/jobs/{JOB}/cancel", lambda c: c.cancel_job(JOB), None, JOB_VIEW),
    ("GET /v1/points", lambda c: c.points(), None, PointsReply(points=(POINT_VIEW,), more=True)),
    (f"GET /v1/points/{POINT}", lambda c: c.point(POINT), None, POINT_SHOWN),
    (f"POST /v1/points/{POINT}/verify", lambda c: c.verify_point(POINT), None, JOB_VIEW),
    (
        f"POST /v1/points/{POINT}/verify",
        lambda c: c.verify_point(POINT, sample_percent=2.5),
        {"sample_percent": 2.5},
        JOB_VIEW,
    ),
    (
        f"POST /v1/plans/{PLAN}/run",
        lambda c: c.run_plan(PLAN, RunRequest(against_source=True)),
        {"against_source": True},
        JOBS,
    ),
    (f"POST /v1/points/{POINT}/recover", lambda c: c.recover_point(POINT, "spare"), {"to": "spare"}, JOB_VIEW),
    (
        f"POST /v1/points/{POINT}/preserve",
        lambda c: c.preserve_point(POINT, preserved=False),
        {"preserved": False},
        JOB_VIEW,
    ),
    (f"DELETE /v1/points/{POINT}", lambda c: c.delete_point(POINT), None, JOB_VIEW),
    (f"POST /v1/connectors/{NODE}/rebuild", lambda c: c.rebuild(NODE), None, JOB_VIEW),
    ("GET /v1/events", lambda c: c.events(), None, EventsReply(events=(), more=False)),
    ("GET /v1/audit", lambda c: c.audit(), None, AuditReply(entries=(), more=False)),
]


@pytest.fixture
def client(control: FakeControl) -> Iterator[OperatorClient]:
    trust = ServerTrust(fingerprint=control.files.fingerprint)
    with OperatorClient(Transport([control.url], trust), "dmo_secret") as made:
        yield made


@pytest.mark.parametrize(
    ("route", "call", "body", "reply"), CALLS, ids=[f"{c[0][:40]}-{i}" for i, c in enumerate(CALLS)]
)
def test_every_call(
    control: FakeControl, client: OperatorClient, route: str, call: Call, body: object, reply: Message | None
) -> None:
    control.answers[route] = reply
    assert call(client) == reply
    [asked] = control.of(route)
    assert (asked.json if asked.body else None) == body
    assert asked.headers["Authorization"] == "Bearer dmo_secret"


def test_every_public_method_is_in_the_table() -> None:
    methods = {name for name in vars(OperatorClient) if not name.startswith("_")} - {"close"}
    called = {name for _, call, _, _ in CALLS for name in call.__code__.co_names}
    assert methods <= called


def test_questions_are_narrowed_by_what_is_given(control: FakeControl, client: OperatorClient) -> None:
    control.answers |= {"GET /v1/jobs": JOBS, "GET /v1/points": PointsReply(points=(), more=False)}
    control.answers |= {"GET /v1/events": EventsReply(events=(), more=False)}
    client.jobs(plan=PLAN, state=JobState.RUNNING, kind=JobKind.CYCLE, limit=5, before=JOB)
    client.points(group=GROUP, limit=7, before=POINT)
    client.events(before=12)
    assert [each.path for each in control.asked] == [
        f"/v1/jobs?plan={PLAN}&state=running&kind=cycle&limit=5&before={JOB}",
        f"/v1/points?group={GROUP}&limit=7&before={POINT}",
        "/v1/events?before=12",
    ]


def test_a_name_stays_one_part_of_the_path(control: FakeControl, client: OperatorClient) -> None:
    with pytest.raises(ControlAnswerBroken):
        client.edit_site("../tokens?x=1", SiteEdit(limit=Limit()))
    assert [each.path for each in control.asked] == ["/v1/sites/..%2Ftokens%3Fx%3D1"]


def test_without_a_token_none_is_sent(control: FakeControl) -> None:
    control.answers["GET /v1/health"] = Health(control=UUID(int=9), api="1.0")
    with closing(
        OperatorClient(Transport([control.url], ServerTrust(fingerprint=control.files.fingerprint)))
    ) as client:
        client.health()
    assert "Authorization" not in control.asked[0].headers


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Refuse(401, "auth.required"), ControlDenied),
        (Refuse(409, "name.taken", "there is a plan web already"), ControlRefused),
        (Fault.GARBAGE, ControlAnswerBroken),
        (Fault.PAGE_200, ControlAnswerBroken),
        (Fault.PAGE_500, ControlAnswerBroken),
    ],
)
def test_what_is_no_answer(
    control: FakeControl, client: OperatorClient, fault: Fault | Refuse, expected: type[Exception]
) -> None:
    control.faults = [fault]
    with pytest.raises(expected):
        client.create_plan(PLAN_SPEC)


def test_defaults_are_the_control_planes() -> None:
    """What the operator did not say is left to the control plane's own default."""
    assert PLAN_SPEC.group_mode is GroupMode.MACHINE
    assert "group_mode" not in PLAN_SPEC.model_dump(exclude_unset=True)
