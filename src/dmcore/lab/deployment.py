"""A lab's directory: a whole deployment, with what its operator needs to log in.

control.toml        appliance.toml      connector.toml
login.json          the operator's profile (DMCTL_PROFILE), made at the first start
keys/               kek.key, which both nodes pin; the control plane never sees it
source/             machines: a folder each, of raw disks
target/             shadows and their snapshots
recovered/          what `dmctl point recover --to restore` writes
control/            appliance/          connector/          state of each role
logs/               what each has said
run/                who runs the lab now
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmcore.api.http import Transport
from dmcore.api.operator_client import OperatorClient
from dmcore.api.server_trust import ServerTrust
from dmcore.control.settings import load_control
from dmcore.host.files import read_private, replace_file
from dmcore.lab.errors import LabMissing, LabNotStarted
from dmcore.lab.layout import Lab, free_ports, make_directories, write_nodes

RECOVERIES = "restore"

CONTROL = """\
# The control plane. docs/configuration.md has every key.
state_dir = "control"
listen = "127.0.0.1:{port}"
advertise = ["127.0.0.1"]
{database}
# Somebody watches: nodes say how far they are more often than they would need to.
[leases]
lease_s = 20
heartbeat_s = 1
"""

RECOVERY = f"""\

[recoveries.{RECOVERIES}]
path = "recovered"
"""


@dataclass(frozen=True)
class Deployment(Lab):
    """A lab of three roles, made by `make_deployment`."""

    @property
    def control_config(self) -> Path:
        """The control plane's settings."""
        return self.root / "control.toml"

    @property
    def profile(self) -> Path:
        """What `dmctl login` has left for the lab's operator."""
        return self.root / "login.json"

    @property
    def run_dir(self) -> Path:
        """Who runs it now."""
        return self.root / "run"

    @property
    def logs(self) -> Path:
        """What the roles have said."""
        return self.root / "logs"

    @property
    def recovered(self) -> Path:
        """Where points are recovered to on the control plane's word."""
        return self.root / "recovered"

    @property
    def url(self) -> str:
        """The control plane's."""
        return f"https://{load_control(self.control_config).listen}"

    def operator(self) -> OperatorClient:
        """A client with all rights.

        Raises:
            LabNotStarted: nobody has logged in yet.
        """
        try:
            profile: dict[str, Any] = json.loads(read_private(self.profile))
        except FileNotFoundError:
            raise LabNotStarted(path=str(self.root)) from None
        trust = ServerTrust(fingerprint=profile["fingerprint"])
        return OperatorClient(Transport([profile["url"]], trust), profile["token"])


def open_deployment(root: Path) -> Deployment:
    """A lab that is there. Raises LabMissing."""
    if not (root / "control.toml").is_file():
        raise LabMissing(path=str(root))
    return Deployment(root.absolute())


def make_deployment(root: Path, source_kind: str = "tracked", database: str | None = None) -> Deployment:
    """Make a lab in a new or empty directory; its control plane's database is SQLite, or the one at this URL.

    Raises:
        LabExists: something is there already.
    """
    root = root.absolute()
    make_directories(root, "recovered", "control", "run", "logs")
    write_nodes(root, source_kind, ["target", "recovered"], RECOVERY)
    (port,) = free_ports(1)
    chosen = f"database = {json.dumps(database)}\n" if database else ""  # JSON's strings are TOML's, too
    replace_file(root / "control.toml", CONTROL.format(port=port, database=chosen).encode())
    return Deployment(root)
