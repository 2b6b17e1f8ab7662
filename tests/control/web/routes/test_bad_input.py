"""What strangers send: it is refused by the name of the field, and never repeated in an answer or a log."""

import json
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from tests.control.web_kit import PLAN, NodeKit, Web

ID = "00000000-0000-4000-8000-000000000001"
CANARY = "canary"
BAD_NAMES = [
    f"../{CANARY}", f"{CANARY}/x", f"{CANARY}\\x", f"{CANARY}\x00", f"{CANARY}\n", f"\x1b[31m{CANARY}", "",
    CANARY * 1700, f"{CANARY}é", f"\u202e{CANARY}", f"{CANARY}\ud800", " " + CANARY, f"<b>{CANARY}</b>", f"{CANARY}%2f",
]  # fmt: skip
FIELDS: list[tuple[str, str, dict[str, Any], str]] = [
    ("POST", "/v1/sites", {}, "name"),
    ("POST", "/v1/sites", {"name": "paris"}, "limit.zone"),
    ("POST", "/v1/joins", {"role": "appliance"}, "site"),
    ("POST", "/v1/joins", {"site": "paris"}, "role"),
    ("POST", "/v1/tokens", {"role": "viewer"}, "name"),
    *(("POST", "/v1/plans", PLAN, field) for field in ("name", "source", "target", "site", "connector", "codec")),
    ("POST", "/v1/plans", PLAN, "machines.0"),
    ("PATCH", f"/v1/plans/{ID}", {}, "name"),
    ("POST", f"/v1/plans/{ID}/run", {}, "groups.0"),
    ("POST", f"/v1/points/{ID}/recover", {}, "to"),
]


def with_value(body: dict[str, Any], field: str, value: object) -> dict[str, Any]:
    head, _, rest = field.partition(".")
    if not rest:
        return body | {head: value}
    return body | {head: [value] if rest == "0" else {rest: value}}


@pytest.mark.parametrize(("method", "path", "body", "field"), FIELDS, ids=lambda part: str(part)[:20])
def test_a_bad_name_is_refused_everywhere(web: Web, method: str, path: str, body: dict[str, Any], field: str) -> None:
    with capture_logs() as lines:
        for name in BAD_NAMES:
            answer = web.ask(method, path, with_value(body, field, name))
            assert (answer.status, answer.code) == (422, "request.invalid"), name
            assert f"body.{field}" in answer.json["message"]
            assert CANARY not in answer.body.decode()
    assert lines
    assert CANARY not in repr(lines)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PATCH", "/v1/sites/{}"), ("DELETE", "/v1/nodes/{}"), ("DELETE", "/v1/tokens/{}"), ("GET", "/v1/plans/{}"),
        ("GET", "/v1/jobs/{}"), ("GET", "/v1/points/{}"), ("POST", "/v1/connectors/{}/rebuild"),
        ("GET", "/v1/jobs?plan={}"), ("GET", "/v1/jobs?state={}"), ("GET", "/v1/points?before={}"),
        ("GET", "/v1/jobs?limit={}"), ("GET", "/v1/events?before={}"), ("GET", "/{}"), ("GET", "/v1/sites/{}/x"),
    ],
)  # fmt: skip
def test_a_bad_path_or_query_is_refused(web: Web, method: str, path: str) -> None:
    with capture_logs() as lines:
        for name in (f"..{CANARY}", f"{CANARY}\x07", CANARY * 1700, f"{CANARY}-0!", f"-1{CANARY}"):
            answer = web.ask(method, path.format(name), {"limit": {}})
            assert answer.status in {404, 422}
            assert CANARY not in answer.body.decode()
    assert CANARY not in repr(lines)


def test_an_unknown_field_is_refused_without_its_name(web: Web) -> None:
    with capture_logs() as lines:
        for path, body in (("/v1/sites", {"name": "paris"}), ("/v1/sites", {"name": "paris", "limit": {}})):
            answer = web.ask("POST", path, body | {CANARY: 1})
            assert (answer.status, answer.code) == (422, "request.invalid")
            assert CANARY not in answer.body.decode()
    assert CANARY not in repr(lines)
    assert (
        web.ask("POST", "/v1/sites", {"name": "paris", "limit": {CANARY: 1}}).json["message"].startswith("body.limit:")
    )


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b'"x"', b"null", b"\xff\xfe", b"[" * 100_000, b'{"name":' * 20_000, b"NaN", b'{"name": 1e999}'],
)
def test_what_is_no_message_is_refused(web: Web, body: bytes) -> None:
    answer = web.ask("POST", "/v1/sites", body)
    assert (answer.status, answer.code) in {(400, "request.unreadable"), (422, "request.invalid")}


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "\x00"])
def test_another_content_type_is_refused(web: Web, kind: str) -> None:
    answer = web.ask("POST", "/v1/sites", {"name": "paris"}, headers={"Content-Type": kind})
    assert (answer.status, answer.code) == (422, "request.invalid")


@pytest.mark.parametrize("asked", ["2.0", "1.1", "0.9", "1", "1.x", "", "1.0.0", "1.\u0661", "x" * 9000, "1.-1"])
def test_another_version_of_the_api_is_refused(web: Web, asked: str) -> None:
    answer = web.ask("GET", "/v1/health", headers={"Dmcore-Api": asked.encode().decode("latin-1")})
    assert (answer.status, answer.code) == (426, "api.version")
    assert len(answer.body) < 500


def test_an_unknown_path_tells_nothing(web: Web) -> None:
    for path in ("/", "/v1", "/v1/sites/", "/v2/sites", "/metrics", "/docs/", "/redoc"):
        answer = web.ask("GET", path)
        assert (answer.status, answer.code) == (404, "route.unknown"), path


def test_our_version_is_served(web: Web) -> None:
    answer = web.ask("GET", "/v1/health", headers={"Dmcore-Api": "1.0"})
    assert (answer.status, answer.headers["dmcore-api"]) == (200, "1.0")


def test_times_at_the_ends_of_the_calendar_are_refused(web: Web, connector: NodeKit) -> None:
    for time in (
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "1969-12-31T23:59:59Z",
        "2026-01-01T00:00:00",
    ):
        fact = {
            "id": ID, "plan": ID, "group": ID, "cycle": ID, "disks": 1, "source_time": time, "consistency": "crash",
            "state": "available",
        }  # fmt: skip
        assert connector.ask("POST", "/v1/nodes/points", {"points": [fact]}).code == "request.invalid"


def test_a_nodes_strings_are_refused_as_an_operators(appliance: NodeKit) -> None:
    with capture_logs() as lines:
        for name in BAD_NAMES:
            for body in ({"sources": [name]}, {"version": name}, {"busy": [name]}, {"incarnation": name}):
                answer = appliance.poll(**body)
                assert (answer.status, answer.code) == (422, "request.invalid")
                assert CANARY not in answer.body.decode()
            beat = {"incarnation": ID, "epoch": 1, "progress": {"stage": name}}
            assert appliance.ask("POST", f"/v1/nodes/jobs/{ID}/heartbeat", beat).code == "request.invalid"
            wrong = {"code": name, "permanent": True, "correlation": "0" * 32}
            told = {"incarnation": ID, "outcome": {"epoch": 1, "result": "failed", "problem": wrong}}
            answer = appliance.ask("POST", f"/v1/nodes/jobs/{ID}/outcome", told)
            # A word alone is a code that a later version may have.
            assert CANARY not in answer.body.decode()
            assert answer.status == 422
    assert CANARY not in repr(lines)


def test_every_answer_says_that_nothing_may_be_done_with_it(web: Web) -> None:
    for answer in (web.ask("GET", "/v1/health"), web.ask("GET", "/nowhere"), web.ask("PUT", "/v1/sites")):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["date"].endswith("GMT")


def test_an_unknown_method_names_those_there_are(web: Web) -> None:
    answer = web.ask("PUT", "/v1/sites")
    assert (answer.status, answer.code) == (405, "route.method")
    assert answer.headers["allow"]


def test_the_correlation_id_is_in_the_log(web: Web) -> None:
    structlog.reset_defaults()
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        answer = web.ask("GET", "/v1/plans/x")
    assert [line["correlation"] for line in lines] == [json.loads(answer.body)["correlation"]]
    assert (lines[0]["route"], lines[0]["status"]) == ("/v1/plans/{plan}", 422)
