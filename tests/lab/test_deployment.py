"""A deployment's directory: settings that each role loads, and who can log in."""

import stat
from pathlib import Path

import pytest

from dmcore.control.settings import load_control
from dmcore.host.files import replace_file
from dmcore.lab.deployment import RECOVERIES, make_deployment, open_deployment
from dmcore.lab.errors import LabExists, LabMissing, LabNotStarted
from dmcore.lab.layout import make_lab
from dmcore.node.settings import load_appliance, load_connector

PROFILE = b'{"url": "https://127.0.0.1:8443", "token": "dmo_x", "fingerprint": null, "ca_file": null}'


def test_settings_are_ones_that_the_roles_accept(tmp_path: Path) -> None:
    lab = make_deployment(tmp_path / "lab", "image")
    control = load_control(lab.control_config)
    appliance, connector = load_appliance(lab.appliance_config), load_connector(lab.connector_config)
    assert appliance.kek == connector.kek
    assert control.database_url == f"sqlite:///{lab.root / 'control' / 'control.db'}"
    assert connector.control.ticket_key is None, "it is learnt when the connector is enrolled"
    assert connector.recoveries[RECOVERIES].path == lab.recovered
    ports = {control.listen.port, connector.listen.port, connector.pairing_listen.port}
    assert len(ports) == 3
    assert stat.S_IMODE((lab.root / "keys" / "kek.key").stat().st_mode) == 0o600
    assert open_deployment(lab.root) == lab


def test_another_database(tmp_path: Path) -> None:
    url = 'postgresql+psycopg://me@/lab?host=/run/"x"'
    assert load_control(make_deployment(tmp_path / "lab", database=url).control_config).database_url == url


def test_where_a_lab_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(LabMissing, match="dmctl lab init"):
        open_deployment(tmp_path)
    make_lab(tmp_path / "data-plane")
    with pytest.raises(LabMissing):
        open_deployment(tmp_path / "data-plane")
    with pytest.raises(LabExists):
        make_deployment(tmp_path / "data-plane")


def test_nobody_is_logged_in_before_the_first_start(tmp_path: Path) -> None:
    lab = make_deployment(tmp_path / "lab")
    with pytest.raises(LabNotStarted, match="dmctl lab up"):
        lab.operator()
    replace_file(lab.profile, PROFILE)
    lab.operator().close()
