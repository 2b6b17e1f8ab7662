"""Signatures that were used are remembered by one process. What another one, or one that has just started, takes again
does no harm: it changes nothing, or what the next word of the node puts right.
"""

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import select

from dmcore.control.queue.claims import UNHEARD_S
from dmcore.control.store.database import Database
from dmcore.control.store.tables import events, groups, jobs, nodes, points
from dmcore.model.enums import Role
from dmcore.model.points import PointState
from tests.control.queue_kit import DESK
from tests.control.schedule_kit import changed, fact
from tests.control.web_kit import PLAN, Answer, HandClock, NodeKit, Web, encoded, make_plane

TOUCHED = {
    nodes: {"seen_at", "statement"},
    points: {"stated_at", "statement"},
    jobs: {"lease_until", "leased_at", "counter_at"},
    groups: set(),
    events: set(),
}
"""When the node last said so is all that a replay may change."""


@dataclass
class Said:
    """A request as it went over the wire."""

    method: str
    path: str
    body: bytes
    header: str

    def to(self, web: Web) -> Answer:
        return web.send(self.method, self.path, self.body, headers={"Authorization": self.header})


@dataclass
class Wire:
    """Somebody who has recorded what a node said, and says it to a control plane that has just started."""

    web: Web
    database: Database
    clock: HandClock

    def say(self, node: NodeKit, path: str, body: object) -> tuple[Said, Answer]:
        data = encoded(body)
        said = Said("POST", path, data, node.signature("POST", path, data))
        return said, said.to(self.web)

    def replay(self, said: Said) -> Answer:
        return said.to(Web(make_plane(self.database, self.clock, DESK)))

    def rows(self) -> Any:
        with self.database.read() as connection:
            return [
                connection.execute(
                    select(*(column for column in table.c if column.name not in left_out)).order_by(*table.primary_key)
                ).all()
                for table, left_out in TOUCHED.items()
            ]  # fmt: skip

    def changes_nothing(self, said: Said, status: int) -> None:
        before = self.rows()
        assert self.replay(said).status == status
        assert self.rows() == before


@pytest.fixture
def wire(web: Web, sqlite_database: Database, clock: HandClock) -> Wire:
    return Wire(web, sqlite_database, clock)


@pytest.fixture
def job(web: Web, appliance: NodeKit, connector: NodeKit) -> Any:
    """Leased to the appliance."""
    assert connector.id
    plan = web.ask("POST", "/v1/plans", PLAN | {"machines": ["web1"]}).json
    web.ask("POST", f"/v1/plans/{plan['id']}/run", {})
    return appliance.poll(sources=["vms"]).json["job"]


def of(node: NodeKit, **more: Any) -> dict[str, Any]:
    return {"incarnation": str(node.incarnation)} | more


def test_the_same_process_takes_nothing_twice(wire: Wire, appliance: NodeKit) -> None:
    said, first = wire.say(appliance, "/v1/nodes/poll", appliance.poll_body())
    assert (first.status, said.to(wire.web).code) == (200, "auth.signature")


def test_an_enrolment_changes_nothing_and_brings_no_revoked_node_back(wire: Wire, web: Web) -> None:
    web.ask("POST", "/v1/sites", {"name": "paris"})
    node = NodeKit(web, Role.APPLIANCE)
    said, _ = wire.say(node, "/v1/nodes/enroll", node.enroll_request(node.join_token()))
    wire.changes_nothing(said, 200)
    web.ask("DELETE", f"/v1/nodes/{node.id}")
    wire.changes_nothing(said, 403)


def test_a_poll_that_got_a_job_gets_no_other(wire: Wire, web: Web, appliance: NodeKit, connector: NodeKit) -> None:
    assert connector.id
    plan = web.ask("POST", "/v1/plans", PLAN).json
    web.ask("POST", f"/v1/plans/{plan['id']}/run", {"groups": [plan["groups"][0]["id"]]})
    said, first = wire.say(appliance, "/v1/nodes/poll", appliance.poll_body(sources=["vms"]))
    assert first.json["job"]
    wire.changes_nothing(said, 200)


def test_a_job_that_a_replayed_poll_got_is_its_nodes_a_moment_later(
    wire: Wire, web: Web, clock: HandClock, appliance: NodeKit, connector: NodeKit
) -> None:
    """Under the same epoch. Its ticket is of no use to who got it: the connector wants the node's certificate."""
    said, first = wire.say(appliance, "/v1/nodes/poll", appliance.poll_body(sources=["vms"]))
    work, _ = wire.say(connector, "/v1/nodes/poll", connector.poll_body(targets=["shadows"]))
    assert first.json["job"] is None
    plan = web.ask("POST", "/v1/plans", PLAN | {"machines": ["web1"]}).json
    web.ask("POST", f"/v1/plans/{plan['id']}/run", {})
    web.ask("POST", f"/v1/connectors/{connector.id}/rebuild")
    stolen = [wire.replay(said).json["job"], wire.replay(work).json["work"]]
    clock.forward(UNHEARD_S)
    heard = [appliance.poll(sources=["vms"]).json["job"], connector.poll(targets=["shadows"]).json["work"]]
    assert [(each["job"], each["epoch"]) for each in heard] == [(each["job"], each["epoch"]) for each in stolen]


def test_a_poll_of_an_earlier_process_is_refused(wire: Wire, web: Web, appliance: NodeKit) -> None:
    said, _ = wire.say(appliance, "/v1/nodes/poll", appliance.poll_body(sources=["vms"]))
    restarted = NodeKit(web, appliance.role, key=appliance.key)
    assert restarted.poll(sources=["vms"]).status == 200
    assert wire.replay(said).code == "node.superseded"


def test_a_heartbeat_keeps_a_lease_no_longer_than_it_is_fresh_itself(
    wire: Wire, appliance: NodeKit, clock: HandClock, job: Any
) -> None:
    body = of(appliance, epoch=job["epoch"], progress={"counter": 5})
    said, _ = wire.say(appliance, f"/v1/nodes/jobs/{job['job']}/heartbeat", body)
    wire.changes_nothing(said, 200)
    clock.forward(120)
    assert wire.replay(said).code == "clock.skewed"


@pytest.mark.parametrize(
    "outcome", [{"result": "completed"}, {"result": "failed"}, {"result": "cancelled"}], ids=lambda each: each["result"]
)
def test_an_outcome_is_taken_once(wire: Wire, appliance: NodeKit, job: Any, outcome: dict[str, Any]) -> None:
    """And whatever was said of that attempt before is refused after it."""
    path = f"/v1/nodes/jobs/{job['job']}"
    earlier, _ = wire.say(appliance, f"{path}/heartbeat", of(appliance, epoch=job["epoch"], progress={}))
    said, _ = wire.say(appliance, f"{path}/outcome", of(appliance, outcome=outcome | {"epoch": job["epoch"]}))
    wire.changes_nothing(said, 204)
    wire.changes_nothing(earlier, 409)


def test_an_outcome_of_an_earlier_lease_is_refused(wire: Wire, appliance: NodeKit, clock: HandClock, job: Any) -> None:
    body = of(appliance, outcome={"result": "cancelled", "epoch": job["epoch"]})
    said, _ = wire.say(appliance, f"/v1/nodes/jobs/{job['job']}/outcome", body)
    clock.forward(1)
    assert appliance.poll(sources=["vms"]).json["job"]["epoch"] == job["epoch"] + 1
    wire.changes_nothing(said, 409)


def test_points_do_not_go_back(wire: Wire, connector: NodeKit) -> None:
    said = fact(at=wire.clock.now)
    body = {"points": [said.model_dump(mode="json")]}
    recorded, first = wire.say(connector, "/v1/nodes/points", body)
    assert first.status == 204
    wire.changes_nothing(recorded, 204)
    later = {"points": [changed(said, state=PointState.EXPIRED).model_dump(mode="json")]}
    wire.say(connector, "/v1/nodes/points", later)
    wire.changes_nothing(recorded, 204)


def test_an_offline_cycle_is_kept_once(wire: Wire, appliance: NodeKit, job: Any) -> None:
    cycle = {name: job[name] for name in ("plan", "group")} | {
        "base_cycle": job["cycle"], "successor": 1, "started_at": wire.clock.now.isoformat(),
        "ended_at": wire.clock.now.isoformat(),
        "outcome": {"epoch": job["epoch"], "result": "completed", "point": str(uuid4()),
                    "source_time": wire.clock.now.isoformat()},
    }  # fmt: skip
    said, first = wire.say(appliance, "/v1/nodes/offline", {"cycles": [cycle]})
    assert first.status == 204
    wire.changes_nothing(said, 204)


def test_every_call_of_a_node_is_one_of_these(web: Web) -> None:
    document = web.app.openapi()["paths"]
    posts = {path for path, methods in document.items() if "post" in methods and path.startswith("/v1/nodes/")}
    assert posts == {
        "/v1/nodes/enroll", "/v1/nodes/poll", "/v1/nodes/points", "/v1/nodes/offline",
        "/v1/nodes/jobs/{job}/heartbeat", "/v1/nodes/jobs/{job}/outcome",
    }  # fmt: skip
