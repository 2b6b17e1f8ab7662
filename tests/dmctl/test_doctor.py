"""`doctor`, of nodes that run and that do not: what it shows, what it repairs, what it exits with."""

import io
import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from dmcore.appliance.agent import Appliance, open_alias
from dmcore.appliance.doctor import ApplianceDoctor
from dmcore.appliance.pairing import pair
from dmcore.appliance.progress import CycleProgress
from dmcore.connector.daemon import Connector
from dmcore.connector.doctor import ConnectorDoctor
from dmcore.errors import ExitCode
from dmcore.host import logs
from dmcore.host.errors import NodeRunning
from dmcore.host.settings import LogSettings
from dmcore.lab.layout import SOURCE, Lab, make_lab
from dmcore.model.enums import SnapshotKind
from dmcore.model.ids import CycleId, GroupId, source_snapshot_name
from dmcore.model.points import PointState
from dmcore.node.findings import Level
from dmcore.node.identity import load_identity
from dmcore.node.settings import load_appliance, load_connector
from dmcore.sources.base import SourceCaps
from dmcore.sources.errors import SnapshotFailed
from dmcore.sources.image import ImageSource
from dmcore.sources.store import SnapshotStore
from dmcore.sources.tracking import start_tracking
from tests.dmctl.conftest import Dmctl


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = make_lab(tmp_path / "lab")
    disk = made.source / "vm1" / "disk0.img"
    disk.parent.mkdir()
    disk.write_bytes(b"12345678" * 8192)
    start_tracking(disk)
    for name in ("appliance", "connector"):
        (made.root / name).chmod(0o700)
    return made


@pytest.fixture(autouse=True)
def _log_of_the_connector(monkeypatch: pytest.MonkeyPatch) -> None:
    logs.configure(LogSettings(), io.StringIO())
    monkeypatch.setattr("dmcore.host.logs.configure", lambda *_: None)


@pytest.fixture
def connector(lab: Lab) -> Iterator[Connector]:
    """It runs, with a point."""
    settings = load_appliance(lab.appliance_config)
    with Connector(load_connector(lab.connector_config)) as running:
        pair(running.pair_token("home"), load_identity(settings.state_dir), settings.site, settings.state_dir)
        job, _ = lab.new_job(["vm1"], datetime.now(UTC))
        with Appliance(settings) as appliance:
            appliance.run(job, CycleProgress())
        yield running


def told(dmctl: Dmctl, role: str, lab: Lab, *more: str, code: int | None = None) -> dict[str, Any]:
    done = dmctl(role, "doctor", "--config", lab.root / f"{role}.toml", "--json", *more)
    assert code is None or done.exit_code == code, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def level(found: dict[str, Any], check: str, containing: str = "") -> set[str]:
    return {each["level"] for each in found["findings"] if each["check"] == check and containing in each["found"]}


def leave_snapshot(lab: Lab) -> str:
    """What a killed appliance has left half made: hours ago."""
    name = source_snapshot_name(GroupId(uuid4()), CycleId(uuid4()))
    (lab.source / ".dmcore-snapshots" / name).mkdir(parents=True)
    return name


def leave_target_snapshot(lab: Lab, connector: Connector) -> tuple[Path, Path]:
    (disk,) = connector.groups.all()[0].state.images
    left = lab.root / "target" / "snapshots" / f"{disk}@{uuid4()}.img"
    orphan = lab.root / "target" / "volumes" / f"{uuid4()}.img"
    for path in (left, orphan):
        path.write_bytes(bytes(4096))
    return left, orphan


class TestConnector:
    def test_that_runs(self, lab: Lab, connector: Connector, dmctl: Dmctl) -> None:
        found = told(dmctl, "connector", lab, code=ExitCode.OK)
        for check in ("state", "node key", "authority's key", "key", "target shadows", "certificate", "connector"):
            assert "ok" in level(found, check), check
        assert level(found, "control plane") == {"warn"}  # a lab without one
        assert level(found, "points", "never verified") == {"warn"}
        assert level(found, "leftovers") == {"ok"}
        assert found["worst"] == "warn"

    def test_a_table(self, lab: Lab, connector: Connector, dmctl: Dmctl) -> None:
        done = dmctl("connector", "doctor", "--config", lab.connector_config)
        assert done.exit_code == ExitCode.OK
        assert "never verified" in done.stdout
        assert "dmctl connector verify latest" in done.stdout

    def test_a_verified_point(self, lab: Lab, connector: Connector, dmctl: Dmctl) -> None:
        (point,) = connector.keeper.all()
        connector.keeper.verify(point[0].id, lambda _: None)
        assert level(told(dmctl, "connector", lab), "points") == {"ok"}

    def test_a_damaged_point(self, lab: Lab, connector: Connector, dmctl: Dmctl) -> None:
        (point,) = connector.keeper.all()
        catalogue = connector.groups.all()[0].catalogue
        catalogue.change(point[0].id, state=PointState.DEGRADED, verified_at=datetime.now(UTC))
        assert level(told(dmctl, "connector", lab), "points", "damaged") == {"warn"}

    def test_what_is_wrong(self, lab: Lab, connector: Connector, dmctl: Dmctl) -> None:
        connector.stop()
        (group,) = (lab.root / "connector" / "groups").iterdir()
        (group / "state.json").write_text("rot")
        (lab.root / "connector" / "node.key").chmod(0o644)
        (lab.root / "keys" / "kek.key").write_text("0" * 64 + "\n")
        found = told(dmctl, "connector", lab, code=ExitCode.INTERNAL)
        for check in ("node key", "key", "leftovers"):
            assert level(found, check) == {"fail"}, check
        assert level(found, "connector") == {"warn"}  # stopped

    @pytest.mark.parametrize("runs", [True, False])
    def test_repair(self, lab: Lab, connector: Connector, dmctl: Dmctl, runs: bool) -> None:
        left, orphan = leave_target_snapshot(lab, connector)
        if not runs:
            connector.stop()
        assert told(dmctl, "connector", lab)["repaired"] == []
        assert left.exists()
        found = told(dmctl, "connector", lab, "--repair", "--yes", code=ExitCode.OK)
        assert [(each["name"], each["removed"]) for each in found["repaired"]] == [(left.stem, True)]
        assert (left.exists(), orphan.exists()) == (False, True)
        assert told(dmctl, "connector", lab, "--repair", "--yes")["repaired"] == []

    def test_repair_is_asked_for(self, lab: Lab, connector: Connector, dmctl: Dmctl) -> None:
        left, _ = leave_target_snapshot(lab, connector)
        command = ("connector", "doctor", "--repair", "--config", lab.connector_config)
        assert dmctl(*command, input="no\n").exit_code != ExitCode.OK
        assert left.exists()
        done = dmctl(*command, input="remove\n")
        assert f"may go: {left.stem}" in done.output
        assert f"removed: {left.stem}" in done.output
        assert not left.exists()

    def test_what_stays_is_a_failure(
        self, lab: Lab, connector: Connector, dmctl: Dmctl, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        leave_target_snapshot(lab, connector)
        monkeypatch.setattr(connector.leftovers, "_remove", lambda _: False)
        done = dmctl("connector", "doctor", "--repair", "--yes", "--config", lab.connector_config)
        assert done.exit_code == ExitCode.INTERNAL
        assert "stays: " in done.output

    def test_a_group_that_is_broken_or_busy(self, lab: Lab, connector: Connector, dmctl: Dmctl) -> None:
        (group,) = (lab.root / "connector" / "groups").iterdir()
        connector.groups._broken[GroupId(uuid4())] = "rot"
        assert level(told(dmctl, "connector", lab, code=ExitCode.INTERNAL), "connector") == {"ok"}
        connector.groups._broken.clear()
        shadow = connector.groups.all()[0]
        state = shadow.state
        assert state.cycle is not None
        for changes, expected in (({"phase": "sealed"}, "its cycle is sealed"), ({"problem": "spoiled"}, "spoiled")):
            shadow._state = state.model_copy(update={"cycle": state.cycle.model_copy(update=changes)})
            assert level(told(dmctl, "connector", lab), f"group {group.name[:8]}", expected) == {"warn"}
        shadow._state = state

    def test_folders_that_are_not_there(self, lab: Lab, dmctl: Dmctl) -> None:
        """And a node that never was anybody: looking makes it none."""
        (lab.root / "target").rmdir()
        with lab.connector_config.open("a") as file:
            file.write('\n[targets.outside]\nkind = "folder"\npath = "/etc"\n\n[recoveries.r]\npath = "target/r"\n')
        found = told(dmctl, "connector", lab, "--repair", "--yes", code=ExitCode.INTERNAL)
        assert level(found, "state", "has no node key") == {"fail"}
        for check in ("target shadows", "target outside", "recovery folder r"):
            assert level(found, check) == {"fail"}
        assert not (lab.root / "connector" / "node.key").exists()


class TestAppliance:
    def test_that_is_paired(self, lab: Lab, connector: Connector, dmctl: Dmctl) -> None:
        found = told(dmctl, "appliance", lab, code=ExitCode.OK)
        name = f"connector {connector.trust.identity.node[:8]}"
        assert level(found, name, "answers and takes this node") == {"ok"}
        assert level(found, name, "is good for") == {"ok"}
        assert level(found, f"source {SOURCE}") <= {"ok", "warn"}
        assert level(found, "leftovers") == {"ok"}

    def test_whose_connector_is_away(self, lab: Lab, connector: Connector, dmctl: Dmctl) -> None:
        connector.stop()
        found = told(dmctl, "appliance", lab, code=ExitCode.INTERNAL)
        assert "fail" in level(found, f"connector {connector.trust.identity.node[:8]}")

    def test_that_is_not_paired(self, lab: Lab, dmctl: Dmctl) -> None:
        load_identity(lab.root / "appliance")
        assert level(told(dmctl, "appliance", lab, code=ExitCode.INTERNAL), "pairing") == {"fail"}

    def test_that_never_was_anybody(self, lab: Lab, dmctl: Dmctl) -> None:
        found = told(dmctl, "appliance", lab, "--repair", code=ExitCode.INTERNAL)
        assert level(found, "state", "has no node key") == {"fail"}
        assert level(found, "key") == {"ok"}
        assert not (lab.root / "appliance" / "node.key").exists()

    def test_sources(self, lab: Lab, dmctl: Dmctl, monkeypatch: pytest.MonkeyPatch) -> None:
        load_identity(lab.root / "appliance")
        caps = SourceCaps(SnapshotKind.REFLINK, tracking=False)
        monkeypatch.setattr(ImageSource, "caps", property(lambda _: caps))
        assert level(told(dmctl, "appliance", lab), f"source {SOURCE}", "reflinks") == {"ok"}
        (lab.source / "empty").mkdir()
        assert level(told(dmctl, "appliance", lab), f"source {SOURCE}", "no disks") == {"warn"}
        lab.source.rename(lab.root / "moved")
        assert level(told(dmctl, "appliance", lab), f"source {SOURCE}") == {"fail"}

    def test_repair(self, lab: Lab, connector: Connector, dmctl: Dmctl, monkeypatch: pytest.MonkeyPatch) -> None:
        name = leave_snapshot(lab)
        assert level(told(dmctl, "appliance", lab), f"snapshot at {SOURCE}", "just made") == {"ok"}
        monkeypatch.setattr("dmcore.appliance.leftovers.JUST_MADE", datetime.now(UTC) - datetime.now(UTC))
        with Appliance(load_appliance(lab.appliance_config)):
            found = told(dmctl, "appliance", lab, "--repair", "--yes")
            assert level(found, f"snapshot at {SOURCE}") == {"ok"}  # the node that runs looks after it
            assert found["repaired"] == []
        found = told(dmctl, "appliance", lab, "--repair", "--yes", code=ExitCode.OK)
        assert level(found, f"snapshot at {SOURCE}") == {"warn"}
        assert [(each["name"], each["removed"]) for each in found["repaired"]] == [(name, True)]
        with closing(open_alias(load_appliance(lab.appliance_config), SOURCE)) as source:
            assert source.snapshots() == []

    def test_a_node_that_was_started_meanwhile(self, lab: Lab, connector: Connector) -> None:
        leave_snapshot(lab)
        doctor = ApplianceDoctor(load_appliance(lab.appliance_config))
        (found,) = doctor._look(doctor._sweep())
        with Appliance(doctor.settings), pytest.raises(NodeRunning):
            doctor.remove(found)

    def test_what_cannot_be_removed(
        self, lab: Lab, connector: Connector, dmctl: Dmctl, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        leave_snapshot(lab)
        monkeypatch.setattr("dmcore.appliance.leftovers.JUST_MADE", datetime.now(UTC) - datetime.now(UTC))

        def failing(self: SnapshotStore, name: str) -> None:
            raise SnapshotFailed(path="x", name=name, problem="as told")

        monkeypatch.setattr(SnapshotStore, "delete", failing)
        done = dmctl("appliance", "doctor", "--repair", "--yes", "--config", lab.appliance_config)
        assert done.exit_code == ExitCode.INTERNAL
        assert "stays: " in done.output


def test_one_that_is_being_started(lab: Lab, connector: Connector) -> None:
    """It has the lock and does not answer yet: what is beside its groups is looked at the next time."""
    connector.operator.stop()
    found = ConnectorDoctor(load_connector(lab.connector_config)).findings()
    assert [each.level for each in found if each.check == "leftovers"] == [Level.FAIL]
