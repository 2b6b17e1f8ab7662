"""A data plane in a directory: two nodes' configurations, the keys between them, a source, a target.

Benchmarks and tests run it without a control plane: it signs tickets with a key of its own, and its jobs are files. A
whole deployment is in deployment.py.

lab.json            ids of the plan and group, the last epoch, the machines
appliance.toml      connector.toml
keys/               kek.key, ticket.key (what a control plane would hold), ticket.pub
source/             machines: a folder each, of raw disks
target/             shadows and their snapshots
appliance/          connector/          state of each node
jobs/               what the lab has asked the appliance to do
"""

import json
import socket
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from dmcore.api.jobs import Codec, Job
from dmcore.api.tickets import Ticket, sign_ticket
from dmcore.host.files import make_dir, replace_file
from dmcore.keys import local
from dmcore.lab.errors import LabExists, LabMissing
from dmcore.model.enums import Rung
from dmcore.model.ids import CycleId, GroupId, NodeId, PlanId
from dmcore.node.identity import load_identity

SOURCE, TARGET = "machines", "shadows"
SITE_SOURCE, SITE_TARGET = "home", "away"
TICKET_LIFE = timedelta(hours=1)

APPLIANCE = """\
# The Replication Appliance at the source site. docs/configuration.md has every key.
site = "{site}"
state_dir = "appliance"
allowed_roots = ["source"]
codec = "lz4"

[kek]
file = "keys/kek.key"
fingerprint = "{kek}"

[sources.{source}]
kind = "{kind}"
path = "source"
"""

CONNECTOR = """\
# The Cloud Connector at the target site. docs/configuration.md has every key.
site = "{site}"
state_dir = "connector"
listen = "127.0.0.1:{port}"
pairing_listen = "127.0.0.1:{pairing_port}"
advertise = "127.0.0.1"
allowed_roots = {roots}

[kek]
file = "keys/kek.key"
fingerprint = "{kek}"

[targets.{target}]
kind = "folder"
path = "target"
"""

TICKET_KEY = """\

[control]
ticket_key = "keys/ticket.pub"
"""


@dataclass(frozen=True)
class Lab:
    """A lab's directory, made by `make_lab`."""

    root: Path

    @property
    def appliance_config(self) -> Path:
        """The appliance's settings."""
        return self.root / "appliance.toml"

    @property
    def connector_config(self) -> Path:
        """The connector's settings."""
        return self.root / "connector.toml"

    @property
    def connector_socket(self) -> Path:
        """The connector's local socket."""
        return self.root / "connector" / "connector.sock"

    @property
    def source(self) -> Path:
        """The machines."""
        return self.root / "source"

    @property
    def jobs(self) -> Path:
        """Job files."""
        return self.root / "jobs"

    def new_job(
        self, machines: list[str], now: datetime, *, codec: Codec | None = None, resync: Rung | None = None
    ) -> tuple[Job, Path]:
        """What a control plane does when a cycle is due: the next epoch, a ticket, a job in a file."""
        facts = self._facts()
        facts["epoch"] += 1
        replace_file(self.root / "lab.json", json.dumps(facts, indent=1).encode())
        job = self._job(facts, machines, now, CycleId(uuid4()), codec, resync)
        return job, self._write(job)

    def next_attempt(self, job: Job, now: datetime) -> tuple[Job, Path]:
        """The same cycle under a new lease, as after an appliance was lost."""
        facts = self._facts()
        facts["epoch"] += 1
        replace_file(self.root / "lab.json", json.dumps(facts, indent=1).encode())
        again = self._job(facts, list(job.machines), now, job.cycle, job.codec, job.resync)
        return again, self._write(again)

    def _job(
        self, facts: dict[str, Any], machines: list[str], now: datetime, cycle: CycleId,
        codec: Codec | None, resync: Rung | None,
    ) -> Job:  # fmt: skip
        connector = load_identity(self.root / "connector").node
        node = load_identity(self.root / "appliance").node
        plan, group = PlanId(_uuid(facts["plan"])), GroupId(_uuid(facts["group"]))
        epoch = int(facts["epoch"])
        claims = Ticket(
            plan=plan, group=group, cycle=cycle, epoch=epoch, node=node, connector=NodeId(connector),
            iat=int(now.timestamp()), exp=int((now + TICKET_LIFE).timestamp()),
        )  # fmt: skip
        return Job(
            job=uuid4(), ticket=sign_ticket(self._ticket_key(), claims), plan=plan, group=group, cycle=cycle,
            epoch=epoch, connector=connector, machines=tuple(machines), source=SOURCE, target=TARGET, codec=codec,
            resync=resync,
        )  # fmt: skip

    def _write(self, job: Job) -> Path:
        path = make_dir(self.jobs) / f"{job.epoch:08d}.json"
        body = job.model_dump(mode="json")
        replace_file(path, json.dumps({**body, "ticket": job.ticket}, indent=1).encode())
        return path

    def _ticket_key(self) -> Ed25519PrivateKey:
        key = load_pem_private_key((self.root / "keys" / "ticket.key").read_bytes(), password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise LabMissing(path=str(self.root))
        return key

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((self.root / "lab.json").read_text())
        return facts


def open_lab(root: Path) -> Lab:
    """A lab that is there. Raises LabMissing."""
    if not (root / "lab.json").is_file():
        raise LabMissing(path=str(root))
    return Lab(root.absolute())


def make_lab(root: Path, source_kind: str = "tracked") -> Lab:
    """Make a lab in a new or empty directory.

    Raises:
        LabExists: something is there already.
    """
    root = root.absolute()
    make_directories(root, "jobs")
    _make_ticket_key(root / "keys")
    write_nodes(root, source_kind, ["target"], TICKET_KEY)
    facts = {"plan": str(uuid4()), "group": str(uuid4()), "epoch": 0}
    replace_file(root / "lab.json", json.dumps(facts, indent=1).encode())
    return Lab(root)


def make_directories(root: Path, *more: str) -> None:
    """Those of two nodes, and more. Raises LabExists."""
    if root.exists() and any(root.iterdir()):
        raise LabExists(path=str(root))
    for name in ("keys", "source", "target", "appliance", "connector", *more):
        make_dir(root / name)


def write_nodes(root: Path, source_kind: str, connector_roots: list[str], connector_more: str) -> None:
    """The nodes' settings, on free ports, and the key that both pin."""
    kek = local.create(root / "keys" / "kek.key")
    port, pairing_port = free_ports(2)
    appliance = APPLIANCE.format(site=SITE_SOURCE, kek=kek, source=SOURCE, kind=source_kind)
    connector = CONNECTOR.format(
        site=SITE_TARGET, port=port, pairing_port=pairing_port, kek=kek, target=TARGET,
        roots=json.dumps(connector_roots),
    )  # fmt: skip
    replace_file(root / "appliance.toml", appliance.encode())
    replace_file(root / "connector.toml", (connector + connector_more).encode())


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            with closing(each):
                pass


def _make_ticket_key(folder: Path) -> None:
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    replace_file(folder / "ticket.key", private)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    replace_file(folder / "ticket.pub", public, mode=0o644)


def _uuid(text: object) -> UUID:
    return UUID(str(text))
