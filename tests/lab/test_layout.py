"""A lab's directory: made once, its jobs under epochs that only grow, its tickets good at its own connector."""

import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dmcore.api.tickets import verify_ticket
from dmcore.appliance.agent import load_job
from dmcore.connector.tickets import load_ticket_key
from dmcore.lab.errors import LabExists, LabMissing
from dmcore.lab.layout import make_lab, open_lab
from dmcore.node.identity import load_identity
from dmcore.node.settings import load_appliance, load_connector

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_settings_are_ones_that_the_nodes_accept(tmp_path: Path) -> None:
    lab = make_lab(tmp_path / "lab")
    appliance, connector = load_appliance(lab.appliance_config), load_connector(lab.connector_config)
    assert appliance.kek == connector.kek
    assert connector.listen.port != connector.pairing_listen.port
    assert stat.S_IMODE((lab.root / "keys" / "ticket.key").stat().st_mode) == 0o600


def test_a_job_and_its_ticket(tmp_path: Path) -> None:
    lab = make_lab(tmp_path / "lab")
    job, path = lab.new_job(["web1"], NOW)
    assert load_job(path) == job
    ticket = verify_ticket(load_ticket_key(lab.root / "keys" / "ticket.pub"), job.ticket, NOW)
    assert (ticket.cycle, ticket.epoch, ticket.connector) == (job.cycle, 1, load_identity(lab.root / "connector").node)


def test_epochs_only_grow(tmp_path: Path) -> None:
    lab = make_lab(tmp_path / "lab")
    first, _ = lab.new_job(["web1"], NOW)
    again, path = open_lab(lab.root).next_attempt(first, NOW)
    assert (again.cycle, again.epoch) == (first.cycle, 2)
    assert path.name == "00000002.json"
    assert lab.new_job(["web1"], NOW)[0].epoch == 3


def test_where_a_lab_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(LabMissing, match="dmctl lab init"):
        open_lab(tmp_path)
    (tmp_path / "mine").touch()
    with pytest.raises(LabExists):
        make_lab(tmp_path)


def test_a_ticket_key_that_is_none(tmp_path: Path) -> None:
    lab = make_lab(tmp_path / "lab")
    key = lab.root / "keys" / "ticket.key"
    key.write_bytes(load_identity(lab.root / "appliance").key_path.read_bytes())
    with pytest.raises(LabMissing):
        lab.new_job(["web1"], NOW)
