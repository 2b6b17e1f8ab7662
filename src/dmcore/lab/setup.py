"""What an operator does once in a new deployment. Each step looks whether it was done: a first start can be cut short.

All of it goes by `dmctl`, as an operator would type it, or by the calls that it makes.
"""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dmcore.api.http import Transport
from dmcore.api.operator_client import OperatorClient
from dmcore.api.operators import JoinSpec
from dmcore.api.plans import SiteSpec
from dmcore.api.server_trust import ServerTrust
from dmcore.errors import DmcoreError
from dmcore.host.files import read_private, replace_file
from dmcore.lab.deployment import Deployment
from dmcore.lab.errors import NodeFailed
from dmcore.lab.layout import SITE_SOURCE, SITE_TARGET
from dmcore.lab.processes import dmctl, environment, is_paired, pair_appliance
from dmcore.model.enums import Role
from dmcore.node.enrolment import enroll, load_enrolment
from dmcore.node.identity import load_identity
from dmcore.node.settings import load_appliance, load_connector

Tell = Callable[[str], None]


def init_control(lab: Deployment, tell: Tell) -> None:
    """Make the control plane's database, keys and first token, and keep what it prints about them.

    Raises:
        NodeFailed: it cannot be made.
    """
    if _admin(lab).exists() or lab.profile.exists():
        return
    printed = _run(lab, "control init", "control", "init", "--config", str(lab.control_config), "--json")
    replace_file(_admin(lab), printed.encode())
    tell("Made the control plane.")


def control_answers(lab: Deployment) -> bool:
    """Whether the control plane of this lab is there."""
    trust = ServerTrust(fingerprint=_printed(lab)["fingerprint"])
    with OperatorClient(Transport([lab.url], trust)) as anybody:
        return answers(anybody.health)


def answers(ask: Callable[[], object]) -> bool:
    """Whether there is an answer now. Raises what trying again cannot help against."""
    try:
        ask()
    except DmcoreError as problem:
        if problem.permanent:
            raise
        return False
    return True


def log_in(lab: Deployment) -> None:
    """`dmctl login` with the first token. Raises NodeFailed."""
    if lab.profile.exists():
        return
    made = _printed(lab)
    arguments = ("login", lab.url, "--fingerprint", made["fingerprint"], "--token-file", "-")
    _run(lab, "login", *arguments, stdin=made["token"]["secret"])
    _admin(lab).unlink()


def enroll_nodes(lab: Deployment, operator: OperatorClient, tell: Tell) -> None:
    """Sites, and a join token for each node that is not enrolled.

    Raises:
        SettingsRefused: a node's settings were changed so that it could not start. DmcoreError: it is not taken.
    """
    known = {site.name for site in operator.sites().sites}
    for name in sorted({SITE_SOURCE, SITE_TARGET} - known):
        operator.create_site(SiteSpec(name=name))
    nodes = {
        Role.APPLIANCE: load_appliance(lab.appliance_config),
        Role.CONNECTOR: load_connector(lab.connector_config),
    }
    for role, settings in nodes.items():
        if load_enrolment(settings.state_dir) is None:
            token = operator.create_join(JoinSpec(site=settings.site, role=role)).token
            enroll(token, load_identity(settings.state_dir), settings.site, role, settings.state_dir)
            tell(f"Enrolled the {role} at site {settings.site}.")


def pair_nodes(lab: Deployment, tell: Tell) -> None:
    """Pair the appliance with the running connector. Raises NodeFailed."""
    if not is_paired(lab):
        pair_appliance(lab)
        tell("Paired the appliance with the connector.")


def operator_environment(lab: Deployment) -> dict[str, str]:
    """What the commands of the lab's operator run with: logged in."""
    return {**environment(), "DMCTL_PROFILE": str(lab.profile)}


def _admin(lab: Deployment) -> Path:
    return lab.root / "keys" / "first-token.json"


def _printed(lab: Deployment) -> dict[str, Any]:
    """What `control init` has printed; after the login the profile says as much of the server."""
    found: dict[str, Any] = json.loads(read_private(lab.profile if lab.profile.exists() else _admin(lab)))
    return found


def _run(lab: Deployment, name: str, *arguments: str, stdin: str = "") -> str:
    done = subprocess.run(
        dmctl(*arguments), input=stdin, capture_output=True, text=True, check=False, env=operator_environment(lab)
    )
    if done.returncode:
        raise NodeFailed(name=name, problem=done.stderr.strip()[-500:], log=str(lab.logs))
    return done.stdout
