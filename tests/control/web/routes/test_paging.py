"""No answer is without an end: lists come in pages, and what a job has a thousand of is told one job at a time."""

import json
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import insert

from dmcore.api.http import Answer as ClientAnswer
from dmcore.api.jobs import DiskTotals, JobResult, Outcome, Progress
from dmcore.api.operator_client import OperatorClient
from dmcore.api.operators import OperatorRole
from dmcore.control.store.database import Database
from dmcore.control.store.tables import nodes
from dmcore.model.enums import Reason, Role, Rung
from dmcore.model.ids import DiskId
from tests.control.web_kit import PLAN, HandClock, NodeKit, Web, enrolled

pytestmark = pytest.mark.usefixtures("appliance", "connector")


class Straight:
    """A transport that goes straight in."""

    def __init__(self, web: Web) -> None:
        self.web = web
        self.paths: list[str] = []

    def send(self, method: str, path: str, _body: bytes = b"", headers: Any = None) -> ClientAnswer:
        self.paths.append(path)
        found = self.web.send(method, path, headers=dict(headers))
        return ClientAnswer(url=path, status=found.status, body=found.body, date=None)


@pytest.fixture
def straight(web: Web) -> Straight:
    return Straight(web)


@pytest.fixture
def client(web: Web, straight: Straight) -> OperatorClient:
    return OperatorClient(straight, web.tokens[OperatorRole.ADMIN])  # type: ignore[arg-type]


def made(web: Web, count: int) -> list[str]:
    """Plans, not in the order of their names."""
    names = [f"plan {number:02}" for number in range(count)]
    for name in reversed(names):
        assert web.ask("POST", "/v1/plans", PLAN | {"name": name, "machines": [name]}).status == 201
    return names


def test_plans_come_by_name_and_page(web: Web) -> None:
    names = made(web, 5)
    listed: list[Any] = []
    for _ in range(3):
        after = f"&after={listed[-1]['id']}" if listed else ""
        page = web.ask("GET", f"/v1/plans?limit=2{after}").json
        listed += page["plans"]
    assert [plan["name"] for plan in listed] == names
    assert page["more"] is False


def test_a_page_goes_on_behind_a_plan_that_was_deleted_meanwhile(web: Web) -> None:
    made(web, 3)
    first = web.ask("GET", "/v1/plans?limit=2").json
    assert first["more"]
    last = first["plans"][-1]["id"]
    web.ask("DELETE", f"/v1/plans/{last}")
    for path in (f"/v1/plans?after={last}", f"/v1/status?plans_after={last}"):
        assert [plan["name"] for plan in web.ask("GET", path).json["plans"]] == ["plan 02"]


@pytest.mark.parametrize(
    "path",
    ["/v1/plans?after={id}", "/v1/tokens?after={id}", "/v1/nodes?after={node}", "/v1/status?plans_after={id}",
     "/v1/status?nodes_after={node}"],
)  # fmt: skip
def test_behind_what_never_was_there_is_nothing(web: Web, path: str) -> None:
    answer = web.ask("GET", path.format(id=uuid4(), node="0" * 64))
    assert (answer.status, answer.code) == (404, "object.unknown")


@pytest.mark.parametrize("path", ["plans", "nodes", "tokens", "status"])
def test_nobody_gets_more_than_a_page(web: Web, path: str) -> None:
    for limit in ("0", "501", "x"):
        assert web.ask("GET", f"/v1/{path}?limit={limit}").code == "request.invalid"


def test_the_first_answer_has_an_end_whatever_there_is(web: Web, sqlite_database: Database, clock: HandClock) -> None:
    site, fresh = "paris", {"public_key": b"", "version": "1.0", "enrolled_at": clock.now, "role": Role.APPLIANCE}
    with sqlite_database.write() as connection:
        rows = [{"id": f"{number:064x}", "site": site, **fresh} for number in range(600)]
        connection.execute(insert(nodes), rows)
    assert (len(web.ask("GET", "/v1/nodes").json["nodes"]), web.ask("GET", "/v1/nodes").json["more"]) == (500, True)
    screen = web.ask("GET", "/v1/status").json
    assert (len(screen["nodes"]), screen["more_nodes"], screen["more_plans"]) == (500, True, False)


def test_a_client_gets_all_of_it(
    web: Web, client: OperatorClient, straight: Straight, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = made(web, 5)
    for _ in range(3):
        enrolled(web, Role.APPLIANCE, "rome")
    for module in ("plans.plan_views", "reports.status", "access.enrolment", "access.operators"):
        monkeypatch.setattr(f"dmcore.control.{module}.MAX_LISTED", 2)
    assert [plan.name for plan in client.plans().plans] == names
    assert (len({node.node for node in client.nodes().nodes}), len(client.nodes().nodes)) == (5, 5)
    assert sorted(token.name for token in client.tokens().tokens) == ["the admin", "the operator", "the viewer"]
    screen = client.status()
    assert [plan.name for plan in screen.plans] == names
    assert len({node.node for node in screen.nodes}) == len(screen.nodes) == 5
    assert (screen.more_plans, screen.more_nodes) == (False, False)
    assert len(straight.paths) == 3 + 3 + 3 + 2 + 3


def test_an_empty_page_that_says_more_ends_it(straight: Straight, client: OperatorClient) -> None:
    """Whatever answers so, nobody waits for it for ever."""
    empty = {"now": "2026-03-01T12:00:00Z", "queued": 0, "running": 0, "more_plans": True, "more_nodes": True}
    bodies = {"/v1/status": empty | {"plans": [], "nodes": []}}
    bodies |= {f"/v1/{name}": {name: [], "more": True} for name in ("plans", "nodes", "tokens")}
    straight.send = lambda _, path, *__: ClientAnswer(path, 200, json.dumps(bodies[path]).encode(), None)  # type: ignore[method-assign]
    assert (client.plans().plans, client.nodes().nodes, client.tokens().tokens) == ((), (), ())
    assert client.status().plans == ()


def test_a_list_of_jobs_leaves_out_their_disks(web: Web, appliance: NodeKit) -> None:
    plan = web.ask("POST", "/v1/plans", PLAN | {"machines": ["web1"]}).json
    (job,) = web.ask("POST", f"/v1/plans/{plan['id']}/run", {}).json["jobs"]
    leased = appliance.poll(sources=["vms"]).json["job"]
    disks = (DiskTotals(disk=DiskId(uuid4()), rung=Rung.SEED, reason=Reason.NO_IMAGE, read_bytes=7),)
    outcome = Outcome(epoch=leased["epoch"], result=JobResult.COMPLETED, progress=Progress(done_bytes=7, disks=disks))
    body = {"incarnation": str(appliance.incarnation), "outcome": outcome.model_dump(mode="json")}
    assert appliance.ask("POST", f"/v1/nodes/jobs/{job['id']}/outcome", body).status == 204
    (listed,) = web.ask("GET", "/v1/jobs").json["jobs"]
    shown = web.ask("GET", f"/v1/jobs/{job['id']}").json
    assert (listed["progress"]["done_bytes"], listed["progress"]["disks"]) == (7, [])
    assert shown["progress"]["disks"][0]["read_bytes"] == 7
