"""The page of the API must work in a network without the Internet."""

import base64
import hashlib
import re

import pytest

from dmcore.control.store.database import Database
from dmcore.control.web.docs_page import PAGE, POLICY
from tests.control.web_kit import HandClock, Web, make_plane


@pytest.fixture
def web(sqlite_database: Database) -> Web:
    return Web(make_plane(sqlite_database, HandClock()))


def test_the_page_asks_nobody_else(web: Web) -> None:
    answer = web.ask("GET", "/docs", role=None)
    assert (answer.status, answer.body.decode()) == (200, PAGE)
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["content-type"].startswith("text/html")
    assert not re.search(r"https?://|src=|@import|url\(", PAGE)


@pytest.mark.parametrize("tag", ["script", "style"])
def test_the_page_may_run_its_own_script_and_style_and_no_other(tag: str) -> None:
    (text,) = re.findall(f"<{tag}>(.*)</{tag}>", PAGE, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    assert f"{tag}-src 'sha256-{digest}'" in POLICY
    assert "unsafe" not in POLICY


def test_the_document_has_both_ways_in_and_every_refusal(web: Web) -> None:
    document = web.ask("GET", "/openapi.json", role=None).json
    assert document["components"]["securitySchemes"].keys() == {"operator", "node"}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
    for path, methods in document["paths"].items():
        for method, told in methods.items():
            statuses = {"400", "401", "403", "404", "409", "413", "422", "426", "429", "500", "503", "507"}
            assert statuses <= told["responses"].keys(), (path, method)
            assert all(told["responses"][status]["content"] == error for status in statuses)
            assert told["description"]
    for name, schema in document["components"]["schemas"].items():
        if schema["type"] == "object":
            assert schema["additionalProperties"] is False, name
