"""kill -9 of the real processes, again and again, while plans cycle; then: every point right, nothing left behind.

A control plane on SQLite, a connector, an appliance, TLS between them, two machines whose disks are always written.
An even seed has its lab on XFS, where sources and targets have snapshots; an odd one on a file system without reflinks.
A seed decides who is killed and when; what the processes are doing just then is up to the machine.
"""

import os
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from dmcore.api.operator_client import OperatorClient
from dmcore.api.plans import PlanSpec
from dmcore.connector.operator import PointsRequest, ask
from dmcore.errors import DmcoreError
from dmcore.lab import setup
from dmcore.lab.deployment import Deployment, make_deployment
from dmcore.lab.layout import SOURCE, TARGET
from dmcore.lab.processes import connector_answers
from dmcore.model.ids import PlanId
from tests.filesystems import mounted, why_not
from tests.torture.aftermath import Aftermath
from tests.torture.roles import READY_S, ForkServer, Roles, await_, started, tail
from tests.torture.suite import Suite
from tests.torture.writer import IN_BURSTS, STEADY, Machine, Writers

KILLS = 40
"""Of one scenario in `make torture`."""
DISK_BYTES = 3 << 20
XFS_BYTES = 2 << 30
RPO_S = 5
HEARTBEAT_S, LEASE_S = 5, 20
AIM_S = 1.5
DOWN_S = (0.0,) * 16 + (0.2,) * 8 + (1.0,) * 3
"""For how long."""
LONG_S, LONG_RATE, LAST = 12.0, 0.04, 5
"""Now and then longer than an appliance waits until it goes on without a control plane. Not among the last so many:
nodes that were not answered for long ask seldom, and progress is to be seen soon after those."""
VICTIMS = ("control", "connector", "appliance")

Aim = Callable[[Deployment], bool]
"""What is waited for before somebody is killed."""


class KillLoop(Suite):
    name = "kill-loop"

    def __init__(self, kills: int = KILLS) -> None:
        self.kills = kills

    def run(self, seed: int, folder: Path) -> Counter[str]:
        with place(seed, folder) as root, closing(ForkServer()) as server:
            lab, machines = make_lab(root, seed)
            with started(lab, server) as roles, lab.operator() as operator:
                try:
                    return self._run(seed, roles, operator, machines)
                except Exception as error:
                    error.add_note("\n".join(f"{path.name}: {tail(path)}" for path in lab.logs.glob("*.log")))
                    raise

    def _run(self, seed: int, roles: Roles, operator: OperatorClient, machines: list[Machine]) -> Counter[str]:
        plan = protect(operator, roles, machines)
        after = Aftermath(roles, operator, plan, machines)
        writers = Writers(machines, IN_BURSTS if seed % 2 else STEADY, seed)
        writers.start()
        try:
            tally = Killer(roles, operator, plan, seed).kill(self.kills)
            tally += after.progress(HEARTBEAT_S)
        finally:
            writers.stop()
        tally += after.check()
        roles.stop_all()
        after.nothing_runs()
        return tally


class Killer:
    """Kills roles at random moments, and starts them again."""

    def __init__(self, roles: Roles, operator: OperatorClient, plan: PlanId, seed: int) -> None:
        self._lab, self._roles, self._operator, self._plan = roles.lab, roles, operator, plan
        self._snapshots = seed % 2 == 0
        self._rng, self._pause, self._tally = random.Random(seed), threading.Event(), Counter[str]()

    def kill(self, count: int) -> Counter[str]:
        """So many, then all roles answer."""
        began = time.monotonic()
        while (left := count - self._tally["kills"]) > 0:
            self._round(long=left > LAST and self._rng.random() < LONG_RATE)
        for name in VICTIMS:
            self._await(name)
        self._tally["seconds of killing"] = round(time.monotonic() - began)
        return self._tally

    def _round(self, *, long: bool) -> None:
        rng = self._rng
        victims = rng.sample(VICTIMS, 2 if rng.random() < 0.15 else 1)
        delay_s, down_s = rng.choice((0.0, 0.02, 0.2, 0.6)) * rng.random(), rng.choice(DOWN_S)
        patient = rng.random() < 0.8
        self._aim(rng.choice([aim for aim in AIMS if aim is not has_snapshot or self._snapshots]))
        self._pause.wait(delay_s)
        self._roles.require_running()
        for name in victims:
            self._roles.kill(name)
            self._tally.update(["kills", f"kills of {name}"])
        self._pause.wait(LONG_S if long else down_s)
        for name in victims:
            self._roles.start(name)
            if patient:
                self._await(name)

    def _aim(self, aim: Aim) -> None:
        """Have something to do for all roles, and wait until they are at it."""
        with suppress(DmcoreError):  # there may be no control plane just now
            self._operator.run_plan(self._plan)
        until = time.monotonic() + AIM_S
        while time.monotonic() < until:
            with suppress(OSError):  # what is looked at goes away at any moment
                if aim(self._lab):
                    self._tally[f"kills while {AIMS[aim]}"] += 1
                    return
            self._pause.wait(0.002)

    def _await(self, name: str) -> None:
        await_(lambda: READY[name](self._lab), READY_S, f"{name} answers", self._roles)


def has_snapshot(lab: Deployment) -> bool:
    return any((lab.source / ".dmcore-snapshots").glob("*"))


def has_staging(lab: Deployment) -> bool:
    return any((lab.root / "connector" / "staging").glob("*/*/*"))


def whatever(_: Deployment) -> bool:
    return True


AIMS: dict[Aim, str] = {
    has_snapshot: "a source snapshot is there",
    has_staging: "blocks are staged",
    whatever: "anything goes on",
}
READY: dict[str, Aim] = {"control": setup.control_answers, "connector": connector_answers, "appliance": whatever}


@contextmanager
def place(seed: int, folder: Path) -> Iterator[Path]:
    """Where the lab is: on an XFS of its own, or as the folder's file system is."""
    if seed % 2 or why_not():
        yield folder / "lab"
        return
    image = folder / "xfs.img"
    with image.open("wb") as file:
        file.truncate(XFS_BYTES)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", str(image)], check=True, capture_output=True)
    with mounted(str(image), ["-o", "loop"], folder / "mnt") as at:
        yield at / "lab"
    os.unlink(image)  # noqa: PTH108 - what is unmounted lazily goes with its last user


def make_lab(root: Path, seed: int) -> tuple[Deployment, list[Machine]]:
    """A lab whose nodes speak often, and two machines."""
    lab = make_deployment(root)
    settings = lab.control_config.read_text()
    assert "lease_s = 20\nheartbeat_s = 1\n" in settings
    leases = f"lease_s = {LEASE_S}\nheartbeat_s = {HEARTBEAT_S}\ntick_s = 0.2\n"
    lab.control_config.write_text(settings.replace("lease_s = 20\nheartbeat_s = 1\n", leases))
    with lab.connector_config.open("a") as config:
        config.write("\n[staging]\nreserve_bytes = 0\n")  # the file system is smaller than the usual reserve
    machines = [Machine(lab.source / name, DISK_BYTES, seed * 100 + n) for n, name in enumerate(("web1", "web2"))]
    for machine in machines:
        machine.make()
    return lab, machines


def protect(operator: OperatorClient, roles: Roles, machines: list[Machine]) -> PlanId:
    """A plan of all machines, each with a point already."""
    names = tuple(machine.name for machine in machines)
    plan = operator.create_plan(PlanSpec(name="kills", source=SOURCE, target=TARGET, machines=names, rpo_s=RPO_S)).id
    await_(lambda: len(points_of(roles.lab)) >= len(machines), READY_S, "each machine has its first point", roles)
    return plan


def points_of(lab: Deployment) -> list[dict[str, object]]:
    found: list[dict[str, object]] = ask(lab.connector_socket, PointsRequest())
    return found
