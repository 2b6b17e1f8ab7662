"""A connector as a whole: what it takes, what it gives back, and that a start is a recovery."""

import threading
from pathlib import Path

import pytest

from dmcore.connector.daemon import Connector
from dmcore.connector.errors import ListenFailed
from dmcore.keys.errors import KekNotPinned
from dmcore.model.phase import Phase
from dmcore.node.errors import FileBroken, NodeRunning
from dmcore.node.settings import ControlSettings, KekSettings
from dmcore.targets.errors import FlushFailed
from dmcore.targets.folder import FolderTarget
from tests.connector.appliance import Appliance, Attempt
from tests.connector.kit import TIMEOUT_S, Disk, refusal
from tests.connector.rig import Rig
from tests.fault_plan import FaultPlan


@pytest.fixture
def threads() -> set[threading.Thread]:
    return set(threading.enumerate())


def test_stop_joins_every_thread_and_releases_everything(
    threads: set[threading.Thread], rig: Rig, appliance: Appliance, disk: Disk
) -> None:
    appliance.run(disk)
    sender = appliance.begin(disk).open(disk)
    sender.start()
    rig.stop()
    rig.stop()
    assert set(threading.enumerate()) == threads
    FolderTarget(rig.lab.root / "target").close()
    with Connector(rig.settings):
        pass


def test_stop_without_start(threads: set[threading.Thread], rig: Rig) -> None:
    rig.stop()
    Connector(rig.settings).stop()
    assert set(threading.enumerate()) == threads


def test_a_start_rolls_forward_what_was_sealed(rig: Rig, faulty: FaultPlan, attempt: Attempt, disk: Disk) -> None:
    faulty.fail("flush", FlushFailed(path="/x", problem="gone"), times=2)
    attempt.send(disk, disk.blocks)
    assert refusal(attempt.commit).code == "target.flush"
    rig.restart()
    rig.wait_until_finished()
    assert attempt.appliance.state().busy  # it failed again, and so it stays
    rig.restart()
    (shadow,) = rig.connector.groups.all()
    assert rig.connector.roller.wait(shadow, TIMEOUT_S) is not Phase.SEALED
    rig.wait_until_finished()
    assert shadow.state.cycle is not None
    assert shadow.state.cycle.phase is Phase.RECLAIMED
    assert rig.image_of(disk, attempt.cycle) == bytes(disk.data)


def test_a_start_keeps_what_was_acknowledged(rig: Rig, attempt: Attempt, disk: Disk) -> None:
    sender = attempt.open(disk)
    sender.start()
    sender.send(sender.sealed(0, 1, 2))
    rig.restart()
    assert attempt.open(disk).durable == {0, 1, 2}


def test_a_second_one_on_the_same_state(rig: Rig) -> None:
    with pytest.raises(NodeRunning, match=str(rig.state_dir)) as refused:
        Connector(rig.settings)
    assert refused.value.code == "node.running"


@pytest.mark.parametrize("which", ["listen", "pairing_listen"])
def test_a_port_that_is_taken(rig: Rig, which: str) -> None:
    taken = rig.connector.server.address
    rig.stop()
    with Connector(rig.settings.model_copy(update={"state_dir": rig.lab.root / "other", "listen": taken})):
        rig.changes[which] = taken
        with pytest.raises(ListenFailed, match=f"cannot listen on {taken}.*in use"):
            Connector(rig.settings)
    rig.start()  # what the failed one had taken is free again


def test_no_ticket_key(rig: Rig) -> None:
    rig.stop()
    absent = rig.lab.root / "absent.pub"
    with pytest.raises(FileBroken, match=str(absent)):
        Connector(rig.settings.model_copy(update={"control": ControlSettings(ticket_key=absent)}))
    rig.start()


def test_another_kek_than_the_pinned_one(rig: Rig) -> None:
    rig.stop()
    wrong = KekSettings(file=rig.settings.kek.file, fingerprint="ab" * 32)
    with pytest.raises(KekNotPinned):
        Connector(rig.settings.model_copy(update={"kek": wrong}))
    rig.start()


def test_a_state_directory_too_deep_for_its_socket(rig: Rig, tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["deeper-and-deeper"] * 6)
    with pytest.raises(ListenFailed, match=r"connector\.sock"):
        Connector(rig.settings.model_copy(update={"state_dir": deep, "targets": {}}))
    rig.restart()
