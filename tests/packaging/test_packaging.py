"""What is installed beside the package: units that systemd accepts and that harden, settings that load."""

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from dmcore.control.settings import load_control
from dmcore.node.settings import load_appliance, load_connector
from dmctl.main import root
from tests.source_tree import ROOT

PACKAGING = ROOT / "packaging"
UNITS = sorted((PACKAGING / "systemd").glob("*.service"))
ROLES = ["appliance", "connector", "control"]
HARDENED = {
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateDevices": "yes",
    "PrivateTmp": "yes",
    "RestrictSUIDSGID": "yes",
    "SystemCallFilter": "@system-service",
    "UMask": "0077",
    "StateDirectoryMode": "0700",
    "Restart": "on-failure",
}


def parsed(unit: Path) -> configparser.ConfigParser:
    made = configparser.ConfigParser(strict=True, interpolation=None)
    made.optionxform = str  # type: ignore[assignment,method-assign] # systemd's keys have capitals
    made.read_string(unit.read_text())
    return made


def test_there_is_a_unit_for_each_role() -> None:
    assert [unit.name for unit in UNITS] == [f"dmcore-{role}.service" for role in ROLES]


@pytest.mark.parametrize("role", ROLES)
def test_a_unit_is_hardened_and_runs_its_role_as_a_user_of_its_own(role: str) -> None:
    service = parsed(PACKAGING / "systemd" / f"dmcore-{role}.service")["Service"]
    assert {key: service[key] for key in HARDENED} == HARDENED
    assert service["User"] == f"dmcore-{role}"
    assert service["StateDirectory"] == f"dmcore/{role}"
    assert f"u dmcore-{role} " in (PACKAGING / "systemd" / "dmcore.sysusers").read_text()


@pytest.mark.parametrize("role", ROLES)
def test_a_unit_starts_a_command_that_exists(role: str) -> None:
    words = parsed(PACKAGING / "systemd" / f"dmcore-{role}.service")["Service"]["ExecStart"].split()
    found: click.Command | None = root
    for word in words[1 : words.index("--config")]:
        assert isinstance(found, click.Group)
        found = found.get_command(click.Context(found), word)
    assert found is not None
    assert any("--config" in option.opts for option in found.params)
    assert Path(words[-1]).name == f"{role}.toml"


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_accepts_a_unit(unit: Path, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not there")
    installed = tmp_path / unit.name  # where it is installed is not here: any program stands in for ours
    installed.write_text(unit.read_text().replace("/opt/dmcore/bin/dmctl", sys.executable))
    command = [analyze, "verify", "--man=no", "--recursive-errors=no", str(installed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert unit.name not in done.stderr


def test_the_settings_are_ones_that_the_roles_accept() -> None:
    config = PACKAGING / "config"
    control = load_control(config / "control.toml")
    appliance, connector = load_appliance(config / "appliance.toml"), load_connector(config / "connector.toml")
    directories = [control.state_dir, appliance.state_dir, connector.state_dir]
    assert directories == [Path("/var/lib/dmcore") / role for role in ("control", "appliance", "connector")]
    for role, node in {"appliance": appliance, "connector": connector}.items():
        assert node.kek.file == Path(f"/run/credentials/dmcore-{role}.service/kek.key")
        unit = parsed(PACKAGING / "systemd" / f"dmcore-{role}.service")
        assert unit["Service"]["LoadCredential"] == "kek.key:/etc/dmcore/kek.key"


def test_no_two_roles_of_one_machine_want_the_same_port() -> None:
    config = PACKAGING / "config"
    control, connector = load_control(config / "control.toml"), load_connector(config / "connector.toml")
    appliance = load_appliance(config / "appliance.toml")
    wanted = [control.listen, connector.listen, connector.pairing_listen]
    wanted += [each.metrics.listen for each in (control, appliance, connector) if each.metrics.listen]
    assert len({address.port for address in wanted}) == len(wanted) == 6
