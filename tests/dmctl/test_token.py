import json
from datetime import UTC, datetime, timedelta

import pytest

from dmcore.api.operators import JoinSpec, OperatorRole, TokenSpec
from dmcore.errors import ExitCode
from dmcore.model.enums import Role
from tests.dmctl.conftest import Dmctl
from tests.dmctl.control import FakeControl
from tests.dmctl.facts import NOW, a_token


def test_a_new_token_stands_alone_on_standard_output(dmctl: Dmctl, control: FakeControl) -> None:
    result = dmctl("token", "create", "alice", "--role", "operator", "--days", 30)
    assert result.exit_code == 0
    assert result.stdout == "dmo_secret\n"
    assert "Good until 2026-03-31 12:00:00Z, as operator" in result.stderr
    assert "dmo_secret" not in result.stderr
    assert control.asked == [("create_token", TokenSpec(name="alice", role=OperatorRole.OPERATOR, days=30))]


def test_a_new_token_as_json(dmctl: Dmctl, control: FakeControl) -> None:
    made = json.loads(dmctl("token", "create", "alice", "--role", "viewer", "--json").stdout)
    assert (made["name"], made["role"], made["secret"]) == ("alice", "viewer", "dmo_secret")


@pytest.mark.parametrize(
    "arguments", [["alice"], ["alice", "--role", "root"], ["a/b", "--role", "viewer"],
                  ["alice", "--role", "viewer", "--days", "0"]],
)  # fmt: skip
def test_a_token_that_cannot_be(dmctl: Dmctl, control: FakeControl, arguments: list[str]) -> None:
    assert dmctl("token", "create", *arguments).exit_code == ExitCode.USAGE
    assert control.asked == []


def test_tokens_are_listed_without_secrets(dmctl: Dmctl, control: FakeControl) -> None:
    later, role = datetime.now(UTC) + timedelta(days=1), OperatorRole.VIEWER
    control.token_views = [
        a_token("good", role, expires_at=later, used_at=datetime.now(UTC)),
        a_token("old", role, expires_at=NOW - timedelta(days=3650)),
        a_token("gone", role, expires_at=later, revoked=True),
    ]
    rows = [line.split() for line in dmctl("token", "list").stdout.splitlines()[2:]]
    assert [(row[1], row[3]) for row in rows] == [("good", "good"), ("old", "expired"), ("gone", "revoked")]
    listed = json.loads(dmctl("token", "list", "--json").stdout)["tokens"]
    assert [each["name"] for each in listed] == ["good", "old", "gone"]
    assert all("secret" not in each for each in listed)


def test_a_token_is_revoked_by_name(dmctl: Dmctl, control: FakeControl) -> None:
    control.token_views = [a_token("alice", OperatorRole.VIEWER, revoked=True), a_token("alice", OperatorRole.VIEWER)]
    result = dmctl("token", "revoke", "alice", input="alice\n")
    assert result.stdout == "Revoked the token alice.\n"
    assert control.asked[-1] == ("revoke_token", control.token_views[1].id)


def test_a_token_is_revoked_by_the_beginning_of_its_id(dmctl: Dmctl, control: FakeControl) -> None:
    control.token_views = [a_token("alice", OperatorRole.VIEWER)]
    chosen = control.token_views[0].id
    result = dmctl("token", "revoke", str(chosen)[:8], "--yes", "--json")
    assert json.loads(result.stdout) == {"id": str(chosen), "name": "alice", "revoked": True}


def test_a_token_is_not_revoked_by_accident(dmctl: Dmctl, control: FakeControl) -> None:
    control.token_views = [a_token("alice", OperatorRole.VIEWER)]
    assert dmctl("token", "revoke", "alice", input="alic\n").exit_code == ExitCode.REFUSED
    assert control.asked == [("tokens",)]


def test_a_join_token_stands_alone_on_standard_output(dmctl: Dmctl, control: FakeControl) -> None:
    result = dmctl("join", "create", "--site", "paris", "--role", "appliance")
    assert result.stdout == "dmj1.secret\n"
    assert "Good once, until 2026-03-01 13:00:00Z, at site paris: dmctl appliance enroll -" in result.stderr
    assert control.asked == [("create_join", JoinSpec(site="paris", role=Role.APPLIANCE))]


def test_a_join_token_as_json(dmctl: Dmctl, control: FakeControl) -> None:
    result = dmctl("join", "create", "--site", "paris", "--role", "connector", "--json")
    assert json.loads(result.stdout) == {"token": "dmj1.secret", "expires_at": "2026-03-01T13:00:00Z"}


def test_a_join_token_for_no_site(dmctl: Dmctl, control: FakeControl) -> None:
    assert dmctl("join", "create", "--site", "a/b", "--role", "connector").exit_code == ExitCode.USAGE
    assert dmctl("join", "create", "--role", "connector").exit_code == ExitCode.USAGE
    assert control.asked == []
