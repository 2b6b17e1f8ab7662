"""What Prometheus is told of a real connector."""

import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from dmcore.connector.metrics import ConnectorMetrics
from dmcore.host.settings import MetricsSettings
from dmcore.model.phase import Phase
from tests.connector.appliance import Appliance
from tests.connector.kit import Disk
from tests.connector.rig import ANY_PORT, Rig, make_rig, newest


def values(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"^([^#\s]+) (\S+)$", text, re.MULTILINE)}


def scraped(rig: Rig) -> dict[str, float]:
    return values(generate_latest(rig.connector.metrics.registry).decode())


NAME = "dmcore_connector_"


def test_of_a_connector_without_anything(rig: Rig) -> None:
    found = scraped(rig)
    assert found[NAME + 'groups{phase="reclaimed"}'] == found[NAME + "points"] == 0
    assert found[NAME + "control_reachable"] == found[NAME + "outbox_entries"] == 0
    assert found[NAME + "verification_age_days"] == 0


def test_of_cycles(rig: Rig, appliance: Appliance, disk: Disk, old_content: bytes) -> None:
    rig.wait_until_finished()
    found = scraped(rig)
    assert found[NAME + 'groups{phase="reclaimed"}'] == 1
    assert found[NAME + "points"] == 2
    assert found[NAME + "received_bytes_total"] > len(disk.data) // 2
    assert found[NAME + "applied_bytes_total"] > 0
    assert found[NAME + "acks_total"] >= 2
    for step in ("receive", "apply", "snapshot"):
        assert found[NAME + f'cycle_seconds_count{{step="{step}"}}'] == 2
    attempt = appliance.begin(disk)
    sender = attempt.open(disk)
    sender.start()
    sender.send(sender.sealed(0, 1))
    found = scraped(rig)
    assert found[NAME + 'groups{phase="receiving"}'] == 1
    assert found[NAME + "credit_in_use"] >= 1
    assert found[NAME + "staging_bytes"] > 0


def test_of_verifications(rig: Rig, old_content: bytes) -> None:
    assert scraped(rig)[NAME + "groups_never_verified"] == 1
    rig.connector.keeper.verify(newest(rig), lambda _: None)
    rig.clock.advance(days=8)
    found = scraped(rig)
    assert found[NAME + "groups_never_verified"] == 0
    assert [found[NAME + f'groups_verified{{days="{days}"}}'] for days in (1, 7, 30, 90)] == [0, 0, 1, 1]
    assert found[NAME + "verification_age_days"] == 8


def test_of_a_broken_group(rig: Rig, old_content: bytes) -> None:
    rig.stop()
    (rig.state_dir / "groups" / str(rig.group) / "state.json").write_text("rot")
    rig.start()
    found = scraped(rig)
    assert found[NAME + 'groups{phase="broken"}'] == 1
    assert found[NAME + "points"] == 2


def test_no_label_names_a_group_or_node(rig: Rig, old_content: bytes) -> None:
    labels = re.findall(r'(\w+)="', generate_latest(rig.connector.metrics.registry).decode())
    assert set(labels) <= {"phase", "step", "days", "le"}


def test_only_steps_that_take_time_are_counted() -> None:
    metrics = ConnectorMetrics()
    for phase in Phase:
        metrics.reached(phase, 1.0)
    found = values(generate_latest(metrics.registry).decode())
    assert found[NAME + 'cycle_seconds_count{step="apply"}'] == 2
    assert found[NAME + 'cycle_seconds_count{step="snapshot"}'] == 1


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Rig]:
    rig = make_rig(tmp_path / "served", metrics=MetricsSettings(listen=ANY_PORT))
    rig.start()
    yield rig
    rig.stop()


def test_served_where_the_settings_say(served: Rig, rig: Rig) -> None:
    server = served.connector.metrics_server
    assert server is not None
    with urllib.request.urlopen(f"http://{server.address}/metrics") as answer:
        assert NAME + "points" in values(answer.read().decode())
    assert rig.connector.metrics_server is None
