"""`dmctl demo` and `dmctl lab` as a new user runs them: real processes, what they print, what they leave behind."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.processes

DMCTL = [sys.executable, "-m", "dmctl"]


def dmctl(*arguments: str | Path, code: int = 0, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [*DMCTL, *map(str, arguments)]
    env = {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=110, env=env)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    return done


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_points(shown: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    first, second = shown["points"]
    for point in (first, second):
        assert set(point) >= {"id", "cycle", "source_time", "disks", "stats"}
        for disk in point["disks"]:
            assert disk["sha256_source"] == disk["sha256_recovered"]
        assert set(point["stats"]) == {
            "read_bytes", "changed_bytes", "zero_bytes", "sealed_bytes", "wire_bytes", "seconds", "rung", "reason",
        }  # fmt: skip
    return first, second


@pytest.mark.timeout(240)
def test_the_demo_on_a_real_file_system(tmp_path: Path) -> None:
    shown = json.loads(dmctl("demo", "--json", "--workdir", tmp_path / "demo").stdout)
    first, second = check_points(shown)
    assert (first["stats"]["rung"], second["stats"]["rung"]) == ("seed", "delta")
    assert first["stats"]["changed_bytes"] >= 512 << 20
    # The second cycle follows the change, not the disk.
    assert second["stats"]["read_bytes"] == second["stats"]["changed_bytes"] < 16 << 20
    assert second["stats"]["sealed_bytes"] < 16 << 20
    assert first["disks"][0]["sha256_source"] != second["disks"][0]["sha256_source"]
    assert all("blocks" in point["fsck"] for point in shown["points"])
    assert not (tmp_path / "demo").exists()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A disk of no file system, with a short last block."""
    path = tmp_path / "disk.raw"
    path.write_bytes(np.random.default_rng(3).bytes(3 << 20) + bytes((5 << 20) + 512))
    return path


def test_the_demo_on_a_copy_of_the_users_disk(tmp_path: Path, image: Path) -> None:
    before = (sha256(image), image.stat().st_mtime_ns)
    image.chmod(0o400)
    workdir = tmp_path / "demo"
    shown = json.loads(dmctl("demo", "--json", "--image", image, "--workdir", workdir, "--keep").stdout)
    first, second = check_points(shown)
    assert (sha256(image), image.stat().st_mtime_ns) == before
    assert first["disks"][0]["sha256_source"] == before[0]
    assert sha256(Path(second["disks"][0]["path"])) == second["disks"][0]["sha256_source"]
    # What was kept is a lab that goes on.
    with lab_up(workdir):
        report = json.loads(dmctl("lab", "cycle", workdir, "--json").stdout)
    assert [disk["rung"] for disk in report["disks"]] == ["delta"]


def test_the_demo_in_tables(tmp_path: Path, image: Path) -> None:
    done = dmctl("demo", "--image", image, "--workdir", tmp_path / "demo", "--keep", COLUMNS="120")
    for words in ("read from the source", "Recovery points", "equal", "exactly as it was", "dmctl lab up"):
        assert words in done.stdout


def test_a_directory_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    done = dmctl("demo", "--workdir", tmp_path, code=3)
    assert "is not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize("size", [0, 1000], ids=["empty", "no-multiple-of-512"])
def test_an_image_that_is_no_disk(tmp_path: Path, size: int) -> None:
    image = tmp_path / "disk.raw"
    image.write_bytes(bytes(size))
    done = dmctl("demo", "--json", "--image", image, "--workdir", tmp_path / "demo", code=5)
    assert json.loads(done.stderr.strip().splitlines()[-1])["error"]["code"].startswith("source.")


def test_an_image_that_is_not_there(tmp_path: Path) -> None:
    assert "does not exist" in dmctl("demo", "--image", tmp_path / "none", code=2).stderr


@pytest.mark.timeout(180)
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [*DMCTL, "demo", "--workdir", str(tmp_path / "demo")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "Pair the appliance" in line:
            os.killpg(process.pid, signal.SIGINT)
            break
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert nodes_of(tmp_path) == []


def nodes_of(root: Path) -> list[str]:
    """The command lines of processes that work in a directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(root) in line and "dmctl" in line:
            found.append(line)
    return found


@contextmanager
def lab_up(root: Path) -> Iterator["subprocess.Popen[str]"]:
    command = [*DMCTL, "lab", "up", str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert any("Both nodes run" in line for line in process.stdout)
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(60) in {0, 130}


def test_the_five_minute_tour(tmp_path: Path) -> None:
    root = tmp_path / "lab"
    assert "dmctl lab up" in dmctl("lab", "init", root).stdout
    disk = root / "source" / "web1" / "disk0.img"
    disk.parent.mkdir()
    disk.write_bytes(np.random.default_rng(5).bytes(2 << 20))
    config = ("--config", root / "connector.toml")
    with lab_up(root):
        disk.rename(root / "disk0.img")
        assert "no machine to protect" in dmctl("lab", "cycle", root, code=2).stderr
        (root / "disk0.img").rename(disk)
        assert "web1" in dmctl("lab", "cycle", root, COLUMNS="160").stdout
        points = json.loads(dmctl("connector", "points", *config, "--json").stdout)["points"]
        assert len(points) == 1
        dmctl("connector", "verify", "latest", *config)
        dmctl("connector", "recover", "latest", "--to", tmp_path / "back", *config)
        (recovered,) = (tmp_path / "back").iterdir()
        assert recovered.read_bytes() == disk.read_bytes()
        failed = dmctl("lab", "cycle", root, "nobody", code=3)
        assert "has no machine nobody" in failed.stderr
    assert nodes_of(root) == []


def test_no_lab_there(tmp_path: Path) -> None:
    assert "dmctl lab init" in dmctl("lab", "up", tmp_path, code=3).stderr
    dmctl("lab", "init", tmp_path / "lab")
    assert "is not empty" in dmctl("lab", "init", tmp_path / "lab", code=3).stderr
    assert "dmctl lab up" in dmctl("lab", "cycle", tmp_path / "lab", code=8).stderr
    assert list((tmp_path / "lab" / "jobs").iterdir()) == []


def test_a_connector_that_does_not_come_up_is_named(tmp_path: Path) -> None:
    root = tmp_path / "lab"
    dmctl("lab", "init", root)
    with (root / "connector.toml").open("a") as config:
        config.write("\nnonsense = 1\n")
    done = dmctl("lab", "up", root, code=1)
    assert "nonsense" in done.stderr
    assert "connector.log" in done.stderr
