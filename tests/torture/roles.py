"""A lab's three roles as processes that are killed and started again all the time."""

import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from dmcore.host.files import make_dir
from dmcore.lab import setup
from dmcore.lab.deployment import Deployment
from dmcore.lab.processes import connector_answers

ROOT = Path(__file__).parents[2]
LOOK_S = 0.02
READY_S, STOP_S = 60.0, 30.0


class RoleEnded(AssertionError):
    """A role ended without being told to."""


@dataclass
class Role:
    """One process, by a handle that stays its own when its number is another's."""

    name: str
    handle: int
    log: Path

    @property
    def ended(self) -> bool:
        return bool(select.select([self.handle], [], [], 0)[0])

    def signal(self, number: signal.Signals) -> None:
        signal.pidfd_send_signal(self.handle, number)

    def wait(self, timeout_s: float) -> bool:
        return bool(select.select([self.handle], [], [], timeout_s)[0])


class ForkServer:
    """The process that all roles are forked from."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.torture.fork_server"]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def fork(self, arguments: list[str], log: Path) -> int:
        """A new process of dmctl. Returns its number."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"arguments": arguments, "log": str(log)}) + "\n")
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """All that it has forked ends with it."""
        self._process.communicate(timeout=STOP_S)


class Roles:
    """All that run of a lab. Used from one thread."""

    def __init__(self, lab: Deployment, server: ForkServer) -> None:
        self.lab, self._server = lab, server
        self.running: dict[str, Role] = {}
        self._arguments = {
            "control": ["control", "serve", "--config", str(lab.control_config)],
            "connector": ["connector", "serve", "--config", str(lab.connector_config)],
            "appliance": ["appliance", "run", "--config", str(lab.appliance_config)],
        }

    def add(self, name: str, *arguments: str) -> None:
        """Another role that can be started."""
        self._arguments[name] = list(arguments)

    def start(self, name: str) -> None:
        """Start a role; it answers some time later."""
        log = make_dir(self.lab.logs) / f"{name}.log"
        try:
            self.running[name] = Role(name, os.pidfd_open(self._server.fork(self._arguments[name], log)), log)
        except ProcessLookupError:
            raise RoleEnded(f"{name} ended at once: {tail(log)}") from None

    def kill(self, name: str) -> None:
        """SIGKILL, and wait until it is gone."""
        role = self.running.pop(name)
        with suppress(ProcessLookupError):  # it has ended by itself
            role.signal(signal.SIGKILL)
        assert role.wait(STOP_S)
        os.close(role.handle)

    def stop_all(self) -> None:
        """As an operator does: the last of them first, SIGTERM, within a limit."""
        for name in reversed(self._arguments):
            if name in self.running:
                role = self.running.pop(name)
                role.signal(signal.SIGTERM)
                assert role.wait(STOP_S), f"{name} did not stop: {tail(role.log)}"
                os.close(role.handle)

    def require_running(self) -> None:
        """Raises RoleEnded for one that has ended by itself."""
        for role in self.running.values():
            if role.ended:
                raise RoleEnded(f"{role.name} ended by itself: {tail(role.log)}")

    def close(self) -> None:
        for name in list(self.running):
            self.kill(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def tail(log: Path) -> str:
    """The end of what it said."""
    return log.read_text(errors="replace")[-3000:]


def await_(condition: Callable[[], bool], timeout_s: float, what: str, roles: Roles | None = None) -> None:
    """Return when it holds. Raises AssertionError, saying what was waited for; RoleEnded."""
    pause = threading.Event()
    for _ in range(int(timeout_s / LOOK_S)):
        if condition():
            return
        if roles is not None:
            roles.require_running()
        pause.wait(LOOK_S)
    raise AssertionError(f"not within {timeout_s:g} s: {what}")


@contextmanager
def started(lab: Deployment, server: ForkServer) -> Iterator[Roles]:
    """The roles of a lab, set up if it is new, and running; killed in the end, if they still run."""
    setup.init_control(lab, lambda _: None)
    with Roles(lab, server) as roles:
        roles.start("control")
        await_(lambda: setup.control_answers(lab), READY_S, "the control plane answers", roles)
        setup.log_in(lab)
        with lab.operator() as operator:
            setup.enroll_nodes(lab, operator, lambda _: None)
            roles.start("connector")
            await_(lambda: connector_answers(lab), READY_S, "the connector answers", roles)
            setup.pair_nodes(lab, lambda _: None)
            roles.start("appliance")
            await_(lambda: all(node.live for node in operator.nodes().nodes), READY_S, "both nodes are live", roles)
        yield roles
