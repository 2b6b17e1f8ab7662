"""What reaches a control plane while disks full of canaries are replicated: its requests, its database, its log.

The nodes are real processes and the control plane's server is the real one, in this process, so that each request can
be recorded as it came out of TLS. The disk is sparse and larger than 5 TiB: where its data and its holes begin, and how
long they are, are numbers that are not met by chance.
"""

import base64
import io
import json
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dmcore.api.operator_client import OperatorClient
from dmcore.api.plans import PlanSpec, PlanView
from dmcore.connector.keyring import PlanKeyring
from dmcore.connector.operator import PointsRequest, ask
from dmcore.control.server import ControlServer
from dmcore.control.settings import load_control
from dmcore.control.web.app import create_app
from dmcore.host import logs
from dmcore.host.settings import LogFormat, LogLevel, LogSettings
from dmcore.keys.local import LocalKek
from dmcore.lab import setup
from dmcore.lab.deployment import Deployment, make_deployment
from dmcore.lab.layout import SOURCE, TARGET
from dmcore.lab.processes import NodeProcess, connector_answers, start_node
from dmcore.model.ids import PlanId
from dmcore.node.settings import load_connector
from dmcore.sources.tracking import start_tracking
from dmcore.sources.writer import TrackedWriter
from tests.lab import canaries
from tests.lab.canaries import Canary

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

BLOCK = 64 << 10
LOWEST, HIGHEST = 1 << 40, 1 << 42
MACHINE = "canary-machine"


class Recorder:
    """An application in front of the control plane's that writes down all it is sent."""

    def __init__(self, app: ASGIApp, into: list[bytes]) -> None:
        self._app, self._into = app, into

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._into.append(b"%s %s?%s" % (scope["method"].encode(), scope["raw_path"], scope["query_string"]))
            self._into += [b"%s: %s" % header for header in scope["headers"]]
            self._into += [decoded for _, value in scope["headers"] for decoded in jwt_parts(value)]

        async def recorded() -> Message:
            message = await receive()
            self._into.append(bytes(message.get("body", b"")))
            return message

        await self._app(scope, recorded, send)


def jwt_parts(header: bytes) -> list[bytes]:
    """What the parts of a token in a header say."""
    if not header.startswith(b"Node "):
        return []
    return [base64.urlsafe_b64decode(part + b"==") for part in header[5:].split(b".")[:2]]


def random_offset(low: int, high: int) -> int:
    return (low // BLOCK + secrets.randbelow((high - low) // BLOCK)) * BLOCK


class CanaryDisk:
    """A sparse disk of random blocks at random places, far apart."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offsets = [random_offset(LOWEST, 2 * LOWEST - BLOCK), random_offset(3 * LOWEST, HIGHEST - BLOCK)]
        self.disk_bytes = random_offset(5 * LOWEST, 7 * LOWEST)
        self.blocks: list[bytes] = []
        path.parent.mkdir()
        with path.open("wb") as file:
            file.truncate(self.disk_bytes)
            for offset in self.offsets:
                file.seek(offset)
                file.write(self._block())
        start_tracking(path)

    def change(self) -> None:
        """Two blocks at new places, through the tracked writer."""
        fresh = [random_offset(2 * LOWEST, 3 * LOWEST - BLOCK) for _ in range(2)]
        with closing(TrackedWriter(self.path)) as writer:
            for offset in fresh:
                writer.write(offset, self._block())
        self.offsets += fresh

    def canaries(self) -> list[Canary]:
        known = [canaries.of_number(f"offset {number}", offset) for number, offset in enumerate(self.offsets)]
        ends = sorted([0, *self.offsets, self.disk_bytes])
        holes = {after - before for before, after in pairwise(ends)}
        holes |= {hole - BLOCK for hole in holes}
        known += [canaries.of_number("length of a hole", hole) for hole in holes if hole >= LOWEST]
        return known + [canaries.of_bytes(f"block {number}", block) for number, block in enumerate(self.blocks)]

    def _block(self) -> bytes:
        self.blocks.append(os.urandom(BLOCK))
        return self.blocks[-1]


@contextmanager
def recorded_control(lab: Deployment, monkeypatch: pytest.MonkeyPatch, said: list[bytes]) -> Iterator[io.StringIO]:
    """The lab's control plane in this process, what it is sent in `said`, what it logs in the stream."""
    monkeypatch.setattr("dmcore.control.server.create_app", lambda plane: Recorder(create_app(plane), said))
    stream = io.StringIO()
    logs.configure(LogSettings(format=LogFormat.JSON, level=LogLevel.DEBUG), stream)
    setup.init_control(lab, lambda _: None)
    with ControlServer(load_control(lab.control_config)):
        yield stream


@contextmanager
def node(lab: Deployment, name: str, *arguments: str) -> Iterator[NodeProcess]:
    process = start_node(lab, name, *arguments)
    try:
        yield process
    finally:
        process.stop()


@contextmanager
def nodes(lab: Deployment) -> Iterator[OperatorClient]:
    setup.log_in(lab)
    with lab.operator() as operator:
        setup.enroll_nodes(lab, operator, lambda _: None)
        with node(lab, "connector", "connector", "serve", "--config", str(lab.connector_config)) as connector:
            await_(lambda: connector_answers(lab), connector)
            setup.pair_nodes(lab, lambda _: None)
            with node(lab, "appliance", "appliance", "run", "--config", str(lab.appliance_config)) as appliance:
                await_(lambda: offers(operator), appliance, connector)
                yield operator


def offers(operator: OperatorClient) -> bool:
    told = operator.nodes().nodes
    return any(SOURCE in each.sources for each in told) and any(TARGET in each.targets for each in told)


def await_(condition: Callable[[], bool], *processes: NodeProcess) -> None:
    pause = threading.Event()
    while not condition():
        for process in processes:
            process.require_running()
        pause.wait(0.1)


def await_points(operator: OperatorClient, plan: PlanView, count: int) -> None:
    def enough() -> bool:
        failed = [job for job in operator.jobs(plan=plan.id).jobs if job.problem]
        assert not failed
        return len(operator.points(plan=plan.id).points) >= count

    await_(enough)


def key_canaries(lab: Deployment, plan: PlanId) -> list[Canary]:
    """The customer's keys, and every digest that the connector keeps."""
    settings = load_connector(lab.connector_config)
    provider = LocalKek(settings.kek.file, settings.kek.fingerprint)
    keys = PlanKeyring(settings.state_dir / "keys", provider).lookup(plan)(1)
    maps = (settings.state_dir / "groups").rglob("maps/*")
    return [
        canaries.of_bytes("DEK", bytes(keys.dek)),
        canaries.of_bytes("digest root", bytes(keys.digest_root)),
        canaries.of_bytes("KEK", bytes.fromhex(settings.kek.file.read_text())),
        *(canaries.of_bytes("digest", b"".join(digests(path))) for path in maps),
    ]


def digests(path: Path) -> Iterator[bytes]:
    """Those that are not holes of the map."""
    with path.open("rb") as file:
        end, at = file.seek(0, os.SEEK_END), 0
        while at < end:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                return
            hole = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            file.seek(at)
            data = file.read(hole - at)
            yield from (piece for piece in canaries.slices(data) if any(piece))
            at = hole


def text_canaries(lab: Deployment, disk: CanaryDisk) -> list[Canary]:
    """Paths, names of disks, what a machine's folder says of it."""
    snapshots = [disk["snapshot"] for point in ask(lab.connector_socket, PointsRequest()) for disk in point["disks"]]
    texts = [str(lab.root), lab.root.name, disk.path.name, *snapshots]
    return [canaries.of_text(f"text {text}", text) for text in texts]


def test_no_block_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[bytes] = []
    lab = make_deployment(tmp_path / f"c{secrets.token_hex(5)}")
    disk = CanaryDisk(lab.source / MACHINE / f"canary-disk-{secrets.token_hex(8)}.img")
    (disk.path.parent / "description.txt").write_text(description := f"canary-description-{secrets.token_hex(8)}")
    with recorded_control(lab, monkeypatch, said) as log, nodes(lab) as operator:
        spec = PlanSpec(name="canaries", source=SOURCE, target=TARGET, machines=(MACHINE,), rpo_s=3600)
        plan = operator.create_plan(spec)
        await_points(operator, plan, 1)
        disk.change()
        operator.run_plan(plan.id)
        await_points(operator, plan, 2)
        known = [*disk.canaries(), *key_canaries(lab, plan.id), *text_canaries(lab, disk)]
        known.append(canaries.of_text("description", description))
        held = [("requests", b"\n".join(said)), ("log", log.getvalue().encode()), *database_files(lab)]
    assert_recorded(held, plan)
    assert canaries.found(held, known) == []


def database_files(lab: Deployment) -> list[tuple[str, bytes]]:
    """The database as it lies on disk, its write-ahead log too."""
    return [(path.name, path.read_bytes()) for path in sorted((lab.root / "control").glob("control.db*"))]


def assert_recorded(held: list[tuple[str, bytes]], plan: PlanView) -> None:
    """The recording works: what may cross was seen crossing, in every place that is searched."""
    where: dict[str, Any] = dict(held)
    assert b"canaries" in where["requests"]
    assert b"heartbeat" in where["requests"] or b"outcome" in where["requests"]
    assert json.dumps(str(plan.id)).encode() in where["requests"]
    assert UUID(str(plan.id)).hex.encode() in b"".join(data for name, data in held if name.startswith("control.db"))
    assert where["log"]
