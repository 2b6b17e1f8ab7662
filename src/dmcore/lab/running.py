"""A deployment's three roles as real processes: set up at the first start, run together, stopped in order."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from dmcore.api.nodes import NodeView
from dmcore.api.operator_client import OperatorClient
from dmcore.lab import setup
from dmcore.lab.deployment import Deployment
from dmcore.lab.errors import NodeFailed
from dmcore.lab.layout import SOURCE, TARGET
from dmcore.lab.leftovers import forget, only_runner, record, stop_leftovers
from dmcore.lab.processes import POLL_S, READY_TIMEOUT_S, NodeProcess, connector_answers, start_node

Tell = Callable[[str], None]


@dataclass(frozen=True)
class RunningLab:
    """Its processes, in the order in which they were started."""

    lab: Deployment
    roles: list[NodeProcess]

    def require_running(self) -> None:
        """Raises NodeFailed for one that has ended."""
        for role in self.roles:
            role.require_running()


@contextmanager
def running(lab: Deployment, tell: Tell = lambda _: None) -> Iterator[RunningLab]:
    """The whole lab, ready for plans. In the end all of it is stopped: the appliance, the connector, the control plane.

    Raises:
        LabRuns: another process runs it. NodeFailed: a role did not come up, or could not be set up.
    """
    with only_runner(lab.run_dir), ExitStack() as undo:
        for name in stop_leftovers(lab.run_dir):
            tell(f"Stopped the {name} that an earlier start had left running.")
        made = RunningLab(lab, [])
        setup.init_control(lab, tell)
        _start(made, undo, "control", "control", "serve", "--config", str(lab.control_config))
        _wait(made, lambda: setup.control_answers(lab), "the control plane does not answer")
        setup.log_in(lab)
        with lab.operator() as operator:
            setup.enroll_nodes(lab, operator, tell)
            _start(made, undo, "connector", "connector", "serve", "--config", str(lab.connector_config))
            _wait(made, lambda: connector_answers(lab), "the connector does not answer")
            setup.pair_nodes(lab, tell)
            _start(made, undo, "appliance", "appliance", "run", "--config", str(lab.appliance_config))
            _wait(made, lambda: _both_live(operator), "the nodes did not report to the control plane")
        yield made


def _start(made: RunningLab, undo: ExitStack, name: str, *arguments: str) -> None:
    role = start_node(made.lab, name, *arguments)
    undo.callback(forget, made.lab.run_dir, name)
    undo.callback(role.stop)
    record(made.lab.run_dir, name, role.process.pid)
    made.roles.append(role)


def _wait(made: RunningLab, condition: Callable[[], bool], problem: str) -> None:
    pause = threading.Event()
    for _ in range(int(READY_TIMEOUT_S / POLL_S)):
        made.require_running()
        if condition():
            return
        pause.wait(POLL_S)
    last = made.roles[-1]
    raise NodeFailed(name=last.name, problem=f"{problem} within {READY_TIMEOUT_S:g} s", log=str(last.log))


def _both_live(operator: OperatorClient) -> bool:
    """Whether a plan that names the lab's aliases would be taken."""
    if not setup.answers(operator.health):
        return False
    nodes = [node for node in operator.nodes().nodes if node.live]
    return any(_offers(node, SOURCE) for node in nodes) and any(_offers(node, TARGET) for node in nodes)


def _offers(node: NodeView, alias: str) -> bool:
    return alias in node.sources or alias in node.targets
