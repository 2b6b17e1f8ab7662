"""kill -9 of either process in each phase, then a restart: the right image, or a dropped cycle and then the right one.

On XFS the source has snapshots, and an interrupted cycle is resumed; on another file system it may be dropped.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmcore.api.jobs import Job
from dmcore.connector.operator import PointsRequest, RecoverRequest, VerifyRequest, ask
from dmcore.lab.errors import JobFailed
from dmcore.lab.layout import Lab, make_lab
from dmcore.lab.processes import pair_appliance, run_job, running_connector
from dmcore.model.enums import Stage
from dmcore.model.phase import Phase
from dmcore.sources.tracking import start_tracking
from dmcore.sources.writer import TrackedWriter
from tests.filesystems import xfs

__all__ = ["xfs"]

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
DISK_BYTES = 24 << 20
PHASES = [Phase.RECEIVING, Phase.SEALED, Phase.APPLIED, Phase.SNAPSHOTTED, Phase.PUBLISHED, Phase.RECLAIMED]
STAGES = [Stage.CONNECTING, Stage.SNAPSHOT, Stage.TRANSFER, Stage.COMMIT, Stage.CLEANUP]


@pytest.fixture(params=["own-file-system", "xfs"])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    root = tmp_path / "lab"
    if request.param == "xfs":
        root = Path(request.getfixturevalue("xfs")) / tmp_path.name
    held = make_lab(root)
    with held.connector_config.open("a") as config:
        config.write("\n[staging]\nreserve_bytes = 0\n")  # the test's file system is smaller than the usual reserve
    folder = held.source / "vm1"
    folder.mkdir()
    for name in ("a.img", "b.img"):
        rng = np.random.default_rng(len(name))
        content = rng.integers(0, 255, DISK_BYTES // 2, dtype=np.uint8).tobytes()
        (folder / name).write_bytes(content + bytes(DISK_BYTES // 2))
        start_tracking(folder / name)
    yield held
    subprocess.run(["rm", "-rf", str(root)], check=True)


def disks(lab: Lab) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((lab.source / "vm1").glob("*.img"))}


def change(lab: Lab, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for path in sorted((lab.source / "vm1").glob("*.img")):
        with TrackedWriter(path) as writer:
            for offset in rng.integers(0, DISK_BYTES - (1 << 20), 12):
                writer.write(int(offset), rng.bytes(300_000))


def recovered(lab: Lab, point: str, name: str) -> dict[str, bytes]:
    request = RecoverRequest.model_validate({"point": point, "folder": lab.root / name})
    return {disk["label"]: Path(disk["path"]).read_bytes() for disk in ask(lab.connector_socket, request)}


def first_cycle(lab: Lab) -> None:
    with running_connector(lab):
        pair_appliance(lab)
        _, path = lab.new_job(["vm1"], datetime.now(UTC))
        run_job(lab, path)


def go_on(lab: Lab, job: Job) -> dict[str, Any]:
    """What a control plane does after an attempt was lost: a new lease; if the cycle was dropped, a new cycle."""
    _, path = lab.next_attempt(job, datetime.now(UTC))
    try:
        return run_job(lab, path)
    except JobFailed as failed:
        if failed.code != "cycle.dropped":
            raise
    _, path = lab.new_job(["vm1"], datetime.now(UTC))
    return run_job(lab, path)


def check(lab: Lab, before: dict[str, bytes], expected: dict[str, bytes]) -> None:
    points = ask(lab.connector_socket, PointsRequest())
    assert len(points) == 2
    assert recovered(lab, points[0]["id"], "first") == before
    assert recovered(lab, points[1]["id"], "second") == expected
    ask(lab.connector_socket, VerifyRequest.model_validate({"point": points[1]["id"]}))
    assert list((lab.source / ".dmcore-snapshots").glob("*")) == []
    assert list((lab.root / "connector" / "staging").glob("*/*")) == []


@contextmanager
def doomed_connector(lab: Lab, when: str, what: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "tests.lab.killed_connector", str(lab.connector_config), when, what]
    with (
        (lab.root / "doomed.log").open("w") as log,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "serving\n"
            yield process
        finally:
            process.kill()


CONNECTOR_KILLS = [(when, str(phase)) for phase in PHASES for when in ("before", "after")] + [
    ("batch", "3"),
    ("batch", "9"),
]


@pytest.mark.parametrize(("when", "what"), CONNECTOR_KILLS, ids=[f"{when}-{what}" for when, what in CONNECTOR_KILLS])
def test_a_killed_connector(lab: Lab, when: str, what: str) -> None:
    first_cycle(lab)
    before = disks(lab)
    change(lab, 1)
    job, path = lab.new_job(["vm1"], datetime.now(UTC))
    with doomed_connector(lab, when, what) as doomed:
        # The appliance tries a few times, as it does when a network is down, and then gives the job up.
        appliance = start_appliance(lab, path)
        assert doomed.wait(60) == -signal.SIGKILL
        appliance.kill()
        appliance.wait()
    with running_connector(lab):
        go_on(lab, job)
        check(lab, before, disks(lab))


def start_appliance(lab: Lab, path: Path) -> "subprocess.Popen[bytes]":
    command = [
        sys.executable,
        "-m",
        "tests.lab.killed_appliance",
        str(lab.appliance_config),
        str(path),
        "stage",
        "never",
    ]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


APPLIANCE_KILLS = [("stage", str(stage)) for stage in STAGES] + [("batch", "2"), ("batch", "3")]


@pytest.mark.parametrize(("what", "which"), APPLIANCE_KILLS, ids=[f"{what}-{which}" for what, which in APPLIANCE_KILLS])
def test_a_killed_appliance(lab: Lab, what: str, which: str) -> None:
    first_cycle(lab)
    before = disks(lab)
    change(lab, 2)
    job, path = lab.new_job(["vm1"], datetime.now(UTC))
    with running_connector(lab):
        command = [
            sys.executable,
            "-m",
            "tests.lab.killed_appliance",
            str(lab.appliance_config),
            str(path),
            what,
            which,
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == -signal.SIGKILL, done.stderr
        report = go_on(lab, job)
        check(lab, before, disks(lab))
    resumable = "xfs" in str(lab.root)
    if what == "batch" and resumable:
        assert sum(disk["resumed_bytes"] for disk in report["disks"]) > 0
        assert report["cycle"] == str(job.cycle)


def test_the_last_point_is_there_without_the_appliance(lab: Lab) -> None:
    first_cycle(lab)
    expected = disks(lab)
    subprocess.run(["rm", "-rf", str(lab.root / "appliance"), str(lab.source)], check=True)
    with running_connector(lab):
        points = ask(lab.connector_socket, PointsRequest())
        assert recovered(lab, points[-1]["id"], "back") == expected


def test_report_is_json(lab: Lab) -> None:
    with running_connector(lab):
        pair_appliance(lab)
        _, path = lab.new_job(["vm1"], datetime.now(UTC))
        events: list[dict[str, Any]] = []
        report = run_job(lab, path, events.append)
    assert json.loads(json.dumps(report))["disks"][0]["rung"] == "seed"
    assert all("stage" in event for event in events)
