"""Plans over HTTP: resolved, protected, edited, paused, run, deleted."""

from typing import Any

import pytest
from sqlalchemy import select

from dmcore.control.store.database import Database
from dmcore.control.store.tables import groups
from dmcore.model.enums import Role
from tests.control.web_kit import PLAN, HandClock, NodeKit, Web, enrolled

pytestmark = pytest.mark.usefixtures("appliance", "connector")


def created(web: Web, **changes: Any) -> Any:
    answer = web.ask("POST", "/v1/plans", PLAN | changes)
    assert answer.status == 201, answer.body
    return answer.json


def edited(web: Web, plan: Any, **changes: Any) -> Any:
    answer = web.ask("PATCH", f"/v1/plans/{plan['id']}", changes)
    assert answer.status == 200, answer.body
    return answer.json


def machines_of(plan: Any) -> list[list[str]]:
    return sorted(group["machines"] for group in plan["groups"])


def test_a_plan_has_defaults_and_a_group_a_machine(web: Web, clock: HandClock) -> None:
    plan = created(web)
    assert (plan["codec"], plan["group_mode"], plan["paused"], len(plan["retain"])) == ("lz4", "machine", False, 3)
    assert machines_of(plan) == [["web1"], ["web2"]]
    assert {group["next_start"] for group in plan["groups"]} == {clock.now.isoformat().replace("+00:00", "Z")}
    assert web.ask("GET", "/v1/plans").json["plans"] == [plan] == [web.ask("GET", f"/v1/plans/{plan['id']}").json]


def test_a_plan_may_be_one_group(web: Web) -> None:
    plan = created(web, group_mode="plan")
    assert machines_of(plan) == [["web1", "web2"]]
    again = edited(web, plan, machines=["web2", "db"])
    assert machines_of(again) == [["web2", "db"]]
    assert again["groups"][0]["id"] == plan["groups"][0]["id"]


@pytest.mark.parametrize("changes", [{"source": "nowhere"}, {"target": "nowhere"}])
def test_an_alias_that_no_node_has_is_refused(web: Web, changes: dict[str, str]) -> None:
    answer = web.ask("POST", "/v1/plans", PLAN | changes)
    assert (answer.status, answer.code) == (409, "alias.nowhere")
    assert web.ask("GET", "/v1/plans").json["plans"] == []


def test_a_revoked_nodes_aliases_do_not_count(web: Web, connector: NodeKit) -> None:
    web.ask("DELETE", f"/v1/nodes/{connector.id}")
    assert web.ask("POST", "/v1/plans", PLAN).code == "alias.nowhere"
    assert web.ask("POST", "/v1/plans", PLAN | {"connector": connector.id}).code == "object.unknown"


def test_an_alias_in_two_places_must_be_told_apart(web: Web) -> None:
    enrolled(web, Role.APPLIANCE, "rome", sources=["vms"])
    answer = web.ask("POST", "/v1/plans", PLAN)
    assert (answer.status, answer.code) == (409, "alias.ambiguous")
    assert "paris, rome" in answer.json["message"]
    assert created(web, site="rome")["site"] == "rome"
    assert web.ask("POST", "/v1/plans", PLAN | {"site": "oslo"}).code == "object.unknown"


def test_a_target_at_two_connectors_must_be_told_apart(web: Web, connector: NodeKit) -> None:
    others = [enrolled(web, Role.CONNECTOR, "aws", targets=["shadows"]) for _ in range(6)]
    answer = web.ask("POST", "/v1/plans", PLAN)
    assert (answer.code, "and 2 more" in answer.json["message"]) == ("alias.ambiguous", True)
    assert created(web, connector=others[0].id)["connector"] == others[0].id


def test_a_machine_has_one_plan(web: Web) -> None:
    created(web)
    answer = web.ask("POST", "/v1/plans", PLAN | {"name": "other", "machines": ["db", "web2"]})
    assert (answer.status, answer.code) == (409, "machine.protected")
    assert "'web2'" in answer.json["message"]
    assert [plan["name"] for plan in web.ask("GET", "/v1/plans").json["plans"]] == ["shop"]
    other = created(web, name="other", machines=["db"])
    assert web.ask("PATCH", f"/v1/plans/{other['id']}", {"machines": ["web1"]}).code == "machine.protected"


def test_a_name_has_one_plan(web: Web) -> None:
    created(web)
    taken = web.ask("POST", "/v1/plans", PLAN | {"machines": ["db"]})
    assert (taken.status, taken.code) == (409, "name.taken")
    other = created(web, name="other", machines=["db"])
    assert web.ask("PATCH", f"/v1/plans/{other['id']}", {"name": "shop"}).code == "name.taken"
    assert edited(web, other, name="third")["name"] == "third"


def test_an_edit_changes_what_it_names(web: Web) -> None:
    plan = created(web, limit={"bytes_s": 10_000})
    window = {"days": ["mon"], "start": "08:00:00", "end": "18:00:00", "bytes_s": None}
    changed = edited(web, plan, rpo_s=900, codec="zstd", limit={"windows": [window], "bytes_s": 5000})
    assert (changed["rpo_s"], changed["codec"], changed["limit"]["windows"][0]["bytes_s"]) == (900, "zstd", None)
    assert changed["machines"] == plan["machines"]
    assert edited(web, changed) == changed
    assert web.ask("PATCH", f"/v1/plans/{plan['id']}", {"machines": ["a", "a"]}).code == "request.invalid"
    assert web.ask("PATCH", f"/v1/plans/{plan['id']}", {"source": "other"}).code == "request.invalid"


def test_a_machine_that_comes_back_goes_on_with_its_epoch(
    web: Web, appliance: NodeKit, sqlite_database: Database
) -> None:
    plan = created(web, machines=["web1"])
    web.ask("POST", f"/v1/plans/{plan['id']}/run", {})
    assert appliance.poll(sources=["vms"]).json["job"]["epoch"] == 1
    without = edited(web, plan, machines=["web2"])
    assert machines_of(without) == [["web2"]]
    jobs = web.ask("GET", "/v1/jobs").json["jobs"]
    assert [job["cancelling"] for job in jobs] == [True]
    again = edited(web, plan, machines=["web2", "web1"])
    (group,) = [group for group in again["groups"] if group["machines"] == ["web1"]]
    assert (group["id"], group["epoch"]) == (plan["groups"][0]["id"], 1)
    with sqlite_database.read() as connection:
        assert len(connection.execute(select(groups)).all()) == 2


def test_a_paused_plan_starts_nothing(web: Web, appliance: NodeKit) -> None:
    plan = created(web)
    web.ask("POST", f"/v1/plans/{plan['id']}/run", {})
    for _ in range(2):
        paused = web.ask("POST", f"/v1/plans/{plan['id']}/pause").json
    assert paused["paused"]
    assert appliance.poll(sources=["vms"]).json["job"] is None
    assert web.ask("POST", f"/v1/plans/{plan['id']}/run", {}).code == "state.conflict"
    assert not web.ask("POST", f"/v1/plans/{plan['id']}/resume").json["paused"]
    assert appliance.poll(sources=["vms"]).json["job"] is not None


def test_groups_are_run_by_name(web: Web) -> None:
    plan = created(web)
    group = plan["groups"][1]["id"]
    (job,) = web.ask("POST", f"/v1/plans/{plan['id']}/run", {"groups": [group], "resync": "compare"}).json["jobs"]
    assert job["group"] == group
    answer = web.ask("POST", f"/v1/plans/{plan['id']}/run", {"groups": [plan["id"]]})
    assert (answer.status, answer.code) == (404, "object.unknown")


def test_a_plan_is_verified_against_its_source(web: Web, appliance: NodeKit) -> None:
    """What waits does that, too; what an attempt has begun stays what it is."""
    plan = created(web, machines=["web1"])
    run = f"/v1/plans/{plan['id']}/run"
    (waiting,) = web.ask("POST", run, {}).json["jobs"]
    assert not waiting["against_source"]
    (job,) = web.ask("POST", run, {"against_source": True}).json["jobs"]
    assert (job["id"], job["against_source"]) == (waiting["id"], True)
    claimed = appliance.poll(sources=["vms"]).json["job"]
    assert (claimed["job"], claimed["against_source"]) == (job["id"], True)
    assert web.ask("POST", run, {"against_source": True}).json["jobs"][0]["id"] == job["id"]


def test_a_cycle_that_runs_is_not_turned_into_a_verification(web: Web, appliance: NodeKit) -> None:
    plan = created(web)
    run = f"/v1/plans/{plan['id']}/run"
    web.ask("POST", run, {})
    assert not appliance.poll(sources=["vms"]).json["job"]["against_source"]
    answer = web.ask("POST", run, {"against_source": True})
    assert (answer.status, answer.code) == (409, "state.conflict")
    assert not any(job["against_source"] for job in web.ask("GET", "/v1/jobs").json["jobs"])


def test_a_daily_share_to_verify(web: Web, sqlite_database: Database) -> None:
    plan = created(web, verify={"percent_per_day": 1.5})
    assert plan["verify"] == {"percent_per_day": 1.5}
    with sqlite_database.read() as connection:
        assert None not in connection.execute(select(groups.c.sample_at)).scalars().all()
    assert edited(web, plan, rpo_s=900)["verify"] == {"percent_per_day": 1.5}
    assert edited(web, plan, verify={"percent_per_day": 0})["verify"] == {"percent_per_day": 0.0}
    for share in (-1, 100.5, "NaN"):
        refused = web.ask("PATCH", f"/v1/plans/{plan['id']}", {"verify": {"percent_per_day": share}})
        assert refused.code == "request.invalid"


def test_a_deleted_plan_is_gone_and_its_machines_free(web: Web) -> None:
    plan = created(web)
    web.ask("POST", f"/v1/plans/{plan['id']}/run", {})
    assert web.ask("DELETE", f"/v1/plans/{plan['id']}").status == 204
    assert {job["state"] for job in web.ask("GET", "/v1/jobs").json["jobs"]} == {"cancelled"}
    for method, path, body in (
        ("GET", "", None), ("DELETE", "", None), ("PATCH", "", {}), ("POST", "/run", {}), ("POST", "/pause", None),
        ("POST", "/resume", None),
    ):  # fmt: skip
        assert web.ask(method, f"/v1/plans/{plan['id']}{path}", body).code == "object.unknown"
    assert created(web)["id"] != plan["id"]


def test_a_job_is_cancelled(web: Web) -> None:
    plan = created(web, machines=["web1"])
    (job,) = web.ask("POST", f"/v1/plans/{plan['id']}/run", {}).json["jobs"]
    assert web.ask("POST", f"/v1/jobs/{job['id']}/cancel").json["state"] == "cancelled"
    listed = web.ask("GET", f"/v1/jobs?plan={plan['id']}&kind=cycle&limit=1").json
    assert [each["id"] for each in listed["jobs"]] == [job["id"]]


def test_status_and_events_and_audit_are_told(web: Web) -> None:
    created(web)
    screen = web.ask("GET", "/v1/status").json
    assert ([plan["name"] for plan in screen["plans"]], len(screen["nodes"])) == (["shop"], 2)
    assert web.ask("GET", "/v1/events").json == {"events": [], "more": False}
    newest = web.ask("GET", "/v1/audit?limit=1").json
    assert (newest["entries"][0]["action"], newest["entries"][0]["object"], newest["more"]) == (
        "plan.created", "shop", True,
    )  # fmt: skip
    before = web.ask("GET", f"/v1/audit?before={newest['entries'][0]['number']}").json["entries"]
    assert before[0]["number"] == newest["entries"][0]["number"] - 1
