"""Nodes: enrolled, told of, revoked; what they poll and say over HTTP."""

from typing import Any
from uuid import uuid4

from sqlalchemy import select

from dmcore.api.jobs import ConnectorJob
from dmcore.api.nodes import PollReply
from dmcore.api.operators import EventKind
from dmcore.control.plane import Plane
from dmcore.control.store.database import Database
from dmcore.control.store.tables import events
from tests.control.web_kit import PLAN, HandClock, NodeKit, Web


def test_a_poll_tells_what_a_node_has(web: Web, appliance: NodeKit, clock: HandClock) -> None:
    (view,) = web.ask("GET", "/v1/nodes").json["nodes"]
    assert view["sources"] == ["vms"]
    assert view["live"]
    clock.forward(5)
    appliance.poll(slots=0, sources=["vms", "more"])
    (view,) = web.ask("GET", "/v1/nodes").json["nodes"]
    assert view["sources"] == ["vms", "more"]
    clock.forward(90)
    assert not web.ask("GET", "/v1/nodes").json["nodes"][0]["live"]


def test_the_older_process_of_a_node_must_stop(web: Web, appliance: NodeKit, sqlite_database: Database) -> None:
    older, appliance.incarnation = appliance.incarnation, uuid4()
    assert appliance.poll(slots=0).status == 200
    newer, appliance.incarnation = appliance.incarnation, older
    for _ in range(2):
        answer = appliance.poll(slots=0)
        assert (answer.status, answer.code) == (409, "node.superseded")
    appliance.incarnation = newer
    assert appliance.poll(slots=0).status == 200
    with sqlite_database.read() as connection:
        rows = connection.execute(select(events.c.node).where(events.c.kind == EventKind.NODE_CLONED)).scalars().all()
    assert rows == [appliance.id]  # once


def test_a_cycle_goes_from_plan_to_outcome(web: Web, appliance: NodeKit, connector: NodeKit) -> None:
    plan = web.ask("POST", "/v1/plans", PLAN).json
    assert (plan["site"], plan["connector"]) == ("paris", connector.id)
    made = web.ask("POST", f"/v1/plans/{plan['id']}/run", {}).json["jobs"]
    assert [job["state"] for job in made] == ["queued", "queued"]
    again = web.ask("POST", f"/v1/plans/{plan['id']}/run", {}).json["jobs"]
    assert [job["id"] for job in again] == [job["id"] for job in made]
    reply = PollReply.model_validate(appliance.poll(sources=["vms"]).json)
    assert reply.job is not None
    assert reply.job.connector == connector.id
    path = f"/v1/nodes/jobs/{reply.job.job}"
    beat = {"incarnation": str(appliance.incarnation), "epoch": 1, "progress": {"counter": 7}}
    assert appliance.ask("POST", f"{path}/heartbeat", beat).json["heartbeat_s"] == 15
    assert connector.ask("POST", f"{path}/heartbeat", beat).code == "lease.lost"
    done = {"incarnation": str(appliance.incarnation), "outcome": {"epoch": 1, "result": "completed"}}
    assert appliance.ask("POST", f"{path}/outcome", done).status == 204
    assert web.ask("GET", f"/v1/jobs/{reply.job.job}").json["state"] == "completed"
    assert len(web.ask("GET", "/v1/jobs?state=queued").json["jobs"]) == 1


def test_a_point_is_verified_recovered_and_let_go_by_its_connector(web: Web, connector: NodeKit, plane: Plane) -> None:
    point = str(uuid4())
    fact = {
        "id": point, "plan": str(uuid4()), "group": str(uuid4()), "cycle": str(uuid4()), "disks": 1,
        "source_time": plane.clock().isoformat(), "consistency": "crash", "state": "available",
    }  # fmt: skip
    assert connector.ask("POST", "/v1/nodes/points", {"points": [fact]}).status == 204
    assert [each["id"] for each in web.ask("GET", "/v1/points").json["points"]] == [point]
    assert web.ask("GET", f"/v1/points/{point}").json["connector"] == connector.id
    asked: list[tuple[str, str, Any, str]] = [
        ("POST", "/verify", {"sample_percent": 5}, "verify"), ("POST", "/verify", None, "verify"),
        ("POST", "/recover", {"to": "standby"}, "recover"),
        ("POST", "/preserve", {"preserved": True}, "preserve"), ("DELETE", "", None, "expire"),
    ]  # fmt: skip
    for method, path, body, kind in asked:
        answer = web.ask(method, f"/v1/points/{point}{path}", body)
        assert (answer.status, answer.json["kind"]) == (202, kind)
    work = [PollReply.model_validate(connector.poll().json).work for _ in asked]
    assert {each and each.kind for each in work} == {kind for *_, kind in asked}
    assert {each.sample_percent for each in work if isinstance(each, ConnectorJob)} == {5.0, None}
    assert web.ask("POST", f"/v1/points/{point}/recover", {"to": "nowhere"}).code == "alias.nowhere"
    web.ask("DELETE", f"/v1/nodes/{connector.id}")
    assert web.ask("POST", f"/v1/points/{point}/verify").code == "object.unknown"


def test_the_index_is_rebuilt_by_a_connector(web: Web, appliance: NodeKit, connector: NodeKit) -> None:
    assert web.ask("POST", f"/v1/connectors/{connector.id}/rebuild").json["kind"] == "index"
    assert web.ask("POST", f"/v1/connectors/{appliance.id}/rebuild").code == "object.unknown"


def test_cycles_run_offline_are_taken_in(web: Web, appliance: NodeKit, connector: NodeKit, clock: HandClock) -> None:
    plan = web.ask("POST", "/v1/plans", PLAN).json
    cycle = {
        "plan": plan["id"], "group": plan["groups"][0]["id"], "base_cycle": str(uuid4()), "successor": 1,
        "started_at": clock.now.isoformat(), "ended_at": clock.now.isoformat(),
        "outcome": {"epoch": 1, "result": "completed"},
    }  # fmt: skip
    assert appliance.ask("POST", "/v1/nodes/offline", {"cycles": [cycle]}).status == 204
    assert [job["offline"] for job in web.ask("GET", "/v1/jobs").json["jobs"]] == [True]


def test_assigned_plans_have_another_version_when_something_changes(
    web: Web, appliance: NodeKit, connector: NodeKit
) -> None:
    def assigned() -> Any:
        return appliance.ask("GET", "/v1/nodes/plans").json

    versions = [assigned()["version"]]
    plan = web.ask("POST", "/v1/plans", PLAN).json["id"]
    found = assigned()
    assert sorted(group["machines"] for group in found["groups"]) == [["web1"], ["web2"]]
    versions.append(found["version"])
    changes: list[tuple[str, str, Any]] = [
        ("PATCH", f"/v1/plans/{plan}", {"rpo_s": 600}),
        ("PATCH", f"/v1/plans/{plan}", {"limit": {"bytes_s": 10_000}}),
        ("PATCH", f"/v1/plans/{plan}", {"machines": ["web1"]}),
        ("POST", f"/v1/plans/{plan}/pause", None),
        ("PATCH", "/v1/sites/paris", {"limit": {"bytes_s": 5000}}),
    ]
    for method, path, body in changes:
        assert web.ask(method, path, body).status == 200
        versions.append(assigned()["version"])
    assert len(set(versions)) == len(versions)
    assert assigned()["version"] == versions[-1]
    assert connector.ask("GET", "/v1/nodes/plans").json == {
        "version": 0, "site_limit": {"bytes_s": None, "windows": [], "zone": "UTC"}, "groups": [],
    }  # fmt: skip


def test_a_poll_with_an_old_version_of_the_plans_does_not_wait(web: Web, appliance: NodeKit) -> None:
    answer = appliance.poll(sources=["vms"], plans_version=1, wait_s=30)
    assert answer.json["plans_version"] not in {0, 1}
