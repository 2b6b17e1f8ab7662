import base64
import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmcore.api.errors import JoinTokenMalformed
from dmcore.api.join import MAX_TOKEN_CHARACTERS, PREFIX, JoinToken
from dmcore.model.enums import Role

TOKEN = JoinToken(
    urls=("https://control.example:8443", "https://[::1]:8443"), control=UUID(int=7), secret="s" * 43, site="paris",
    role=Role.APPLIANCE, tls="a" * 64, ticket_key="b" * 64,
)  # fmt: skip


def with_changes(**changes: Any) -> str:
    inside = {**json.loads(TOKEN.model_dump_json()), **changes}
    return PREFIX + base64.urlsafe_b64encode(json.dumps(inside).encode()).decode().rstrip("=")


def test_there_and_back() -> None:
    text = TOKEN.encode()
    assert text.startswith("dmj1.")
    assert text.isascii()
    assert "\n" not in text
    assert "=" not in text
    assert JoinToken.decode(f"  {text}\n") == TOKEN
    assert "sss" not in repr(TOKEN)


def test_a_ca_may_vouch_for_the_server() -> None:
    assert JoinToken.decode(with_changes(tls=None)).tls is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dmj1.",
        "dmpair1.abc",
        TOKEN.encode()[:-9],
        TOKEN.encode().replace(PREFIX, "dmj2."),
        TOKEN.encode() + "=x",
        PREFIX + "ä" * 20,
        PREFIX + "a" * MAX_TOKEN_CHARACTERS,
        with_changes(v=2),
        with_changes(urls=[]),
        with_changes(urls=["http://control.example"]),
        with_changes(urls=["https://control.example/path"]),
        with_changes(site="../paris"),
        with_changes(role="operator"),
        with_changes(tls="A" * 64),
        with_changes(secret="short"),
        with_changes(more=1),
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(JoinTokenMalformed) as caught:
        JoinToken.decode(text)
    assert caught.value.__cause__ is None  # it might have the secret in it


@given(st.text(max_size=100))
def test_any_text_is_none(text: str) -> None:
    for each in (text, PREFIX + text):
        with pytest.raises(JoinTokenMalformed):
            JoinToken.decode(each)
