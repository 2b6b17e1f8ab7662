"""A connector that serves, and an appliance that is paired with it."""

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dmcore.connector import groups
from dmcore.native.patching import BlockIO
from dmcore.targets.registry import open_target
from tests.connector.appliance import Appliance, Attempt, Sender
from tests.connector.kit import TIMEOUT_S, Disk
from tests.connector.rig import Rig, make_rig
from tests.fault_plan import FaultPlan
from tests.filesystems import small_file_system
from tests.targets.faulty import FaultyTarget

__all__ = ["small_file_system"]


@pytest.fixture
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    """A connector of the test's own, to stop, restart and misconfigure; or a group of its own in `house`."""
    if "house" in request.fixturenames:
        yield request.getfixturevalue("house").rig.sharing()
        return
    rig = make_rig(tmp_path / "lab")
    rig.start()
    yield rig
    rig.stop()


@pytest.fixture
def appliance(request: pytest.FixtureRequest, rig: Rig) -> Iterator[Appliance]:
    if "house" in request.fixturenames:
        house = request.getfixturevalue("house")
        made = Appliance(rig, house.identity, house.pairing)
    else:
        made = rig.pair()
    with closing(made) as appliance:
        yield appliance


@pytest.fixture
def disk(rig: Rig) -> Disk:
    return Disk.make(rig.plan, "d0")


@pytest.fixture
def attempt(appliance: Appliance, disk: Disk) -> Attempt:
    return appliance.begin(disk)


@pytest.fixture
def sender(attempt: Attempt, disk: Disk) -> Sender:
    """A stream with one batch of two blocks acknowledged."""
    sender = attempt.open(disk)
    sender.start()
    sender.send(sender.sealed(0, 1))
    return sender


@pytest.fixture
def old_content(rig: Rig, appliance: Appliance, disk: Disk) -> bytes:
    """Two points; what the disk was at the first one."""
    appliance.run(disk)
    before = bytes(disk.data)
    disk.change(5)
    appliance.run(disk, carry=[5])
    return before


@pytest.fixture
def faulty(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultPlan]:
    """The rig's connector over targets that fail as told. Every fault must be reached."""
    plan = FaultPlan()

    def open_faulty(kind: str, path: Path, io: BlockIO) -> FaultyTarget:
        target = FaultyTarget(open_target(kind, path, io))
        target.plan = plan
        return target

    monkeypatch.setattr(groups, "open_target", open_faulty)
    rig.restart()
    yield plan
    plan.verify_exercised()


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    """One connector and appliance for the modules whose tests only talk to it (`usefixtures`)."""
    rig = make_rig(tmp_path_factory.mktemp("house") / "lab")
    rig.start()
    meeting = threading.Barrier(2)  # a pool's threads start when they are first needed: not in the midst of a test
    for done in [rig.connector.roller._pool.submit(meeting.wait) for _ in range(2)]:
        done.result(TIMEOUT_S)
    yield rig.pair()
    rig.stop()
