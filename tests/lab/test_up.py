"""`dmctl lab`: all three roles as real processes, set up at the first start, stopped together, found after a kill."""

import json
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from dmcore.lab import sovereign
from dmcore.lab.deployment import open_deployment
from dmcore.lab.errors import LabDown, NoNamespace
from dmcore.lab.leftovers import recorded
from tests.control.databases import PostgresqlServer, postgresql
from tests.lab.roles import DMCTL, await_up, dmctl, lab_up, processes_of

__all__ = ["postgresql"]

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

ROLES = ["control", "connector", "appliance"]


def make_lab(root: Path, *options: str) -> Path:
    """A lab with one machine; returns its disk."""
    assert "dmctl lab up" in dmctl("lab", "init", root, *options).stdout
    disk = root / "source" / "web1" / "disk0.img"
    disk.parent.mkdir()
    disk.write_bytes(np.random.default_rng(5).bytes(2 << 20))
    return disk


PLAN = ("plan", "create", "web", "--source", "machines", "--target", "shadows", "--machine", "web1", "--rpo", "1d")


def replicate(operator: dict[str, str]) -> str:
    """Make a plan and wait for its first point; returns its id."""
    dmctl(*PLAN, "--json", env=operator)
    dmctl("plan", "run", "web", "--wait", "--json", env=operator)
    points = json.loads(dmctl("point", "list", "--json", env=operator).stdout)["points"]
    return str(points[0]["id"])


def test_the_five_minute_tour(tmp_path: Path) -> None:
    root = tmp_path / "lab"
    disk = make_lab(root)
    config = ("--config", root / "connector.toml")
    with lab_up(root) as operator:
        point = replicate(operator)
        assert "web" in dmctl("status", env=operator).stdout
        dmctl("point", "verify", "latest", "--wait", env=operator)
        dmctl("point", "recover", "latest", "--to", "restore", "--wait", env=operator)
        (recovered,) = (path for path in (root / "recovered").rglob("*.img"))
        assert recovered.read_bytes() == disk.read_bytes()
        points = json.loads(dmctl("connector", "points", *config, "--json").stdout)["points"]
        assert point in [each["id"] for each in points]
        assert "web" in dmctl("lab", "exec", root, *DMCTL, "plan", "list").stdout
        assert "no-such-program" in dmctl("lab", "exec", root, "no-such-program", code=2).stderr
        assert "the lab is up already" in dmctl("lab", "up", root, code=10).stderr
    assert processes_of(root) == []
    with lab_up(root) as operator:
        assert "web" in dmctl("plan", "list", env=operator).stdout
    assert processes_of(root) == []


def test_on_postgresql(tmp_path: Path, postgresql: PostgresqlServer) -> None:
    with postgresql.empty() as url:
        make_lab(tmp_path / "lab", "--database", url)
        with lab_up(tmp_path / "lab") as operator:
            point = replicate(operator)
        assert not (tmp_path / "lab" / "control" / "control.db").exists()
        make_lab(tmp_path / "other", "--database", url)
        refused = dmctl("lab", "up", tmp_path / "other", code=1).stderr
        assert "control init failed" in refused, "another control plane's database"
    assert point
    assert processes_of(tmp_path) == []


def test_no_lab_there(tmp_path: Path) -> None:
    assert "dmctl lab init" in dmctl("lab", "up", tmp_path, code=3).stderr
    dmctl("lab", "init", tmp_path / "lab")
    assert "is not empty" in dmctl("lab", "init", tmp_path / "lab", code=3).stderr
    assert "dmctl lab up" in dmctl("lab", "exec", tmp_path / "lab", "true", code=LabDown.exit_code).stderr


def test_a_role_that_does_not_come_up_is_named(tmp_path: Path) -> None:
    root = tmp_path / "lab"
    dmctl("lab", "init", root)
    with lab_up(root):
        pass
    for role in ROLES:
        config = root / f"{role}.toml"
        before = config.read_text()
        config.write_text("nonsense = 1\n" + before)
        done = dmctl("lab", "up", root, code=3)
        assert f"{role}.toml: unknown key nonsense" in done.stderr
        config.write_text(before)
    (root / "control" / "ticket.key").write_text("nonsense")
    done = dmctl("lab", "up", root, code=1)
    assert "control failed: exited with" in done.stderr
    assert "control.log" in done.stderr
    assert processes_of(root) == []


def test_a_role_that_dies_ends_the_lab(tmp_path: Path) -> None:
    root = tmp_path / "lab"
    dmctl("lab", "init", root)
    command = [*DMCTL, "lab", "up", str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        await_up(process)
        pid = recorded(open_deployment(root).run_dir, "connector")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert process.wait(60) == 1
        assert process.stderr is not None
        assert "connector failed: exited with -9" in process.stderr.read()
    assert processes_of(root) == []


def test_what_a_killed_lab_has_left_is_stopped_at_the_next_start(tmp_path: Path) -> None:
    root = tmp_path / "lab"
    dmctl("lab", "init", root)
    command = [*DMCTL, "lab", "up", str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        await_up(process)
        process.kill()
    assert len(processes_of(root)) == len(ROLES)
    with lab_up(root):
        assert len(processes_of(root)) == len(ROLES) + 1
    assert processes_of(root) == []


def test_a_sovereign_lab(tmp_path: Path) -> None:
    try:
        sovereign.isolated(["true"])
    except NoNamespace as refused:
        pytest.skip(str(refused))
    root = tmp_path / "lab"
    disk = make_lab(root)
    with lab_up(root, "--sovereign") as operator:
        assert "no answer" in dmctl("status", code=8, env=operator).stderr
        inside: tuple[str | Path, ...] = ("lab", "exec", root, *DMCTL)
        dmctl(*inside, *PLAN)
        dmctl(*inside, "plan", "run", "web", "--wait", "--json")
        dmctl(*inside, "point", "recover", "latest", "--to", "restore", "--wait")
        (recovered,) = (path for path in (root / "recovered").rglob("*.img"))
        assert recovered.read_bytes() == disk.read_bytes()
    assert processes_of(root) == []
