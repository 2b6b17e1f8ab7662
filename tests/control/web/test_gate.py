"""What every request passes: faults and a database that is away become answers that tell nothing."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from dmcore.control.errors import StoreFull
from dmcore.control.plane import Plane
from dmcore.control.serving_errors import RequestSlow
from dmcore.control.store.database import Database
from dmcore.control.web.gate import Gate
from tests.control.web_kit import HandClock, Web, make_plane

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def ask(app: Any, messages: list[dict[str, Any]], headers: dict[str, str] | None = None) -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: Any) -> None:
        said.append(message)

    given = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    asyncio.run(Gate(app, lambda: NOW)({"type": "http", "method": "GET", "headers": given}, receive, send))
    return said


async def echo(scope: Any, receive: Any, send: Any) -> None:
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"public")]})
    await send({"type": "http.response.body", "body": body})


def test_a_body_in_parts_is_one() -> None:
    parts = [{"type": "http.request", "body": part, "more_body": part != b"c"} for part in (b"a", b"b", b"c")]
    said = ask(echo, parts)
    assert said[1]["body"] == b"abc"
    headers = dict(said[0]["headers"])
    assert headers[b"date"] == b"Sun, 01 Mar 2026 00:00:00 GMT"
    assert headers[b"cache-control"] == b"public"  # a route's own word stands


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmcore.control.web.gate.BODY_S", 0.01)
    said: list[dict[str, Any]] = []

    async def story() -> None:
        parts = [{"type": "http.request", "body": b"a", "more_body": True}]

        async def receive() -> Any:
            return parts.pop() if parts else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            said.append(message)

        scope: dict[str, Any] = {"type": "http", "method": "POST", "headers": []}
        await asyncio.wait_for(Gate(echo, lambda: NOW)(scope, receive, send), 20)

    asyncio.run(story())
    assert said[0]["status"] == 408
    assert dict(said[0]["headers"])[b"connection"] == b"close"
    assert RequestSlow.code.encode() in said[1]["body"]


def test_half_a_request_is_none() -> None:
    assert ask(echo, [{"type": "http.request", "body": b"a", "more_body": True}, {"type": "http.disconnect"}]) == []


def test_what_is_no_request_goes_through() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    asyncio.run(Gate(app, lambda: NOW)({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert seen == ["lifespan"]


def test_a_fault_is_an_answer_without_what_it_says() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError("canary")

    with capture_logs() as lines:
        said = ask(app, [{"type": "http.request"}])
    assert said[0]["status"] == 500
    assert b'"code":"control.fault"' in said[1]["body"]
    assert "canary" not in repr(said) + repr(lines)
    assert lines[0]["kind"] == "ZeroDivisionError"


def test_a_fault_in_the_middle_of_an_answer_ends_it() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        raise ZeroDivisionError

    assert [message["type"] for message in ask(app, [{"type": "http.request"}])] == ["http.response.start"]


@pytest.fixture
def plane(sqlite_database: Database) -> Plane:
    return make_plane(sqlite_database, HandClock())


def test_a_locked_database_is_busy(plane: Plane, sqlite_database: Database) -> None:
    web, locked = Web(plane), Database(str(sqlite_database.engine.url), busy_s=0)
    plane.database = Database(str(sqlite_database.engine.url), plane.database._clock, busy_s=0)
    with locked.engine.connect() as writer:
        writer.exec_driver_sql("SELECT 1")  # which begins, and takes the one writer's lock
        busy = web.ask("POST", "/v1/sites", {"name": "paris"})
        assert web.ask("GET", "/v1/sites").json == {"sites": []}  # looking needs no lock
    assert (busy.status, busy.code, busy.headers["retry-after"]) == (503, "store.busy", "2")
    locked.close()
    plane.close()


def test_a_full_database_is_told_of(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    web = Web(plane)

    def full(*_: object) -> None:
        raise StoreFull

    monkeypatch.setattr("dmcore.control.plans.sites.create", full)
    answer = web.ask("POST", "/v1/sites", {"name": "paris"})
    assert (answer.status, answer.code) == (507, "store.full")


def test_a_fault_of_the_database_tells_nothing(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    web = Web(plane)

    def broken(*_: object) -> None:
        raise OperationalError("SELECT canary", {}, ValueError("canary"))

    monkeypatch.setattr("dmcore.control.plans.sites.list_sites", broken)
    with capture_logs() as lines:
        answer = web.ask("GET", "/v1/sites")
    assert answer.status >= 500
    assert "canary" not in answer.body.decode() + repr(lines)
