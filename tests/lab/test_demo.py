"""`dmctl demo` as a new user runs it: real processes, what it prints, what it leaves behind."""

import hashlib
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.lab.roles import DMCTL, dmctl, lab_up, processes_of

pytestmark = pytest.mark.processes


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_points(shown: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    first, second = shown["points"]
    for point in (first, second):
        assert set(point) >= {"id", "plan", "job", "cycle", "source_time", "disks", "stats", "seconds_by_stage", "fsck"}
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
    assert first["plan"] == second["plan"]
    assert first["job"] != second["job"]
    # What was kept is a lab that goes on.
    with lab_up(workdir) as profile:
        events = dmctl("plan", "run", "demo", "--wait", "--json", env=profile).stdout.splitlines()
        (last,) = json.loads(dmctl("job", "list", "--limit", "1", "--json", env=profile).stdout)["jobs"]
        shown = json.loads(dmctl("job", "show", last["id"], "--json", env=profile).stdout)
    assert events
    assert [disk["rung"] for disk in shown["progress"]["disks"]] == ["delta"]


def test_the_demo_in_tables(tmp_path: Path, image: Path) -> None:
    done = dmctl("demo", "--image", image, "--workdir", tmp_path / "demo", "--keep", env={"COLUMNS": "120"})
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
        if "Start a control plane" in line:
            os.killpg(process.pid, signal.SIGINT)
            break
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert processes_of(tmp_path) == []
