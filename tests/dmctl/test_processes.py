"""Both nodes as the processes that an operator starts."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmcore.appliance.pairing import pair
from dmcore.connector.operator import PairTokenRequest, ask
from dmcore.errors import ExitCode
from dmcore.keys import local
from dmcore.lab.layout import Lab, make_lab
from dmcore.node.identity import load_identity
from dmcore.node.settings import load_appliance
from dmcore.sources.tracking import start_tracking
from dmcore.sources.writer import TrackedWriter

pytestmark = pytest.mark.processes

TIMEOUT_S = 60.0
BLOCK_BYTES = 64 << 10
DISK_BYTES = 4 << 20
BIG_DISK_BYTES = 160 << 20
"""Takes longer than a look at its progress."""

Process = subprocess.Popen[str]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "dmctl", *map(str, arguments)]


def start(*arguments: object, **options: Any) -> Process:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(command(*arguments), text=True, stdin=subprocess.DEVNULL, **pipes)


def run(*arguments: object, feed: str = "") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(*arguments), input=feed, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert "Traceback" not in done.stderr
    return done


def ended(process: Process, expected: int) -> tuple[str, str]:
    """What a process said, once it has ended as expected."""
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == expected, err
    assert "Traceback" not in (err or "")
    return out, err


def wait_for(condition: Callable[[], object]) -> None:
    pause = threading.Event()
    for _ in range(int(TIMEOUT_S / 0.02)):
        if condition():
            return
        pause.wait(0.02)
    pytest.fail("what was waited for did not happen")


def serve(lab: Lab) -> Process:
    """A connector that says where it listens. What it logs is nobody's to read, so it goes to a file."""
    with (lab.root / "connector.log").open("a") as log:
        process = start("connector", "serve", "--config", lab.connector_config, stderr=log)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("connector ")
    assert process.stdout.readline().startswith("serves appliances on 127.0.0.1:")
    return process


def make_disk(lab: Lab, machine: str, size: int) -> Path:
    disk = lab.source / machine / "disk0.img"
    disk.parent.mkdir()
    disk.write_bytes(np.random.default_rng(1).integers(0, 255, size, dtype=np.uint8).tobytes())
    start_tracking(disk)
    return disk


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.delenv("DMCTL_CONFIG", raising=False)
    made = make_lab(tmp_path / "lab")
    make_disk(made, "vm1", DISK_BYTES)
    return made


@pytest.fixture
def connector(lab: Lab) -> Iterator[Process]:
    """A connector with its appliance paired, stopped in the end as a service is."""
    process = serve(lab)
    token = ask(lab.connector_socket, PairTokenRequest(site="home"))["token"]
    settings = load_appliance(lab.appliance_config)
    pair(token, load_identity(settings.state_dir), settings.site, settings.state_dir)
    yield process
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        ended_log = (lab.root / "connector.log").read_text
        assert process.wait(TIMEOUT_S) == 0
        assert "Traceback" not in ended_log()
    if process.stdout is not None:
        process.stdout.close()


def job(lab: Lab, machine: str = "vm1") -> Path:
    return lab.new_job([machine], datetime.now(UTC))[1]


def test_two_cycles_and_back(lab: Lab, connector: Process, tmp_path: Path) -> None:
    appliance, at_connector = ["--config", lab.appliance_config], ["--config", lab.connector_config]
    disk = lab.source / "vm1" / "disk0.img"

    token = run("connector", "pair-token", "--site", "home", *at_connector)
    paired = run("appliance", "pair", "-", *appliance, feed=token.stdout)
    assert paired.returncode == 0, paired.stderr

    seed = run("appliance", "run", job(lab), "--json", *appliance)
    assert seed.returncode == 0, seed.stderr
    seeded = json.loads(seed.stdout)
    assert [each["rung"] for each in seeded["disks"]] == ["seed"]

    with TrackedWriter(disk) as writer:
        writer.write(BLOCK_BYTES, b"changed")
    delta = run("appliance", "run", job(lab), "--events", *appliance)
    assert delta.returncode == 0, delta.stderr
    *going, last = map(json.loads, delta.stdout.splitlines())
    assert {each["event"] for each in going} == {"progress"}
    assert last["event"] == "report"
    assert [(each["rung"], each["read_bytes"]) for each in last["disks"]] == [("delta", BLOCK_BYTES)]

    points = json.loads(run("connector", "points", "--json", *at_connector).stdout)["points"]
    assert [point["id"] for point in points] == [seeded["point"], last["point"]]
    assert "Groups: 1" in run("connector", "status", *at_connector).stdout
    assert "is whole" in run("connector", "verify", last["point"][:12], *at_connector).stdout

    recovered = json.loads(
        run("connector", "recover", "latest", "--to", tmp_path / "back", "--json", *at_connector).stdout
    )
    assert Path(recovered["disks"][0]["path"]).read_bytes() == disk.read_bytes()
    again = run("connector", "recover", "latest", "--to", tmp_path / "back", *at_connector)
    assert again.returncode == ExitCode.TARGET

    stale = run("appliance", "run", lab.jobs / "00000001.json", "--json", *appliance)
    assert stale.returncode == ExitCode.REFUSED
    assert json.loads(stale.stderr.splitlines()[-1])["error"]["code"] == "cycle.epoch-behind"


def test_on_a_terminal_there_are_bars(lab: Lab, connector: Process) -> None:
    ours, theirs = pty.openpty()
    process = start("appliance", "run", job(lab), "--config", lab.appliance_config, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while select.select([ours], [], [], TIMEOUT_S)[0]:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # EIO: nobody has the other end any more
            break
    os.close(ours)
    ended(process, 0)
    assert b"vm1/disk0.img: seed (no-image)" in shown
    assert "━".encode() in shown
    assert b"Recovery point" in shown


class TestFollowing:
    def test_jobs_that_appear_are_run(self, lab: Lab, connector: Process) -> None:
        process = start("appliance", "run", "--follow", lab.jobs, "--config", lab.appliance_config)
        first = job(lab)
        wait_for((lab.jobs / "done" / f"{first.stem}.report.json").exists)
        (lab.jobs / "00000002.json").write_text("nonsense")
        wait_for((lab.jobs / "failed" / "00000002.error.json").exists)
        process.terminate()
        out, err = ended(process, 0)
        assert "Recovery point" in out
        assert "job.unreadable" in err
        assert list(lab.jobs.glob("*.json")) == []

    def test_control_c_while_there_is_nothing_to_do(self, lab: Lab) -> None:
        process = start("appliance", "run", "--follow", lab.jobs, "--events", "--config", lab.appliance_config)
        (lab.jobs / "1.json").write_text("nonsense")
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["code"] == "job.unreadable"
        process.send_signal(signal.SIGINT)
        ended(process, ExitCode.INTERRUPTED)


class TestStoppingInTheMiddle:
    def begin(self, lab: Lab, connector: Process, *arguments: object) -> Process:
        """An appliance in the middle of a cycle: its connector stands still."""
        process = start("appliance", "run", *arguments, "--events", "--config", lab.appliance_config)
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event.get("stage") == "transfer" and event["disks"][0]["read_bytes"]:
                connector.send_signal(signal.SIGSTOP)
                return process
            assert event["event"] == "progress", event
        pytest.fail("the cycle ended before anybody could look")

    def test_control_c_ends_the_cycle_and_a_later_one_gets_through(self, lab: Lab, connector: Process) -> None:
        make_disk(lab, "big", BIG_DISK_BYTES)
        process = self.begin(lab, connector, job(lab, "big"))
        process.send_signal(signal.SIGINT)
        out, err = ended(process, ExitCode.INTERRUPTED)
        last = json.loads(out.splitlines()[-1])
        assert (last["event"], last["code"]) == ("error", "cycle.interrupted")
        assert "next attempt" in err

        connector.send_signal(signal.SIGCONT)
        at_connector = ["--config", lab.connector_config]
        (group,) = json.loads(run("connector", "status", "--json", *at_connector).stdout)["groups"]
        assert group["phase"] == "receiving"
        dropped = run("connector", "drop", group["group"][:8], *at_connector)
        assert dropped.returncode == 0, dropped.stderr
        assert "dropped" in dropped.stdout

        done = run("appliance", "run", job(lab, "big"), "--json", "--config", lab.appliance_config)
        assert done.returncode == 0, done.stderr

    def test_a_service_that_is_stopped_leaves_its_job(self, lab: Lab, connector: Process) -> None:
        make_disk(lab, "big", BIG_DISK_BYTES)
        path = job(lab, "big")
        process = self.begin(lab, connector, "--follow", lab.jobs)
        process.terminate()
        ended(process, 0)
        assert path.exists()
        assert not (lab.jobs / "failed").exists()


class TestServing:
    def test_control_c(self, lab: Lab) -> None:
        process = serve(lab)
        process.send_signal(signal.SIGINT)
        ended(process, ExitCode.INTERRUPTED)
        assert not lab.connector_socket.exists()

    def test_one_process_a_state_directory(self, lab: Lab, connector: Process) -> None:
        second = run("connector", "serve", "--config", lab.connector_config)
        assert second.returncode == ExitCode.BUSY
        assert "another process of this node is running" in second.stderr

    def test_an_address_that_is_taken(self, lab: Lab, connector: Process, tmp_path: Path) -> None:
        config = lab.root / "second.toml"
        config.write_text(lab.connector_config.read_text().replace('"connector"', '"second"'))
        second = run("connector", "serve", "--config", config)
        assert second.returncode == ExitCode.CONFIGURATION
        assert "127.0.0.1:" in second.stderr

    def test_another_key_than_the_pinned_one(self, lab: Lab) -> None:
        kek = lab.root / "keys" / "kek.key"
        kek.unlink()
        local.create(kek)
        refused = run("connector", "serve", "--config", lab.connector_config)
        assert refused.returncode == ExitCode.TRUST
        assert "key.not-pinned" in refused.stderr


def test_a_full_disk_where_the_output_goes() -> None:
    with Path("/dev/full").open("w") as full:
        process = start("version", "--json", stdout=full)
        _, err = ended(process, ExitCode.CONFIGURATION)
    assert json.loads(err)["error"]["message"] == "No space left on device"
