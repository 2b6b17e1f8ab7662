"""A whole connector in this process, over a lab's directory, and an appliance paired with it."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from dmcore.api.tickets import Ticket, sign_ticket
from dmcore.appliance.pairing import pair
from dmcore.connector.daemon import SOCKET_FILE, Connector
from dmcore.connector.errors import OperationRefused
from dmcore.connector.operator import PointsRequest, Request, ask
from dmcore.host.address import Address
from dmcore.lab.layout import SITE_SOURCE, TARGET, Lab, make_lab
from dmcore.model.ids import CycleId, GroupId, PlanId, PointId
from dmcore.node.identity import load_identity
from dmcore.node.settings import ConnectorSettings, StagingSettings, load_connector
from dmcore.shadow.storage import Storage
from tests.connector.appliance import Appliance
from tests.connector.kit import TIMEOUT_S, Disk
from tests.trust_kit import FakeClock

ANY_PORT = Address("127.0.0.1", 0)


@dataclass
class Rig:
    """A lab's directory, its connector, its appliance. `restart` is a stop, or a crash, and a start."""

    lab: Lab
    clock: FakeClock = field(default_factory=FakeClock)
    plan: PlanId = field(default_factory=lambda: PlanId(uuid4()))
    group: GroupId = field(default_factory=lambda: GroupId(uuid4()))
    changes: dict[str, Any] = field(default_factory=dict)
    storage: Storage | None = None
    epoch: int = 0

    @property
    def settings(self) -> ConnectorSettings:
        settings = load_connector(self.lab.connector_config)
        staging = StagingSettings(path=None, quota_bytes=None, reserve_bytes=0)
        usual = {"listen": ANY_PORT, "pairing_listen": ANY_PORT, "staging": staging}
        return settings.model_copy(update={**usual, **self.changes})

    def limits(self, **limits: Any) -> None:
        self.changes["limits"] = self.settings.limits.model_copy(update=limits)

    def start(self) -> None:
        self.connector = Connector(self.settings, self.storage, self.clock)
        self.connector.start()

    def stop(self) -> None:
        self.connector.stop()

    def restart(self) -> None:
        self.stop()
        self.start()

    def sharing(self) -> "Rig":
        """A plan and group of its own on the same running connector."""
        shared = replace(self, plan=PlanId(uuid4()), group=GroupId(uuid4()), epoch=0)
        shared.connector = self.connector
        return shared

    def nothing_was_made(self) -> bool:
        """Whether nothing is there of the plan and group."""
        named = [self.state_dir.rglob(f"*{each}*") for each in (self.plan, self.group)]
        return not [path for found in named for path in found]

    @property
    def state_dir(self) -> Path:
        return self.lab.root / "connector"

    @property
    def socket(self) -> Path:
        return self.state_dir / SOCKET_FILE

    def pair(self, name: str = "appliance", site: str = SITE_SOURCE) -> Appliance:
        state_dir = self.lab.root / name
        identity = load_identity(state_dir)
        return Appliance(self, identity, pair(self.connector.pair_token(site), identity, site, state_dir))

    def ticket(self, appliance: Appliance, cycle: CycleId, epoch: int, /, **changes: Any) -> str:
        now = int(self.clock().timestamp())
        claims: dict[str, Any] = {
            "plan": self.plan, "group": self.group, "cycle": cycle, "epoch": epoch, "node": appliance.identity.node,
            "connector": self.connector.trust.identity.node, "iat": now, "exp": now + 600,
        }  # fmt: skip
        return sign_ticket(self.lab._ticket_key(), Ticket(**{**claims, **changes}))

    def next_epoch(self) -> int:
        self.epoch += 1
        return self.epoch

    def wait_until_finished(self) -> None:
        """`commit` is answered at SNAPSHOTTED; what follows is the roller's."""
        roller = self.connector.roller

        def idle() -> bool:
            return not any(each.running for each in roller._rolling.values())

        with roller._changed:
            assert roller._changed.wait_for(idle, TIMEOUT_S)

    def image_of(self, disk: Disk, cycle: CycleId) -> bytes:
        """What a recovery point gives back."""
        with closing(self.connector.groups.target(TARGET).open_snapshot(f"{disk.id}@{cycle}")) as snapshot:
            held = bytearray(len(disk.data))
            snapshot.read_into(0, held)
            return bytes(held)


def make_rig(root: Path, **changes: Any) -> Rig:
    return Rig(make_lab(root), changes=changes)


@contextmanager
def running(root: Path, **changes: Any) -> Iterator[Appliance]:
    """A connector of one test's own, with an appliance."""
    rig = make_rig(root, **changes)
    rig.start()
    try:
        with closing(rig.pair()) as appliance:
            yield appliance
    finally:
        rig.stop()


def refused(rig: Rig, request: Request) -> OperationRefused:
    with pytest.raises(OperationRefused) as caught:
        ask(rig.socket, request)
    assert caught.value.correlation
    return caught.value


def newest(rig: Rig) -> PointId:
    return PointId(ask(rig.socket, PointsRequest())[-1]["id"])
