import json
from datetime import UTC, datetime, timedelta

import pytest

from dmcore.errors import ExitCode
from dmcore.model.enums import Role
from dmcore.model.ids import NodeId
from dmctl.errors import NotConfirmed
from tests.dmctl.conftest import Dmctl
from tests.dmctl.control import FakeControl
from tests.dmctl.facts import APPLIANCE, CONNECTOR, a_node


def test_nodes_are_listed_with_what_they_have(dmctl: Dmctl, control: FakeControl) -> None:
    seen = datetime.now(UTC) - timedelta(minutes=10)
    control.node_views[1] = control.node_views[1].model_copy(update={"live": False, "seen_at": seen})
    control.node_views.append(a_node(NodeId("dd" * 32), Role.APPLIANCE, revoked=True, seen_at=None))
    title, _, appliance, connector, revoked = dmctl("node", "list").stdout.splitlines()
    assert title == "Nodes: 3"
    assert appliance.split()[:4] == ["a1a1a1a1", "paris", "appliance", "live"]
    assert connector.split() == (
        ["c0c0c0c0", "paris", "connector", "silent", "10", "min", "0.1.0", "shadows", "standby"]
    )
    assert revoked.split() == ["dddddddd", "paris", "appliance", "revoked", "-", "0.1.0"]


def test_nodes_as_json(dmctl: Dmctl, control: FakeControl) -> None:
    assert [each["node"] for each in json.loads(dmctl("node", "list", "--json").stdout)["nodes"]] == [
        APPLIANCE,
        CONNECTOR,
    ]


def test_a_node_is_revoked_by_who_types_its_id(dmctl: Dmctl, control: FakeControl) -> None:
    result = dmctl("node", "revoke", "A1a1", input="a1a1a1a1\n")
    assert result.exit_code == 0
    assert "Type a1a1a1a1 to go on" in result.stderr
    assert result.stdout == f"Revoked appliance {APPLIANCE} of site paris.\n"
    assert control.asked[-1] == ("revoke_node", APPLIANCE)


@pytest.mark.parametrize("typed", ["", "\n", "yes\n", "c0c0c0c0\n"])
def test_whatever_else_is_typed_nothing_happens(dmctl: Dmctl, control: FakeControl, typed: str) -> None:
    result = dmctl("node", "revoke", "a1", input=typed)
    assert result.exit_code == ExitCode.REFUSED
    assert "nothing was deleted: node a1a1" in result.stderr
    assert "type a1a1a1a1, or give --yes" in result.stderr
    assert NotConfirmed.code in result.stderr
    assert control.asked == [("nodes",)]


def test_control_c_at_the_question(dmctl: Dmctl, control: FakeControl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmctl.confirming.at_a_terminal", lambda: True)
    result = dmctl("node", "revoke", "a1", input="")
    assert result.exit_code == ExitCode.INTERRUPTED
    assert result.stderr.endswith("stopped\n")
    assert control.asked == [("nodes",)]


def test_yes_for_scripts(dmctl: Dmctl, control: FakeControl) -> None:
    result = dmctl("node", "revoke", "c0", "--yes", "--json")
    assert json.loads(result.stdout) == {"node": CONNECTOR, "revoked": True}
    assert result.stderr == ""


@pytest.mark.parametrize(("name", "code"), [("ff", "name.unknown"), ("", "name.unknown"), ("aa", "name.ambiguous")])
def test_a_node_must_be_one(dmctl: Dmctl, control: FakeControl, name: str, code: str) -> None:
    control.node_views = [a_node(NodeId(f"aa{'01'[n]}".ljust(64, "0")), Role.APPLIANCE) for n in range(2)]
    result = dmctl("node", "revoke", name, "--yes", "--json")
    assert result.exit_code == ExitCode.REFUSED
    assert json.loads(result.stderr)["error"]["code"] == code
