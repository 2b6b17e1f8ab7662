"""A whole appliance as a service, with a real connector and a control plane that is an object."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from dmcore.api.jobs import Job
from dmcore.api.limits import NO_LIMIT
from dmcore.api.nodes import AssignedGroup, AssignedPlans, OfflineCycle
from dmcore.api.tickets import Ticket, sign_ticket
from dmcore.appliance import agent
from dmcore.appliance.agent import Appliance
from dmcore.appliance.duty import End
from dmcore.appliance.service import ApplianceService
from dmcore.lab.layout import SOURCE, TARGET, TICKET_LIFE
from dmcore.model.enums import SnapshotKind
from dmcore.model.ids import CycleId, GroupId, NodeId, PlanId, PointId
from dmcore.node import worker
from dmcore.node.backoff import Backoff
from tests.appliance.cycle_lab import KIB, CycleLab, text
from tests.appliance.scripted_control import TIMEOUT_S, ScriptedControl
from tests.appliance.watched import Read, WatchedSource
from tests.sources.memory import MemorySource

RPO_S = 600
SIZE = 512 * KIB


def quick() -> Backoff:
    return Backoff(first_s=0.01, cap_s=0.02)


@dataclass
class Times:
    """Both clocks of a node. They stand until they are moved; only the wall's may jump."""

    wall: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    mono: float = 1000.0

    def now(self) -> datetime:
        return self.wall

    def monotonic(self) -> float:
        return self.mono

    def advance(self, seconds: float) -> None:
        self.mono += seconds
        self.wall += timedelta(seconds=seconds)

    def jump(self, **by: float) -> None:
        self.wall += timedelta(**by)


@dataclass
class Gate:
    """Holds a machine's reads once it is reached, until it is opened."""

    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)

    def pass_through(self) -> None:
        self.reached.set()
        assert self.opened.wait(TIMEOUT_S)


@dataclass(frozen=True)
class Group:
    """A machine of its own, with a plan."""

    plan: PlanId
    id: GroupId
    machine: str


class ServiceLab:
    """Groups are made by `group`; each machine has one disk, named like it."""

    def __init__(self, cycles: CycleLab, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cycles, self.control, self.times = cycles, ScriptedControl(), Times()
        self.memory = MemorySource(SnapshotKind.REFLINK)
        self.source = WatchedSource(self.memory)
        self.source.watch.act = self._act
        self._gates: dict[tuple[str, int], Gate] = {}
        self._all_gates: list[Gate] = []
        self._epochs: dict[GroupId, int] = {}
        self.plan = PlanId(uuid4())
        self.ended: list[Exception] = []
        monkeypatch.setattr(worker, "MIN_ROUND_S", 0.02)
        monkeypatch.setattr(agent, "open_alias", lambda _settings, _alias: self.source)
        self._running: list[tuple[Appliance, ApplianceService]] = []

    # the service

    def start(self, **settings: Any) -> ApplianceService:
        node = Appliance(self.cycles.settings.model_copy(update=settings))
        made = ApplianceService(
            node, self.control.client(), ended=self.ended.append, clock=self.times.now,
            monotonic=self.times.monotonic, backoff=quick, look_s=0.02,
        )  # fmt: skip
        self._running.append((node, made))
        made.start()
        return made

    def stop(self) -> None:
        """As a SIGTERM does, also to what waits at a gate."""
        for _, made in self._running:
            for duty in made.desk.crew.duties():
                duty.stop(End.STOPPED)
        for gate in self._all_gates:
            gate.opened.set()
        while self._running:
            node, made = self._running.pop()
            made.stop()
            node.close()

    @property
    def service(self) -> ApplianceService:
        return self._running[-1][1]

    # the source

    def group(self, machine: str = "vm1", size: int = SIZE) -> Group:
        self.memory.add(machine, machine, text(size, len(machine) + sum(machine.encode())))
        return Group(self.plan, GroupId(uuid4()), machine)

    def write(self, group: Group, data: bytes, offset: int = 0) -> None:
        self.memory.write(group.machine, group.machine, offset, data)

    def content(self, group: Group) -> bytes:
        return bytes(self.memory._disks[group.machine, group.machine].content)

    def gate(self, group: Group, read: int = 3) -> Gate:
        """Before this many reads of the group's disk are done."""
        made = self._gates[group.machine, read] = Gate()
        self._all_gates.append(made)
        return made

    def _act(self, read: Read) -> None:
        number = 1 + sum(each.disk == read.disk for each in self.source.watch.reads)
        gate = self._gates.pop((read.disk, number), None)
        if gate is not None:
            gate.pass_through()

    # the control plane

    def job(self, group: Group, cycle: CycleId | None = None, **changes: Any) -> Job:
        """The next lease of a group."""
        epoch = self._epochs[group.id] = self._epochs.get(group.id, 0) + 1
        connector = self.cycles.connector.trust.identity.node
        now, node = datetime.now(UTC), self.cycles.identity.node
        claims = Ticket(
            plan=group.plan, group=group.id, cycle=cycle or CycleId(uuid4()), epoch=epoch, node=node,
            connector=NodeId(connector), iat=int(now.timestamp()), exp=int((now + TICKET_LIFE).timestamp()),
        )  # fmt: skip
        made = Job(
            job=uuid4(), ticket=sign_ticket(self.cycles.lab._ticket_key(), claims), plan=group.plan, group=group.id,
            cycle=claims.cycle, epoch=epoch, connector=connector, machines=(group.machine,), source=SOURCE,
            target=TARGET,
        )  # fmt: skip
        return made.model_copy(update=changes)

    def assign(self, *groups: Group, paused: bool = False) -> None:
        """The plans that the node is told of."""
        assigned = tuple(
            AssignedGroup(
                plan=group.plan, group=group.id, machines=(group.machine,), rpo_s=RPO_S, paused=paused, limit=NO_LIMIT
            )
            for group in groups
        )
        with self.control.changed:
            version = self.control.assigned.version + 1
            self.control.assigned = AssignedPlans(version=version, site_limit=NO_LIMIT, groups=assigned)

    def run_once(self, group: Group) -> Job:
        """One leased cycle, to its point; the plans are known then, too."""
        job = self.job(group)
        self.control.enqueue(job)
        self.control.outcome(job)
        self.settle()
        return job

    def alone(self) -> None:
        """The control plane is gone, for so long that the node has noticed."""
        self.control.away()
        self.until(lambda: self.service.desk._away_since is not None)
        self.times.advance(31)

    # the connector

    def settle(self) -> None:
        """Nothing runs, and the connector has finished what it has."""
        self.idle()
        self.cycles.settle()

    def idle(self) -> None:
        """Nothing runs here."""
        self.until(lambda: not self.service.desk.crew.duties())

    def points(self) -> list[PointId]:
        return self.cycles.points()

    def until_points(self, count: int) -> None:
        self.until(lambda: len(self.points()) >= count)
        self.settle()

    def reports(self) -> list[OfflineCycle]:
        return self.service.state.reports()

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for what another thread brings about and tells nobody."""
        pause = threading.Event()
        for _ in range(int(TIMEOUT_S / 0.01)):
            if condition():
                return
            pause.wait(0.01)
        pytest.fail(f"never came; said {self.control.said[-10:]}, reports {self.service.state.reports()}")
