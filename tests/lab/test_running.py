"""Setting up and waiting: what is waited for is named when it does not come, and what cannot come is not waited for."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dmcore.api.client_errors import ControlUnreachable, PinDiffers
from dmcore.lab import running as module
from dmcore.lab.deployment import make_deployment
from dmcore.lab.errors import NodeFailed
from dmcore.lab.processes import NodeProcess
from dmcore.lab.running import RunningLab, running
from dmcore.lab.setup import answers
from dmcore.model.enums import Role
from tests.dmctl.control import FakeControl
from tests.dmctl.facts import APPLIANCE, CONNECTOR, a_node

NOWHERE = "postgresql+psycopg://nobody@127.0.0.1:1/none"


def test_nobody_there_yet() -> None:
    def unreachable() -> None:
        raise ControlUnreachable(url="https://x", problem="refused")

    def other() -> None:
        raise PinDiffers(url="https://x", found="a", pinned="b")

    assert answers(lambda: 1)
    assert not answers(unreachable)
    with pytest.raises(PinDiffers):
        answers(other)


def test_nodes_are_waited_for_until_they_offer_the_labs_aliases() -> None:
    control = FakeControl()
    control.node_views = [a_node(APPLIANCE, Role.APPLIANCE, sources=("machines",))]
    assert not module._both_live(control)
    control.node_views.append(a_node(CONNECTOR, Role.CONNECTOR, targets=("shadows",), live=False))
    assert not module._both_live(control)
    control.node_views.append(a_node(CONNECTOR, Role.CONNECTOR, targets=("shadows",)))
    assert module._both_live(control)
    control.wrong = ControlUnreachable(url="https://x", problem="refused")
    assert not module._both_live(control)


def test_what_does_not_come_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READY_TIMEOUT_S", 0.1)
    monkeypatch.setattr(module, "POLL_S", 0.02)
    log = tmp_path / "control.log"
    log.write_text("thinking\n")
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as process:
        made = RunningLab(make_deployment(tmp_path / "lab"), [NodeProcess("control", process, log)])
        with pytest.raises(NodeFailed, match=r"control failed: it does not answer within 0\.1 s"):
            module._wait(made, lambda: False, "it does not answer")
        module._wait(made, lambda: True, "it does not answer")
        process.send_signal(signal.SIGKILL)
        process.wait()
        with pytest.raises(NodeFailed, match="exited with -9: thinking"):
            made.require_running()


def test_a_control_plane_that_cannot_be_made(tmp_path: Path) -> None:
    lab = make_deployment(tmp_path / "lab", database=NOWHERE)
    told: list[str] = []
    with pytest.raises(NodeFailed, match="control init failed"), running(lab, told.append):
        pass
    assert told == []
    assert not lab.profile.exists()
