"""Real nodes under a hostile control plane, something for it to harm, and whether it did.

A connector and two appliances of one site run in this process, so that every file that they open is seen. Beside the
lab lies what no setting names: a secret, a script.
"""

import hashlib
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from dmcore.api.jobs import ConnectorJob, Job, JobResult, Outcome
from dmcore.api.nodes import OfflineCycle
from dmcore.api.tickets import Ticket, sign_ticket
from dmcore.appliance.agent import Appliance
from dmcore.appliance.pairing import pair
from dmcore.appliance.service import ApplianceService
from dmcore.connector.daemon import Connector
from dmcore.host.clock import utc_now
from dmcore.lab.deployment import make_deployment
from dmcore.lab.layout import SITE_SOURCE, SOURCE, TARGET
from dmcore.model.enums import Role
from dmcore.model.ids import CycleId, GroupId, NodeId, PlanId, PointId
from dmcore.model.jobs import JobKind
from dmcore.node import worker
from dmcore.node.backoff import Backoff
from dmcore.node.control_client import NodeClient
from dmcore.node.enrolment import enroll, load_enrolment
from dmcore.node.identity import load_identity
from dmcore.node.settings import (
    ApplianceSettings,
    ConnectorSettings,
    SourceSettings,
    StagingSettings,
    TargetSettings,
    load_appliance,
    load_connector,
)
from dmcore.sources.tracking import start_tracking
from dmcore.sources.writer import TrackedWriter
from tests.lab import canaries
from tests.lab.canaries import Canary
from tests.lab.hostile import TIMEOUT_S, HostileControl, refusal
from tests.trust_kit import FakeClock

BLOCK = 64 << 10
DISK_BYTES = (6 << 30) + 7 * BLOCK
OTHERS, VAULT = "others", "vault"
"""A second source, of machines with the same names; a second target."""
READS_OUTSIDE = tuple({sys.prefix, sys.base_prefix, str(Path(__file__).parents[2]), "/usr", "/etc", "/proc", "/dev"})
"""What Python itself opens: its modules, the time zones, the host names."""
PATH_EVENTS = {
    "open", "os.listdir", "os.scandir", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink",
    "os.truncate", "os.chmod", "os.chown", "os.utime", "shutil.rmtree",
}  # fmt: skip
RUN_EVENTS = {
    "subprocess.Popen",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "os.fork",
    "os.forkpty",
    "pty.spawn",
}


class Eye:
    """Sees every path that is touched and every program that is run in this process, while it is open."""

    def __init__(self) -> None:
        self.open, self.allowed = False, READS_OUTSIDE
        self.seen: list[str] = []
        sys.addaudithook(self._saw)

    def _saw(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.open:
            return
        if event in RUN_EVENTS:
            self.seen.append(f"{event} {arguments!r}")
        elif event in PATH_EVENTS:
            paths = [
                os.path.normpath(Path.cwd() / os.fsdecode(each))
                for each in arguments[:2]
                if isinstance(each, str | bytes | Path)
            ]
            self.seen += [
                f"{event} {path}" for path in paths if path.startswith("/") and not path.startswith(self.allowed)
            ]


EYE = Eye()


@dataclass
class Victim:
    """A group of an honest plan, with a point."""

    plan: PlanId
    group: GroupId
    machines: tuple[str, ...]
    epoch: int = 0
    jobs: list[Job] = field(default_factory=list)
    blocks: list[bytes] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)

    def canaries(self) -> list[Canary]:
        numbers = [canaries.of_number(f"offset {number}", number) for number in self.offsets]
        return numbers + [canaries.of_bytes(f"block {at}", data[:64]) for at, data in enumerate(self.blocks)]


class HostileLab:
    """Made once for many tests: each has a victim of its own."""

    def __init__(self, root: Path) -> None:
        self.lab = make_deployment(root / "lab")
        self.outside = root / "outside"
        self.outside.mkdir()
        (self.outside / "secret.txt").write_text("nobody's business")
        (self.outside / "script.sh").write_text(f"#!/bin/sh\ntouch {self.outside}/was-here\n")
        (self.outside / "script.sh").chmod(0o755)
        (self.lab.root / "vault").mkdir()
        self.others = self.lab.root / "others"
        self.others.mkdir()
        self.clock = FakeClock()
        self.ahead_s = 0.0
        """How far the appliances' clocks are ahead."""
        self.ended: list[Exception] = []
        self._before: dict[GroupId, dict[str, str]] = {}
        with ExitStack() as undo:
            self.control = HostileControl(root / "control")
            undo.callback(self.control.close)
            self.nodes = undo.enter_context(ExitStack())
            self.enroll()
            self.start()
            self._undo = undo.pop_all()

    def close(self) -> None:
        self._undo.close()

    # nodes

    def enroll(self) -> None:
        for name, site, role in self._names():
            state_dir = self.lab.root / name
            enroll(self.control.join_token(site, role), load_identity(state_dir), site, role, state_dir)

    def _names(self) -> list[tuple[str, str, Role]]:
        away = load_connector(self.lab.connector_config).site
        return [
            ("connector", away, Role.CONNECTOR),
            ("appliance", SITE_SOURCE, Role.APPLIANCE),
            ("second", SITE_SOURCE, Role.APPLIANCE),
            ("stranger", "elsewhere", Role.APPLIANCE),
        ]

    def start(self) -> None:
        self.connector = self.nodes.enter_context(
            Connector(self.connector_settings, clock=self.clock, ended=self.ended.append)
        )
        self.connector_id = NodeId(self.connector.trust.identity.node)
        self.services = {name: self._serve(name, site) for name, site, role in self._names() if role is Role.APPLIANCE}

    def stop(self) -> None:
        self.nodes.close()

    def _serve(self, name: str, site: str) -> ApplianceService:
        settings = self.appliance_settings(name, site)
        node = self.nodes.enter_context(Appliance(settings))
        if not (settings.state_dir / "pairings").exists():
            pair(self.connector.pair_token(site), node.identity, site, settings.state_dir)
        enrolment = load_enrolment(settings.state_dir)
        assert enrolment is not None
        client = NodeClient(enrolment, node.identity)
        return self.nodes.enter_context(
            ApplianceService(
                node, client, ended=self.ended.append, look_s=0.05, backoff=quick_backoff,
                clock=lambda: utc_now() + timedelta(seconds=self.ahead_s),
                monotonic=lambda: time.monotonic() + self.ahead_s,
            )
        )  # fmt: skip

    def appliance_settings(self, name: str, site: str) -> ApplianceSettings:
        settings = load_appliance(self.lab.appliance_config)
        known = settings.sources[SOURCE]
        sources = {SOURCE: known, OTHERS: SourceSettings(kind=known.kind, path=self.others)}
        roots = (*settings.allowed_roots, self.others)
        return settings.model_copy(
            update={"site": site, "state_dir": self.lab.root / name, "sources": sources, "allowed_roots": roots}
        )

    @property
    def connector_settings(self) -> ConnectorSettings:
        settings = load_connector(self.lab.connector_config)
        vault = self.lab.root / "vault"
        targets = {**settings.targets, VAULT: TargetSettings(kind=settings.targets[TARGET].kind, path=vault)}
        staging = StagingSettings(reserve_bytes=0)
        return settings.model_copy(
            update={"targets": targets, "staging": staging, "allowed_roots": (*settings.allowed_roots, vault)}
        )

    def node_id(self, name: str = "appliance") -> NodeId:
        return load_identity(self.lab.root / name).node

    # what is there to be harmed

    def victim(self, *, machines: int = 1, plan: PlanId | None = None) -> Victim:
        names = tuple(f"vm-{secrets.token_hex(4)}" for _ in range(machines))
        made = Victim(plan or PlanId(uuid4()), GroupId(uuid4()), names)
        for name in names:
            self._make_disk(self.lab.source, name, made)
            self._make_disk(self.others, name, made)
        self.honest(made)
        return made

    def _make_disk(self, root: Path, machine: str, victim: Victim) -> None:
        path = root / machine / "disk0.img"
        path.parent.mkdir()
        with path.open("wb") as file:
            file.truncate(DISK_BYTES)
            for _ in range(2):
                self._put(file, victim)
        start_tracking(path)

    def _put(self, file: Any, victim: Victim) -> None:
        offset = ((2 << 30) // BLOCK + secrets.randbelow((4 << 30) // BLOCK - 1)) * BLOCK
        victim.offsets.append(offset)
        victim.blocks.append(os.urandom(BLOCK))
        file.seek(offset)
        file.write(victim.blocks[-1])

    def change(self, victim: Victim) -> None:
        """A guest writes a block, at every machine."""
        for machine in victim.machines:
            with closing(TrackedWriter(self.lab.source / machine / "disk0.img")) as writer:
                victim.offsets.append(((2 << 30) // BLOCK + secrets.randbelow((4 << 30) // BLOCK - 1)) * BLOCK)
                victim.blocks.append(os.urandom(BLOCK))
                writer.write(victim.offsets[-1], victim.blocks[-1])

    # jobs, good and bad

    def claims(self, victim: Victim, **changes: Any) -> Ticket:
        now = int(self.clock().timestamp())
        usual = {
            "plan": victim.plan, "group": victim.group, "cycle": CycleId(uuid4()), "epoch": victim.epoch,
            "node": self.node_id(), "connector": self.connector_id, "iat": now, "exp": now + 1800,
        }  # fmt: skip
        return Ticket(**{**usual, **changes})

    def job(
        self, victim: Victim, *, ticket: str | None = None, claims: dict[str, Any] | None = None, **changes: Any
    ) -> Job:
        """The next lease of a group, validly signed, with these of its fields changed."""
        victim.epoch += 1
        claimed = self.claims(victim, **(claims or {}))
        made = Job(
            job=uuid4(), ticket=ticket or sign_ticket(self.control.tickets.private_key, claimed), plan=claimed.plan,
            group=claimed.group, cycle=claimed.cycle, epoch=claimed.epoch, connector=self.connector_id,
            machines=victim.machines, source=SOURCE, target=TARGET,
        )  # fmt: skip
        return made.model_copy(update=changes)

    def run(self, job: Job, name: str = "appliance") -> Outcome:
        self.control.give(self.node_id(name), job)
        return self.control.outcome(job)

    def honest(self, victim: Victim) -> Job:
        """A cycle as it should be, to its point: above the epoch that the connector names, as a control plane does."""
        self.change(victim)
        outcome = self.run(job := self.job(victim))
        if outcome.epoch_floor:
            victim.epoch = outcome.epoch_floor
            outcome = self.run(job := self.job(victim))
        assert outcome.result is JobResult.COMPLETED, outcome
        victim.jobs.append(job)
        self.finished()
        self.newest_is_right(victim)
        return job

    def finished(self) -> None:
        """`commit` is answered at SNAPSHOTTED; what follows is the roller's."""
        roller = self.connector.roller
        with roller._changed:
            assert roller._changed.wait_for(
                lambda: not any(each.running for each in roller._rolling.values()), TIMEOUT_S
            )

    def idle(self) -> None:
        """No appliance runs anything."""
        until(lambda: not any(each.desk.crew.duties() for each in self.services.values()))

    def await_ended(self, count: int) -> None:
        """So many nodes were told that they must stop."""
        until(lambda: len(self.ended) >= count)

    def begin_alone(self, victim: Victim) -> OfflineCycle:
        """The control plane goes away for long, and comes back: what the appliance has run by itself."""
        service = self.services["appliance"]
        self.control.everything = refusal(503, "away")
        until(lambda: service.desk.is_alone or service.desk._away_since is not None)
        self.ahead_s += 3600
        until(service.state.reports)
        self.idle()
        (report, *_) = service.state.reports()
        self.control.everything = None
        until(lambda: not service.state.reports())
        assert report.group == victim.group
        return report

    def connector_job(self, kind: JobKind, *points: PointId, **changes: Any) -> ConnectorJob:
        return ConnectorJob(job=uuid4(), kind=kind, epoch=1, points=points, **changes)

    def ask_connector(self, kind: JobKind, *points: PointId, **changes: Any) -> Outcome:
        job = self.connector_job(kind, *points, **changes)
        self.control.give(self.connector_id, job)
        return self.control.outcome(job)

    # what became of it

    def points(self, victim: Victim) -> list[PointId]:
        return [point.id for point in self.connector.groups.get(victim.group).catalogue.all()]

    def age(self, days: float) -> None:
        """Time goes by as it does: the connector looks at its clock now and then."""
        for _ in range(int(days * 2)):
            self.clock.advance(hours=12)
            self.connector.guard.look()

    def held(self, victim: Victim) -> dict[str, str]:
        """Whatever must stay as it is of a plan: shadows, snapshots, points, what it is bound to."""
        state = self.connector.groups.get(victim.group).state
        disks = {str(disk) for disk in state.images}
        files = [
            path for folder in ("target", "vault") for path in (self.lab.root / folder).rglob("*.img")
            if path.name[:36] in disks
        ]  # fmt: skip
        kept = {str(path): _content(path) for path in files}
        kept["images"] = repr(sorted((str(disk), image.model_dump_json()) for disk, image in state.images.items()))
        kept["bound"] = (self.connector.settings.state_dir / "plans" / f"{victim.plan}.json").read_text()
        kept["points"] = repr(self.points(victim))
        return kept

    def expected(self, victim: Victim) -> None:
        """A cycle of the victim's own has come to its end: what was there is there, and a right point more."""
        before, now = self._before[victim.group], self.held(victim)
        kept = {name for name in before if "snapshots" in name or name == "bound"}
        assert {name: now[name] for name in kept} == {name: before[name] for name in kept}
        self.newest_is_right(victim)
        self._before[victim.group] = now

    def newest_is_right(self, victim: Victim) -> None:
        """The newest point is what the guest has written."""
        point = self.connector.groups.get(victim.group).catalogue.all()[-1]
        assert {disk.machine for disk in point.disks} == set(victim.machines)
        for disk in point.disks:
            source = self.lab.source / disk.machine / disk.label
            assert blocks_of(self.lab.root / "target" / "snapshots" / f"{disk.snapshot}.img") == blocks_of(source)

    def listing(self) -> set[str]:
        """All that lies beside the places that the settings name, and what it holds."""
        inside = ("appliance", "second", "stranger", "connector", "target", "vault", "recovered")
        roots = [self.outside, *(each for each in self.lab.root.iterdir() if each.name not in inside)]
        paths = [path for root in roots for path in (root, *root.rglob("*")) if path.suffix != ".journal"]
        return {f"{path} {path.stat().st_mtime_ns if path.is_file() else ''}" for path in paths}

    @contextmanager
    def unharmed(self, *victims: Victim) -> Iterator[None]:
        """Whatever is done inside touches nothing of these plans, no path outside, runs nothing; then they go on."""
        self._before = {victim.group: self.held(victim) for victim in victims}
        beside, heard = self.listing(), len(self.control.heard)
        EYE.seen, EYE.allowed, EYE.open = [], (*READS_OUTSIDE, str(self.lab.root)), True
        try:
            yield
        finally:
            EYE.open = False
        assert EYE.seen == []
        assert self.listing() == beside
        for victim in victims:
            assert self.held(victim) == self._before[victim.group]
        for victim in victims:
            self.honest(victim)
            known = [*victim.canaries(), *self._secrets(victim)]
            assert canaries.found([("what was said", b"\n".join(self.control.heard[heard:]))], known) == []

    def _secrets(self, victim: Victim) -> list[Canary]:
        keys = self.connector.keyring.lookup(victim.plan)(1)
        return [
            canaries.of_bytes("DEK", bytes(keys.dek)),
            canaries.of_bytes("digest root", bytes(keys.digest_root)),
            canaries.of_text("path", str(self.lab.root)),
            canaries.of_text("path", str(self.outside)),
        ]


def blocks_of(path: Path) -> dict[int, bytes]:
    """A sparse file's blocks that are not zeros."""
    found: dict[int, bytes] = {}
    with path.open("rb") as file:
        end, at = file.seek(0, os.SEEK_END), 0
        while at < end:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA) // BLOCK * BLOCK
            except OSError:
                break
            file.seek(at)
            if any(data := file.read(BLOCK)):
                found[at] = data
            at += BLOCK
    return found


def _content(path: Path) -> str:
    told = repr(sorted(blocks_of(path).items())).encode()
    return f"{path.stat().st_size} {hashlib.sha256(told).hexdigest()}"


def until(condition: Callable[[], object]) -> None:
    """Wait for what another thread brings about and tells nobody."""
    pause = threading.Event()
    for _ in range(int(TIMEOUT_S / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it never came")


def quick_backoff() -> Backoff:
    return Backoff(first_s=0.01, cap_s=0.05)


@contextmanager
def quick() -> Iterator[None]:
    """Nodes ask again at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "MIN_ROUND_S", 0.02)
        patch.setattr(worker, "BETWEEN_JOBS_S", 0.01)
        patch.setattr(worker, "Backoff", quick_backoff)
        yield
