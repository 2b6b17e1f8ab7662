"""What every command that reads a node's configuration does about a wrong one."""

import json
from pathlib import Path

import pytest

from dmcore.errors import ExitCode
from dmcore.lab.layout import Lab, make_lab
from tests.dmctl.conftest import Dmctl

ZERO_ID = "00000000-0000-0000-0000-000000000000"
CONNECTOR = {
    "serve": [],
    "pair-token": ["--site", "home"],
    "paired": [],
    "unpair": ["ab"],
    "rebind": ["ab", "vm1", "--site", "home"],
    "points": [],
    "status": [],
    "verify": ["latest"],
    "recover": ["latest", "--to", "recovered"],
    "drop": [ZERO_ID],
    "preserve": ["latest"],
    "expire": ["latest"],
}
APPLIANCE = {"pair": ["token"], "run": ["job.json"]}
COMMANDS = [
    *(pytest.param(["connector", name, *rest], id=f"connector-{name}") for name, rest in CONNECTOR.items()),
    *(pytest.param(["appliance", name, *rest], id=f"appliance-{name}") for name, rest in APPLIANCE.items()),
    pytest.param(["source", "list", "machines"], id="source-list"),
]
ASKING = [pytest.param(["connector", name, *rest], id=name) for name, rest in CONNECTOR.items() if name != "serve"]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.chdir(tmp_path)
    return make_lab(tmp_path / "lab")


@pytest.mark.parametrize("command", COMMANDS)
class TestEveryCommandOfANode:
    def test_needs_its_configuration(self, command: list[str], dmctl: Dmctl) -> None:
        result = dmctl(*command)
        assert result.exit_code == ExitCode.USAGE
        assert "--config" in result.stderr
        assert "DMCTL_CONFIG" in result.stderr

    def test_names_a_configuration_that_is_not_there(self, command: list[str], dmctl: Dmctl, tmp_path: Path) -> None:
        missing = tmp_path / "none.toml"
        result = dmctl(*command, "--config", missing)
        assert result.exit_code == ExitCode.CONFIGURATION
        assert f"{missing}: No such file or directory" in result.stderr

    def test_names_an_unknown_key(self, command: list[str], dmctl: Dmctl, lab: Lab) -> None:
        config = lab.connector_config if command[0] == "connector" else lab.appliance_config
        config.write_text(f'colour = "red"\n{config.read_text()}')
        result = dmctl(*command, "--config", config)
        assert result.exit_code == ExitCode.CONFIGURATION
        assert f"{config}: unknown key colour" in result.stderr
        assert "settings.invalid" in result.stderr


@pytest.mark.parametrize("command", ASKING)
def test_a_connector_that_does_not_run(command: list[str], dmctl: Dmctl, lab: Lab) -> None:
    result = dmctl(*command, "--config", lab.connector_config, "--json")
    assert result.exit_code == ExitCode.CONNECTION
    assert result.stdout == ""
    error = json.loads(result.stderr)["error"]
    assert (error["code"], error["permanent"]) == ("connector.not-running", False)
    assert str(lab.connector_socket) in error["message"]
    assert "start it with `dmctl connector serve`" in error["message"]


def test_the_environment_may_name_the_configuration(dmctl: Dmctl, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMCTL_CONFIG", str(lab.connector_config))
    assert dmctl("connector", "points").exit_code == ExitCode.CONNECTION


@pytest.mark.parametrize("arguments", [["pair"], ["pair", "x", "--token-file", "y"]], ids=["none", "two"])
def test_a_token_is_given_once(arguments: list[str], dmctl: Dmctl, lab: Lab) -> None:
    result = dmctl("appliance", *arguments, "--config", lab.appliance_config)
    assert result.exit_code == ExitCode.USAGE
    assert "give the token once" in result.stderr


@pytest.mark.parametrize("way", ["argument", "input", "file"])
def test_a_text_that_is_no_token(way: str, dmctl: Dmctl, lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("nonsense\n")
    given = {"argument": ["nonsense"], "input": ["-"], "file": ["--token-file", "token"]}[way]
    result = dmctl("appliance", "pair", *given, "--config", lab.appliance_config, input="nonsense\n")
    assert result.exit_code == ExitCode.TRUST
    assert "pairing.token-malformed" in result.stderr


def test_a_site_that_is_none(dmctl: Dmctl, lab: Lab) -> None:
    result = dmctl("connector", "pair-token", "--site", "Not a site", "--config", lab.connector_config)
    assert result.exit_code == ExitCode.USAGE
    assert "'Not a site'" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--events"], "--events and --json are for job files: name one, or a directory with --follow"),
        (["--follow", "nowhere"], "'nowhere' does not exist"),
        (["job.json", "--events", "--json"], "choose one of --events and --json"),
    ],
    ids=["nothing", "no-directory", "two-forms"],
)
def test_what_to_run_and_how_to_show_it(arguments: list[str], expected: str, dmctl: Dmctl, lab: Lab) -> None:
    result = dmctl("appliance", "run", *arguments, "--config", lab.appliance_config)
    assert result.exit_code == ExitCode.USAGE
    assert expected in result.stderr


@pytest.mark.parametrize("content", [None, "", "[]", '{"job": 1}'], ids=["missing", "empty", "list", "object"])
def test_a_job_file_that_is_none(content: str | None, dmctl: Dmctl, lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    if content is not None:
        path.write_text(content)
    result = dmctl("appliance", "run", path, "--config", lab.appliance_config, "--events")
    assert result.exit_code == ExitCode.CONFIGURATION
    event = json.loads(result.stdout)
    assert (event["event"], event["code"], event["exit_code"]) == ("error", "job.unreadable", 3)
    assert str(path) in event["message"]
    assert str(path) in result.stderr
