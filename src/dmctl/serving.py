"""An appliance that serves its control plane in this process, until a signal or its end."""

import os
import signal
from pathlib import Path

import click

from dmcore.appliance.agent import Appliance
from dmcore.appliance.service import ApplianceService
from dmcore.errors import ExitCode
from dmcore.host import logs
from dmcore.model.enums import Role
from dmcore.node.control_client import NodeClient
from dmcore.node.control_errors import NotEnrolled
from dmcore.node.enrolment import load_enrolment
from dmcore.node.settings import load_appliance
from dmctl.stopping import Stop


def serve_appliance(config: Path) -> ExitCode:
    """Serve until somebody asks to stop.

    Raises:
        NotEnrolled: there is no control plane to serve.
        NodeReplaced: another process runs with this node's key.
        DmcoreError: the settings, keys or state are not usable.
    """
    settings = load_appliance(config)
    logs.configure(settings.logging)
    problems: list[Exception] = []

    def ended(problem: Exception) -> None:
        """Called in another thread: wakes the wait below."""
        problems.append(problem)
        os.kill(os.getpid(), signal.SIGTERM)

    with Stop() as stop:
        with Appliance(settings) as node:
            enrolment = load_enrolment(settings.state_dir)
            if enrolment is None:
                raise NotEnrolled(role=Role.APPLIANCE)
            with ApplianceService(node, NodeClient(enrolment, node.identity), ended=ended):
                click.echo(f"appliance {node.identity.node} at {settings.site}")
                click.echo(f"serves the control plane at {', '.join(enrolment.urls)}")
                stop.wait()
        for problem in problems:
            raise problem
        return stop.exit_code
