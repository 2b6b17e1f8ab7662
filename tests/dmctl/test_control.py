"""`dmctl control`: a control plane is made, run, and got back into."""

import json
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from dmcore.api.http import Transport
from dmcore.api.operator_client import OperatorClient
from dmcore.api.operators import OperatorRole, TokenSpec
from dmcore.api.server_trust import ServerTrust
from dmcore.control.server import ControlServer
from dmcore.control.settings import load_control
from dmcore.control.store.database import Database
from dmcore.errors import ExitCode
from tests.dmctl.conftest import Dmctl


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "control.toml"
    path.write_text('state_dir = "state"\nlisten = "127.0.0.1:0"\n')
    return path


@pytest.fixture
def made(dmctl: Dmctl, config: Path) -> dict[str, str]:
    told = dmctl("control", "init", "--config", str(config), "--json")
    assert told.exit_code == 0, told.output
    found: dict[str, str] = json.loads(told.stdout)
    return found


def test_init_shows_the_first_token_alone(dmctl: Dmctl, config: Path) -> None:
    told = dmctl("control", "init", "--config", str(config))
    assert told.exit_code == 0
    assert told.stdout.startswith("dmo_")
    assert len(told.stdout.splitlines()) == 1
    shown = dmctl("control", "fingerprint", "--config", str(config)).stdout.strip()
    assert f"fingerprint of its certificate is {shown}" in told.stderr


def test_init_leaves_what_is_there(dmctl: Dmctl, config: Path, made: dict[str, str]) -> None:
    again = dmctl("control", "init", "--config", str(config))
    assert again.exit_code == ExitCode.REFUSED
    assert made["control"] in again.stderr
    found = json.loads(dmctl("control", "fingerprint", "--config", str(config), "--json").stdout)
    assert found == {"fingerprint": made["fingerprint"]}


@pytest.mark.parametrize("command", [["serve"], ["token", "--name", "x"], ["audit", "verify"], ["upgrade"]])
def test_without_init_there_is_nothing(dmctl: Dmctl, config: Path, command: list[str]) -> None:
    told = dmctl("control", *command, "--config", str(config))
    assert told.exit_code == ExitCode.CONFIGURATION
    assert "dmctl control init" in told.stderr
    assert not (config.parent / "state" / "control.db").exists()


@pytest.mark.parametrize("url", ["nonsense", "mysql://me:secret@db/x", "postgresql+psycopg://me:secret@db:port/x"])
def test_a_database_that_is_none_is_named_without_its_password(dmctl: Dmctl, config: Path, url: str) -> None:
    config.write_text(f'state_dir = "state"\ndatabase = "{url}"\n')
    told = dmctl("control", "init", "--config", str(config))
    assert told.exit_code == ExitCode.CONFIGURATION
    assert "database: " in told.stderr
    assert "secret" not in told.output


def test_upgrade_may_be_repeated(dmctl: Dmctl, config: Path, made: dict[str, str]) -> None:
    assert dmctl("control", "upgrade", "--config", str(config)).exit_code == 0
    assert json.loads(dmctl("control", "upgrade", "--config", str(config), "--json").stdout) == {"upgraded": True}


def test_upgrade_wants_it_stopped(dmctl: Dmctl, config: Path, made: dict[str, str]) -> None:
    with ControlServer(load_control(config)):
        told = dmctl("control", "upgrade", "--config", str(config))
    assert told.exit_code == ExitCode.BUSY
    assert "stop it first" in told.stderr
    assert dmctl("control", "upgrade", "--config", str(config)).exit_code == 0


def test_a_token_made_here_gets_in_while_the_server_runs(dmctl: Dmctl, config: Path, made: dict[str, str]) -> None:
    with ControlServer(load_control(config)) as running:
        told = dmctl("control", "token", "--name", "rescue", "--config", str(config))
        assert told.exit_code == 0
        trust = ServerTrust(fingerprint=made["fingerprint"])
        with OperatorClient(Transport(running.plane.urls, trust), told.stdout.strip()) as client:
            names = {token.name: token.role for token in client.tokens().tokens}
            client.create_token(TokenSpec(name="other", role=OperatorRole.VIEWER))
            entries = client.audit().entries
    assert names == {"first": OperatorRole.ADMIN, "rescue": OperatorRole.ADMIN}
    assert [(entry.actor.split()[0], entry.object) for entry in entries] == [
        ("rescue", "other"), ("local", "rescue"), ("local", "first"),
    ]  # fmt: skip


def test_a_token_of_another_role(dmctl: Dmctl, config: Path, made: dict[str, str]) -> None:
    asked = ["control", "token", "--name", "x", "--role", "viewer", "--days", "1", "--config", str(config), "--json"]
    assert json.loads(dmctl(*asked).stdout)["role"] == "viewer"
    assert dmctl("control", "token", "--name", "../x", "--config", str(config)).exit_code == ExitCode.USAGE


def test_the_audit_log_is_verified(dmctl: Dmctl, config: Path, made: dict[str, str]) -> None:
    assert "All 1 entries" in dmctl("control", "audit", "verify", "--config", str(config)).stdout
    told = json.loads(dmctl("control", "audit", "verify", "--config", str(config), "--json").stdout)
    assert (told["entries"], told["last"]["action"]) == (1, "token.created")


def test_a_changed_audit_log_is_found(dmctl: Dmctl, config: Path, made: dict[str, str]) -> None:
    dmctl("control", "token", "--name", "x", "--config", str(config))
    database = Database(load_control(config).database_url)
    with database.write() as connection:
        triggers = text("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        for name in connection.execute(triggers).scalars().all():
            connection.execute(text(f"DROP TRIGGER {name}"))
        connection.execute(text("UPDATE audit SET actor = 'nobody' WHERE number = 1"))
    database.close()
    told = dmctl("control", "audit", "verify", "--config", str(config), "--json")
    assert told.exit_code == ExitCode.INTEGRITY
    assert json.loads(told.stderr)["error"]["code"] == "audit.broken"


@pytest.mark.processes
def test_serve_until_it_is_told_to_stop(config: Path, made: dict[str, str]) -> None:
    command = [sys.executable, "-m", "dmctl", "control", "serve", "--config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            words = process.stdout.readline().split()
            assert words[2] == made["control"]
            assert process.stdout.readline().split()[1] == made["fingerprint"]
            host, port = words[-1].rsplit(":", 1)
            assert ssl.get_server_certificate((host, int(port))).startswith("-----BEGIN")
        finally:
            process.terminate()
        assert process.wait(30) == ExitCode.OK
