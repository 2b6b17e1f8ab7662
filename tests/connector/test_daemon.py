"""A connector as a whole: what it takes, what it gives back, and that a start is a recovery."""

import threading
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest

from dmcore.api.client_errors import ControlRefused
from dmcore.api.server_trust import ServerTrust
from dmcore.connector import daemon
from dmcore.connector.daemon import Connector
from dmcore.connector.errors import ListenFailed, TicketKeyMissing
from dmcore.connector.operator import PreserveRequest, RecoverRequest, ask
from dmcore.errors import ExitCode
from dmcore.host.errors import FileBroken, NodeRunning
from dmcore.keys.errors import KekNotPinned
from dmcore.model.enums import Role
from dmcore.model.phase import Phase
from dmcore.node.control_errors import NodeReplaced
from dmcore.node.enrolment import Enrolment
from dmcore.node.settings import ControlSettings, KekSettings
from dmcore.targets.errors import FlushFailed
from dmcore.targets.folder import FolderTarget
from tests.connector.appliance import Appliance, Attempt
from tests.connector.fake_control import UNREACHABLE, FakeNodeClient
from tests.connector.kit import TIMEOUT_S, Disk, refusal, until
from tests.connector.rig import Rig, newest
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


def test_neither_a_ticket_key_nor_an_enrolment(rig: Rig) -> None:
    rig.stop()
    with pytest.raises(TicketKeyMissing, match=r"dmctl connector enroll.*control\.ticket_key") as missing:
        Connector(rig.settings.model_copy(update={"control": ControlSettings()}))
    assert (missing.value.code, missing.value.exit_code) == ("ticket.no-key", ExitCode.CONFIGURATION)
    rig.start()


def enrolled(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> FakeNodeClient:
    """The rig's connector is enrolled from its next start on."""
    control, key = FakeNodeClient(), rig.lab.root / "keys" / "ticket.pub"
    trust = ServerTrust(fingerprint="ab" * 32)
    enrolment = Enrolment(uuid4(), ("https://control",), "away", Role.CONNECTOR, trust, key)
    monkeypatch.setattr(daemon, "load_enrolment", lambda _: enrolment)
    monkeypatch.setattr(daemon, "NodeClient", lambda *_: control)
    return control


def test_an_enrolled_one_needs_no_other_ticket_key(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.changes["control"] = ControlSettings()
    enrolled(rig, monkeypatch)
    rig.restart()
    with closing(rig.pair()) as appliance:
        assert appliance.run(Disk.make(rig.plan, "d0")).reply


def test_the_configured_ticket_key_counts_before_the_enrolments(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    enrolled(rig, monkeypatch)
    rig.stop()
    absent = rig.lab.root / "absent.pub"
    with pytest.raises(FileBroken, match=str(absent)):
        Connector(rig.settings.model_copy(update={"control": ControlSettings(ticket_key=absent)}))
    rig.start()


def test_a_lost_control_plane_holds_nothing_up_and_hears_of_every_point_later(
    rig: Rig, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = enrolled(rig, monkeypatch)
    control.refuse(UNREACHABLE)
    rig.restart()
    with closing(rig.pair()) as appliance:
        cycles = [appliance.run(disk).cycle, appliance.run(disk, carry=[3]).cycle]
    rig.wait_until_finished()
    (shadow,) = rig.connector.groups.all()
    assert shadow.state.cycle is not None
    assert shadow.state.cycle.phase is Phase.RECLAIMED
    assert len(list((rig.state_dir / "outbox").glob("*.json"))) == 2
    rig.restart()
    control.refuse(None)
    assert rig.connector.outbox is not None
    until(lambda: rig.connector.outbox is not None and not rig.connector.outbox.waiting)
    assert {fact.cycle for fact in control.stated} == set(cycles)


def test_an_enrolment_hears_of_the_points_before_it(
    rig: Rig, old_content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.wait_until_finished()
    assert not (rig.state_dir / "outbox").exists()
    control = enrolled(rig, monkeypatch)
    rig.restart()
    until(lambda: len(control.stated) >= 2)
    assert len({fact.id for fact in control.stated}) == 2


def test_with_the_control_plane_gone_operators_get_points_back(
    rig: Rig, disk: Disk, old_content: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    control = enrolled(rig, monkeypatch)
    control.refuse(UNREACHABLE)
    rig.restart()
    (recovered,) = ask(rig.socket, RecoverRequest(point=newest(rig), folder=tmp_path / "back"))
    assert Path(recovered["path"]).read_bytes() == bytes(disk.data)
    assert ask(rig.socket, PreserveRequest(point=newest(rig)))["preserved"]


def test_whoever_runs_it_hears_that_it_must_stop(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    control = enrolled(rig, monkeypatch)
    control.refuse(ControlRefused(status=409, reason="node.superseded", message="", correlation="0" * 32))
    rig.stop()
    ended: list[Exception] = []
    with Connector(rig.settings, ended=ended.append):
        until(lambda: ended)
    assert isinstance(ended[0], NodeReplaced)
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
