import json
from pathlib import Path

import pytest

from dmcore.errors import ExitCode
from dmcore.lab.layout import Lab, make_lab
from dmcore.model.enums import SnapshotKind
from dmcore.sources.base import SourceCaps
from dmcore.sources.tracking import start_tracking
from dmctl.source import capabilities
from tests.dmctl.conftest import Dmctl


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = make_lab(tmp_path / "lab")
    for machine, size in (("vm1", 1 << 20), ("vm2", 1000)):
        disk = made.source / machine / "disk0.img"
        disk.parent.mkdir()
        disk.write_bytes(bytes(size))
    start_tracking(made.source / "vm1" / "disk0.img")
    return made


def test_machines_for_people(dmctl: Dmctl, lab: Lab) -> None:
    shown = dmctl("source", "list", "machines", "--config", lab.appliance_config)
    assert shown.exit_code == 0
    _, header, good, bad, capabilities = shown.stdout.splitlines()
    assert header.split() == ["machine", "disk", "size", "problem"]
    assert good.split() == ["vm1", "disk0.img", "1.0", "MB"]
    assert bad.split()[0] == "vm2"
    assert len(bad.split()) > 3  # the problem
    assert "knows what changed since a point" in capabilities


def test_machines_for_scripts(dmctl: Dmctl, lab: Lab) -> None:
    shown = json.loads(dmctl("source", "list", "machines", "--config", lab.appliance_config, "--json").stdout)
    assert shown["tracking"] is True
    good, bad = shown["machines"]
    assert [disk["disk_bytes"] for disk in good["disks"]] == [1 << 20]
    assert (good["problem"], bool(bad["problem"])) == ("", True)


def test_a_source_that_does_not_track(dmctl: Dmctl, tmp_path: Path) -> None:
    lab = make_lab(tmp_path / "lab", "image")
    shown = dmctl("source", "list", "machines", "--config", lab.appliance_config)
    assert "does not track changes" in shown.stdout
    assert "snapshots" in shown.stdout


def test_how_a_source_makes_its_snapshots() -> None:
    said = capabilities(SourceCaps(snapshots=SnapshotKind.REFLINK, tracking=True))
    assert said.endswith("its snapshots are made by reflink.")


def test_an_alias_that_the_node_does_not_have(dmctl: Dmctl, lab: Lab) -> None:
    result = dmctl("source", "list", "../etc", "--config", lab.appliance_config)
    assert result.exit_code == ExitCode.CONFIGURATION
    assert "no source '../etc' in this node's configuration; it has: machines" in result.stderr


def test_a_source_whose_directory_is_gone(dmctl: Dmctl, lab: Lab) -> None:
    lab.source.rename(lab.root / "elsewhere")
    result = dmctl("source", "list", "machines", "--config", lab.appliance_config, "--json")
    assert result.exit_code in {ExitCode.CONFIGURATION, ExitCode.SOURCE}
    assert str(lab.source) in json.loads(result.stderr)["error"]["message"]
