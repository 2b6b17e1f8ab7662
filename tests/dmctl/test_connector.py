"""What an operator asks a connector that runs. It runs in this process; test_processes.py has one of its own."""

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dmcore.appliance.agent import Appliance
from dmcore.appliance.pairing import pair
from dmcore.appliance.progress import CycleProgress, CycleReport
from dmcore.connector.daemon import Connector
from dmcore.connector.operator import DropRequest, StatusRequest, ask
from dmcore.errors import ExitCode
from dmcore.host import logs
from dmcore.host.settings import LogSettings
from dmcore.lab.layout import Lab, make_lab
from dmcore.node.identity import load_identity
from dmcore.node.settings import load_appliance, load_connector
from dmcore.sources.tracking import start_tracking
from tests.dmctl.conftest import Dmctl

DISK_BYTES = 1 << 20


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    made = make_lab(tmp_path / "lab")
    disk = made.source / "vm1" / "disk0.img"
    disk.parent.mkdir()
    disk.write_bytes(b"block" * (DISK_BYTES // 5) + bytes(DISK_BYTES % 5))
    start_tracking(disk)
    monkeypatch.setenv("DMCTL_CONFIG", str(made.connector_config))
    return made


@pytest.fixture(autouse=True)
def _log_of_the_connector(monkeypatch: pytest.MonkeyPatch) -> None:
    """It logs while commands run: not into what they print, as another process would not."""
    logs.configure(LogSettings(), io.StringIO())
    monkeypatch.setattr("dmcore.host.logs.configure", lambda *_: None)


@pytest.fixture
def connector(lab: Lab) -> Iterator[Connector]:
    with Connector(load_connector(lab.connector_config)) as running:
        yield running


@pytest.fixture
def point(lab: Lab, connector: Connector) -> CycleReport:
    """The first one."""
    settings = load_appliance(lab.appliance_config)
    pair(connector.pair_token("home"), load_identity(settings.state_dir), settings.site, settings.state_dir)
    job, _ = lab.new_job(["vm1"], datetime.now(UTC))
    with Appliance(settings) as appliance:
        return appliance.run(job, CycleProgress())


def shown(dmctl: Dmctl, *arguments: object) -> dict[str, Any]:
    result = dmctl("connector", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def test_a_connector_with_nothing(dmctl: Dmctl, connector: Connector) -> None:
    assert shown(dmctl, "points") == {"points": []}
    assert shown(dmctl, "status") == {"groups": []}
    assert shown(dmctl, "paired") == {"paired": []}
    assert dmctl("connector", "points").stdout.splitlines()[0] == "Recovery points: 0"
    nothing = dmctl("connector", "verify", "latest")
    assert nothing.exit_code == ExitCode.REFUSED
    assert "no point 'latest'" in nothing.stderr


def test_points(dmctl: Dmctl, point: CycleReport) -> None:
    (found,) = shown(dmctl, "points")["points"]
    assert found["id"] == str(point.point)
    assert found["disks"][0]["disk_bytes"] == DISK_BYTES
    title, header, row = dmctl("connector", "points").stdout.splitlines()
    assert title == "Recovery points: 1"
    assert header.split() == [
        "point",
        "source",
        "time",
        "age",
        "consistency",
        "disks",
        "size",
        "rung",
        "state",
        "verified",
    ]
    assert row.split()[0] == str(point.point)[:8]
    assert row.split()[-5:] == ["1.0", "MB", "seed", "available", "-"]


def test_status(dmctl: Dmctl, point: CycleReport) -> None:
    (found,) = shown(dmctl, "status")["groups"]
    assert (found["group"], found["points"]) == (str(point.group), 1)
    title, _, row = dmctl("connector", "status").stdout.splitlines()
    assert title == "Groups: 1"
    assert row.startswith(f"{point.group}       1      1  1.0 MB      1  {point.cycle}")


class TestABrokenGroup:
    GROUP = "11111111-2222-3333-4444-555555555555"

    @pytest.fixture
    def lab(self, lab: Lab) -> Lab:
        folder = lab.root / "connector" / "groups" / self.GROUP
        folder.mkdir(parents=True)
        (folder / "state.json").write_text("rot")
        return lab

    def test_says_what_is_wrong_with_it(self, dmctl: Dmctl, connector: Connector) -> None:
        (found,) = shown(dmctl, "status")["groups"]
        assert set(found) == {"group", "problem"}
        row = dmctl("connector", "status").stdout.splitlines()[2]
        assert row.split()[:2] == [self.GROUP, "-"]
        assert "state.json" in row

    def test_is_not_bound_to_anything_else(self, dmctl: Dmctl, connector: Connector) -> None:
        result = dmctl("connector", "rebind", "1111", "vm1", "--site", "home")
        assert result.exit_code == ExitCode.CONFIGURATION
        assert "connector.group-broken" in result.stderr
        assert dmctl("connector", "drop", "1111").exit_code == ExitCode.CONFIGURATION


def test_verify(dmctl: Dmctl, point: CycleReport) -> None:
    assert shown(dmctl, "verify", "latest")["checked_bytes"] == DISK_BYTES
    whole = dmctl("connector", "verify", str(point.point)[:6])
    assert whole.stdout == f"Point {point.point} is whole: 1 disks, 1.0 MB checked.\n"


def test_verify_a_damaged_point(dmctl: Dmctl, point: CycleReport, lab: Lab) -> None:
    (found,) = shown(dmctl, "points")["points"]
    snapshot = found["disks"][0]["snapshot"]
    (image,) = [path for path in (lab.root / "target").rglob("*") if path.is_file() and snapshot in str(path)][:1]
    image.chmod(0o600)
    with image.open("r+b") as file:
        file.seek(70_000)
        file.write(b"rot")
    result = dmctl("connector", "verify", "latest")
    assert result.exit_code == ExitCode.INTEGRITY
    assert str(point.point) in result.stderr
    assert "point.damaged" in result.stderr


def test_recover(dmctl: Dmctl, point: CycleReport, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is the operator's, not the connector's."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    answer = shown(dmctl, "recover", "latest", "--to", "recovered")
    (disk,) = answer["disks"]
    assert answer["point"] == str(point.point)
    assert Path(disk["path"]).parent == tmp_path / "here" / "recovered"
    assert Path(disk["path"]).read_bytes() == (lab.source / "vm1" / "disk0.img").read_bytes()
    table = dmctl("connector", "recover", "latest", "--to", "again").stdout
    assert str(tmp_path / "here" / "again") in table


def test_recover_overwrites_nothing(dmctl: Dmctl, point: CycleReport, tmp_path: Path) -> None:
    shown(dmctl, "recover", "latest", "--to", tmp_path / "recovered")
    result = dmctl("connector", "recover", "latest", "--to", tmp_path / "recovered", "--json")
    assert result.exit_code == ExitCode.TARGET
    error = json.loads(result.stderr)["error"]
    assert error["code"] == "recover.refused"
    assert str(tmp_path / "recovered") in error["message"]
    assert error["correlation"]


def test_drop_what_is_not_receiving(dmctl: Dmctl, point: CycleReport) -> None:
    result = dmctl("connector", "drop", str(point.group)[:8])
    assert result.exit_code in {ExitCode.OK, ExitCode.BUSY, ExitCode.REFUSED}
    assert len(shown(dmctl, "points")["points"]) == 1
    assert dmctl("connector", "drop", "ffff").exit_code == ExitCode.REFUSED


@pytest.mark.parametrize(("options", "lost"), [((), False), (("--force",), True)])
def test_what_is_damaged_is_given_up_on_request_only(
    dmctl: Dmctl, point: CycleReport, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], lost: bool
) -> None:
    asked: list[Any] = []

    def listen(path: Path, request: Any) -> Any:
        asked.append(request)
        return ask(path, StatusRequest())[0] if isinstance(request, DropRequest) else ask(path, request)

    monkeypatch.setattr("dmctl.connector.ask", listen)
    assert shown(dmctl, "drop", *options, str(point.group))["group"] == str(point.group)
    assert asked[-1] == DropRequest(group=point.group, lost=lost)


def test_tokens(dmctl: Dmctl, connector: Connector, lab: Lab) -> None:
    made = dmctl("connector", "pair-token", "--site", "home")
    assert made.stdout.count("\n") == 1
    assert "dmctl appliance pair -" in made.stderr
    assert shown(dmctl, "pair-token", "--site", "home")["token"] != made.stdout.strip()
    pairing = ["appliance", "pair", "-", "--config", lab.appliance_config]
    paired = dmctl(*pairing, input=made.stdout)
    assert paired.stdout.startswith("Paired.\n")
    assert connector.trust.identity.node in paired.stdout
    again = dmctl(*pairing, "--json", input=made.stdout)
    assert again.exit_code == ExitCode.TRUST
    assert json.loads(again.stderr)["error"]["code"] == "pairing.token-used"


def test_pairing_by_a_file(dmctl: Dmctl, connector: Connector, lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(dmctl("connector", "pair-token", "--site", "home").stdout)
    pairing = ["appliance", "pair", "--token-file", tmp_path / "token", "--config", lab.appliance_config, "--json"]
    answer = json.loads(dmctl(*pairing).stdout)
    assert answer == {
        "connector": connector.trust.identity.node,
        "address": str(connector.server.address),
        "site": "home",
    }


def test_unpairing(dmctl: Dmctl, point: CycleReport) -> None:
    (found,) = shown(dmctl, "paired")["paired"]
    assert found["node"] in dmctl("connector", "paired").stdout
    assert f"Unpaired {found['node']}" in dmctl("connector", "unpair", found["node"][:10]).stdout
    assert shown(dmctl, "paired") == {"paired": []}


def test_unpairing_for_scripts(dmctl: Dmctl, point: CycleReport) -> None:
    (found,) = shown(dmctl, "paired")["paired"]
    assert shown(dmctl, "unpair", found["node"]) == {"node": found["node"], "connections_cut": 0}
    assert shown(dmctl, "paired") == {"paired": []}
    gone = dmctl("connector", "unpair", found["node"])
    assert gone.exit_code == ExitCode.REFUSED
    assert "name.unknown" in gone.stderr


def test_rebinding(dmctl: Dmctl, point: CycleReport) -> None:
    group = str(point.group)
    rebound = dmctl("connector", "rebind", group[:8], "vm1", "vm2", "--site", "elsewhere")
    assert rebound.exit_code == 0, rebound.stderr
    assert "vm1, vm2" in rebound.stdout
    answer = shown(dmctl, "rebind", group, "vm1", "--site", "home")
    assert (answer["site"], answer["groups"]) == ("home", {group: ["vm1"]})
    wrong = dmctl("connector", "rebind", group, "../vm1", "--site", "home")
    assert wrong.exit_code == ExitCode.USAGE
    assert "'../vm1'" in wrong.stderr
