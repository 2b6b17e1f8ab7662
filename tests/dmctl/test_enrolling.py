"""`enroll` of both kinds of node, against a control plane's outside."""

import json
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from dmcore.api.client_errors import ControlUnreachable
from dmcore.errors import ExitCode
from dmcore.host.lock import StateLock
from dmcore.lab.layout import SITE_SOURCE, SITE_TARGET, Lab, make_lab
from dmcore.model.enums import Role
from dmcore.node.enrolment import load_enrolment
from dmcore.node.identity import Identity, load_identity
from tests.api.fake_control import FakeControl, Refuse
from tests.dmctl.conftest import Dmctl
from tests.node.control_kit import CONTROL, ENROLL, enrolled, token_for

OTHER = UUID(int=9)
NODES = pytest.mark.parametrize("role", list(Role))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return make_lab(tmp_path / "lab")


@pytest.fixture
def control(tmp_path: Path) -> Iterator[FakeControl]:
    with FakeControl.make(tmp_path) as running:
        yield running


def config_of(lab: Lab, role: Role) -> Path:
    return lab.appliance_config if role is Role.APPLIANCE else lab.connector_config


def identity_of(lab: Lab, role: Role) -> Identity:
    return load_identity(lab.root / role)


def join_token(control: FakeControl, lab: Lab, role: Role) -> str:
    control.answers[ENROLL] = enrolled(identity_of(lab, role))
    return token_for(control, role, site=SITE_SOURCE if role is Role.APPLIANCE else SITE_TARGET).encode()


@NODES
@pytest.mark.parametrize("way", ["argument", "input", "file"])
def test_a_token_is_given_as_one_likes(
    role: Role, way: str, dmctl: Dmctl, lab: Lab, control: FakeControl, tmp_path: Path
) -> None:
    text = join_token(control, lab, role)
    (tmp_path / "token").write_text(f"{text}\n")
    ways: dict[str, list[object]] = {"argument": [text], "input": ["-"], "file": ["--token-file", tmp_path / "token"]}
    result = dmctl(role, "enroll", *ways[way], "--config", config_of(lab, role), input=f"{text}\n")
    assert result.exit_code == ExitCode.OK
    assert "Enrolled." in result.stdout
    assert str(CONTROL) in result.stdout
    found = load_enrolment(lab.root / role)
    assert found is not None
    assert found.role is role
    assert "s" * 43 not in result.output


@NODES
def test_json(role: Role, dmctl: Dmctl, lab: Lab, control: FakeControl) -> None:
    text = join_token(control, lab, role)
    result = dmctl(role, "enroll", "-", "--config", config_of(lab, role), "--json", input=text)
    assert json.loads(result.stdout) == {
        "control": str(CONTROL), "url": control.url, "node": identity_of(lab, role).node,
        "site": SITE_SOURCE if role is Role.APPLIANCE else SITE_TARGET,
    }  # fmt: skip


@NODES
def test_no_token_or_two(role: Role, dmctl: Dmctl, lab: Lab) -> None:
    for given in ([], ["x", "--token-file", "y"]):
        result = dmctl(role, "enroll", *given, "--config", config_of(lab, role))
        assert result.exit_code == ExitCode.USAGE
        assert "give the token once" in result.stderr


@NODES
def test_the_other_roles_token(role: Role, dmctl: Dmctl, lab: Lab, control: FakeControl) -> None:
    other = next(each for each in Role if each is not role)
    result = dmctl(role, "enroll", join_token(control, lab, other), "--config", config_of(lab, role))
    assert result.exit_code == ExitCode.TRUST
    assert "join.elsewhere" in result.stderr
    assert control.asked == []


def test_a_refusal_shows_the_control_planes_own_code(dmctl: Dmctl, lab: Lab, control: FakeControl) -> None:
    text = join_token(control, lab, Role.APPLIANCE)
    control.answers[ENROLL] = Refuse(403, "join.refused", "used up")
    result = dmctl("appliance", "enroll", text, "--config", lab.appliance_config, "--json")
    assert result.exit_code == ExitCode.TRUST
    error = json.loads(result.stderr)["error"]
    assert (error["code"], error["message"], error["permanent"]) == ("join.refused", "used up", True)


def test_nobody_there(dmctl: Dmctl, lab: Lab, control: FakeControl) -> None:
    text = join_token(control, lab, Role.APPLIANCE)
    control.stop()
    result = dmctl("appliance", "enroll", text, "--config", lab.appliance_config)
    control.start()
    assert result.exit_code == ExitCode.CONNECTION
    assert ControlUnreachable.code in result.stderr
    assert control.url in result.stderr


def test_another_control_plane_needs_force(dmctl: Dmctl, lab: Lab, control: FakeControl) -> None:
    text = join_token(control, lab, Role.APPLIANCE)
    assert dmctl("appliance", "enroll", text, "--config", lab.appliance_config).exit_code == 0
    moved = token_for(control, site=SITE_SOURCE, control=OTHER).encode()
    control.answers[ENROLL] = enrolled(identity_of(lab, Role.APPLIANCE), control=OTHER)
    refused = dmctl("appliance", "enroll", moved, "--config", lab.appliance_config)
    assert refused.exit_code == ExitCode.CONFIGURATION
    assert "enrolment.exists" in refused.stderr
    assert dmctl("appliance", "enroll", moved, "--force", "--config", lab.appliance_config).exit_code == 0


def test_a_ca_file_that_is_not_there(dmctl: Dmctl, lab: Lab, control: FakeControl, tmp_path: Path) -> None:
    text = join_token(control, lab, Role.CONNECTOR)
    missing = tmp_path / "ca.pem"
    result = dmctl("connector", "enroll", text, "--ca-file", missing, "--config", lab.connector_config)
    assert result.exit_code == ExitCode.CONFIGURATION
    assert str(missing) in result.stderr
    assert control.asked == []


@NODES
def test_a_node_that_runs_is_left_alone(role: Role, dmctl: Dmctl, lab: Lab, control: FakeControl) -> None:
    text = join_token(control, lab, role)
    with StateLock(lab.root / role):
        result = dmctl(role, "enroll", text, "--config", config_of(lab, role))
    assert result.exit_code == ExitCode.BUSY
    assert "node.running" in result.stderr
    assert control.asked == []
