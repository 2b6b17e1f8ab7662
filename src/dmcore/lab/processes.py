"""A lab's nodes as real processes: started, waited for, asked, stopped. What they log is under `logs/`."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmcore.appliance.pairing import load_pairings
from dmcore.connector.errors import ConnectorNotRunning
from dmcore.connector.operator import PairTokenRequest, StatusRequest, ask
from dmcore.errors import ExitCode
from dmcore.host.files import make_dir
from dmcore.lab.errors import JobFailed, NodeFailed
from dmcore.lab.layout import SITE_SOURCE, Lab

READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 20.0
POLL_S = 0.05

OnProgress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class NodeProcess:
    """A running `dmctl`. `stop` it."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def stop(self) -> None:
        """Ask it to stop, wait, and kill it if it does not. Idempotent."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """What a crash does: SIGKILL."""
        self.process.kill()
        self.process.wait()

    def require_running(self) -> None:
        """Raises NodeFailed, with the end of its log, if it has ended."""
        status = self.process.poll()
        if status is not None:
            raise NodeFailed(name=self.name, problem=f"exited with {status}: {last_line(self.log)}", log=str(self.log))


def last_line(log: Path) -> str:
    """What a node said last."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def dmctl(*arguments: str) -> list[str]:
    """The command line of this very installation."""
    return [sys.executable, "-m", "dmctl", *arguments]


def start_node(lab: Lab, name: str, *arguments: str) -> NodeProcess:
    """Start a node in a process group of its own, so that Ctrl-C reaches only who started the lab."""
    log = make_dir(lab.root / "logs") / f"{name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            dmctl(*arguments), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    return NodeProcess(name, process, log)


def start_connector(lab: Lab) -> NodeProcess:
    """Start the connector and wait until it answers.

    Raises:
        NodeFailed: it does not come up.
    """
    node = start_node(lab, "connector", "connector", "serve", "--config", str(lab.connector_config))
    waited = threading.Event()
    for _ in range(int(READY_TIMEOUT_S / POLL_S)):
        node.require_running()
        if connector_answers(lab):
            return node
        waited.wait(POLL_S)
    node.stop()
    raise NodeFailed(name="connector", problem=f"did not answer within {READY_TIMEOUT_S:g} s", log=str(node.log))


def connector_answers(lab: Lab) -> bool:
    """Whether a connector of this lab is there."""
    try:
        ask(lab.connector_socket, StatusRequest())
    except ConnectorNotRunning:
        return False
    return True


@contextmanager
def running_connector(lab: Lab) -> Iterator[NodeProcess]:
    """The connector, stopped in the end."""
    node = start_connector(lab)
    try:
        yield node
    finally:
        node.stop()


def pair_appliance(lab: Lab) -> None:
    """Pair the appliance with its running connector, as an operator does: a token from one, given to the other."""
    token = ask(lab.connector_socket, PairTokenRequest(site=SITE_SOURCE))["token"]
    command = dmctl("appliance", "pair", "--config", str(lab.appliance_config), "-")
    done = subprocess.run(command, input=str(token), capture_output=True, text=True, check=False)
    if done.returncode:
        raise NodeFailed(name="appliance pair", problem=done.stderr.strip()[-500:], log=str(lab.root / "logs"))


def is_paired(lab: Lab) -> bool:
    """Whether the appliance has a pairing."""
    return bool(load_pairings(lab.root / "appliance"))


def start_job(lab: Lab, job: Path) -> "subprocess.Popen[str]":
    """An appliance process that runs one job and tells its events on its standard output."""
    command = dmctl("appliance", "run", "--config", str(lab.appliance_config), "--events", str(job))
    log = make_dir(lab.root / "logs") / "appliance.log"
    with log.open("a") as errors:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True)


def run_job(lab: Lab, job: Path, on_progress: OnProgress = lambda _: None) -> dict[str, Any]:
    """Run one job in an appliance process of its own. Returns its report.

    Raises:
        JobFailed: the job ended in an error. NodeFailed: the process died.
    """
    with start_job(lab, job) as process:
        try:
            return _follow(lab, process, on_progress)
        except BaseException:
            process.send_signal(signal.SIGINT)
            raise


def _follow(lab: Lab, process: "subprocess.Popen[str]", on_progress: OnProgress) -> dict[str, Any]:
    for line in process.stdout or ():
        event: dict[str, Any] = json.loads(line)
        kind = event.pop("event")
        if kind == "report":
            return event
        if kind == "error":
            raise JobFailed(str(event["message"]), str(event["code"]), ExitCode(event["exit_code"]))
        on_progress(event)
    log = lab.root / "logs" / "appliance.log"
    problem = f"exited with {process.wait()} and without a report: {last_line(log)}"
    raise NodeFailed(name="appliance", problem=problem, log=str(log))


def environment() -> dict[str, str]:
    """What the demo's tools run with: no translations of what they print."""
    return {**os.environ, "LC_ALL": "C"}
