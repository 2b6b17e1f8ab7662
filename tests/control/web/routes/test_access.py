"""Who may ask what: one table, which must hold every route of the application."""

import pytest
import structlog
from fastapi.routing import APIRoute
from sqlalchemy import select

from dmcore.api.base import MAX_BODY_BYTES
from dmcore.api.operators import Action, OperatorRole
from dmcore.control.access.refusals import AUDITED
from dmcore.control.store.database import Database
from dmcore.control.store.tables import audit, tokens
from tests.control.web_kit import HandClock, Web

ANYBODY, NODE = "anybody", "node"
VIEWER, OPERATOR, ADMIN = OperatorRole
ID = "00000000-0000-4000-8000-000000000001"
N = "a" * 64

TABLE = {
    ("GET", "/docs"): ANYBODY,
    ("GET", "/v1/health"): ANYBODY,
    ("GET", "/v1/sites"): VIEWER,
    ("POST", "/v1/sites"): ADMIN,
    ("PATCH", "/v1/sites/{name}"): ADMIN,
    ("POST", "/v1/joins"): ADMIN,
    ("GET", "/v1/nodes"): VIEWER,
    ("DELETE", "/v1/nodes/{node}"): ADMIN,
    ("GET", "/v1/tokens"): ADMIN,
    ("POST", "/v1/tokens"): ADMIN,
    ("DELETE", "/v1/tokens/{token}"): ADMIN,
    ("GET", "/v1/plans"): VIEWER,
    ("POST", "/v1/plans"): OPERATOR,
    ("GET", "/v1/plans/{plan}"): VIEWER,
    ("PATCH", "/v1/plans/{plan}"): OPERATOR,
    ("DELETE", "/v1/plans/{plan}"): ADMIN,
    ("POST", "/v1/plans/{plan}/run"): OPERATOR,
    ("POST", "/v1/plans/{plan}/pause"): OPERATOR,
    ("POST", "/v1/plans/{plan}/resume"): OPERATOR,
    ("GET", "/v1/jobs"): VIEWER,
    ("GET", "/v1/jobs/{job}"): VIEWER,
    ("POST", "/v1/jobs/{job}/cancel"): OPERATOR,
    ("GET", "/v1/points"): VIEWER,
    ("GET", "/v1/points/{point}"): VIEWER,
    ("POST", "/v1/points/{point}/verify"): OPERATOR,
    ("POST", "/v1/points/{point}/recover"): OPERATOR,
    ("POST", "/v1/points/{point}/preserve"): OPERATOR,
    ("DELETE", "/v1/points/{point}"): ADMIN,
    ("POST", "/v1/connectors/{node}/rebuild"): ADMIN,
    ("GET", "/v1/status"): VIEWER,
    ("GET", "/v1/events"): VIEWER,
    ("GET", "/v1/audit"): ADMIN,
    ("POST", "/v1/nodes/enroll"): NODE,
    ("POST", "/v1/nodes/poll"): NODE,
    ("GET", "/v1/nodes/plans"): NODE,
    ("POST", "/v1/nodes/jobs/{job}/heartbeat"): NODE,
    ("POST", "/v1/nodes/jobs/{job}/outcome"): NODE,
    ("POST", "/v1/nodes/points"): NODE,
    ("POST", "/v1/nodes/offline"): NODE,
}


def filled(path: str) -> str:
    return path.format(name="paris", node=N, token=ID, plan=ID, job=ID, point=ID)


def test_every_route_has_a_row(web: Web) -> None:
    document = web.app.openapi()["paths"]
    documented = {(method.upper(), path) for path, methods in document.items() for method in methods}
    beside = {
        (method, route.path)
        for route in web.app.routes if isinstance(route, APIRoute) for method in route.methods or ()
    }  # fmt: skip
    assert documented | beside == set(TABLE)


def test_the_document_says_who_may(web: Web) -> None:
    for (method, path), who in TABLE.items():
        told = web.app.openapi()["paths"].get(path, {}).get(method.lower(), {})
        scheme = None if who == ANYBODY else "node" if who == NODE else "operator"
        assert told.get("security") == (scheme and [{scheme: []}]), path


def test_nobody_gets_in_without_a_token(web: Web) -> None:
    for (method, path), who in TABLE.items():
        answer = web.ask(method, filled(path), {}, role=None)
        if who != ANYBODY:
            assert (answer.status, answer.code) == (401, "auth.required"), path
            assert answer.json.keys() == {"code", "message", "correlation"}


@pytest.mark.parametrize("role", list(OperatorRole))
def test_a_role_may_what_the_table_says(web: Web, role: OperatorRole) -> None:
    roles = list(OperatorRole)
    for (method, path), needed in TABLE.items():
        if not isinstance(needed, OperatorRole):
            continue
        answer = web.ask(method, filled(path), {}, role=role)
        if roles.index(role) < roles.index(needed):
            assert (answer.status, answer.code) == (403, "auth.role"), path
        else:
            assert answer.status in {200, 201, 404, 422}, path


def test_what_a_role_may_not_is_in_the_audit_log(web: Web, sqlite_database: Database) -> None:
    web.ask("DELETE", f"/v1/plans/{ID}", role=VIEWER)
    with sqlite_database.read() as connection:
        entry = connection.execute(select(audit).where(audit.c.action == Action.REFUSED)).one()
    assert entry.object == "DELETE /v1/plans/{plan}"
    assert entry.actor.startswith("the viewer ")


def audited(database: Database) -> list[str]:
    with database.read() as connection:
        asked = select(audit.c.actor).where(audit.c.action == Action.REFUSED).order_by(audit.c.number)
        return [actor.rpartition(" ")[0] for actor in connection.execute(asked).scalars()]


def test_nobody_fills_the_audit_log_with_refusals(web: Web, sqlite_database: Database, clock: HandClock) -> None:
    """Looking where one may not is only logged; of attempts to change something the first of an hour are kept."""
    with structlog.testing.capture_logs() as logs:
        for _ in range(AUDITED + 5):
            assert web.ask("GET", "/v1/audit", role=VIEWER).code == "auth.role"
    assert audited(sqlite_database) == []
    assert [entry["what"] for entry in logs if entry["event"] == "refused by role"] == ["GET /v1/audit"] * (AUDITED + 5)
    for role in (VIEWER, OPERATOR):
        for _ in range(AUDITED + 5):
            assert web.ask("DELETE", f"/v1/plans/{ID}", role=role).code == "auth.role"
    assert audited(sqlite_database) == ["the viewer"] * AUDITED + ["the operator"] * AUDITED
    clock.forward(3600)
    web.ask("DELETE", f"/v1/plans/{ID}", role=VIEWER)
    assert len(audited(sqlite_database)) == 2 * AUDITED + 1


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Bearer dmo_x", f"Bearer {'x' * 10_000}", "Basic YTpi", "Bearer \xff\xfe", "Node x.y.z"],
)
def test_garbage_is_no_token(web: Web, header: str) -> None:
    answer = web.ask("GET", "/v1/sites", headers={"Authorization": header})
    assert (answer.status, answer.code) == (401, "auth.required")
    assert answer.headers["www-authenticate"]


def test_a_token_ends(web: Web, clock: HandClock) -> None:
    clock.forward(91 * 86_400)
    assert web.ask("GET", "/v1/sites").code == "auth.required"


def test_a_revoked_token_lets_nobody_in(web: Web) -> None:
    made = web.ask("POST", "/v1/tokens", {"name": "eve", "role": "viewer"}).json
    headers = {"Authorization": f"Bearer {made['secret']}"}
    assert web.send("GET", "/v1/sites", headers=headers).status == 200
    for _ in range(2):
        assert web.ask("DELETE", f"/v1/tokens/{made['id']}").status == 204
    assert web.send("GET", "/v1/sites", headers=headers).status == 401


def test_the_last_use_of_a_token_is_kept_to_the_minute(web: Web, clock: HandClock, sqlite_database: Database) -> None:
    def used() -> object:
        with sqlite_database.read() as connection:
            return connection.execute(select(tokens.c.used_at).where(tokens.c.role == ADMIN)).scalar_one()

    began = clock.now
    web.ask("GET", "/v1/sites")
    clock.forward(59)
    web.ask("GET", "/v1/sites")
    assert used() == began
    clock.forward(1)
    web.ask("GET", "/v1/sites")
    assert used() == clock.now


def test_a_body_has_a_limit(web: Web) -> None:
    whole = b'{"name": "' + b"x" * MAX_BODY_BYTES + b'"}'
    answer = web.ask("POST", "/v1/sites", whole)
    assert (answer.status, answer.code) == (413, "request.too-large")


def test_not_found_tells_nobody_what_is_there(web: Web) -> None:
    web.ask("POST", "/v1/sites", {"name": "paris"})
    known = web.ask("PATCH", "/v1/sites/paris", {"limit": {}}, role=None)
    unknown = web.ask("PATCH", "/v1/sites/rome", {"limit": {}}, role=None)
    assert (known.status, known.code) == (unknown.status, unknown.code) == (401, "auth.required")
