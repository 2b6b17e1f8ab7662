from pathlib import Path

import pytest
from sqlalchemy import delete

from dmcore.api.operators import OperatorRole
from dmcore.control.access import audit, operators
from dmcore.control.certificates import KEY_FILE
from dmcore.control.errors import StoreOutdated
from dmcore.control.plane import Plane, initialise, upgrade_store
from dmcore.control.queue.tickets import TICKET_KEY_FILE
from dmcore.control.serving_errors import AlreadyInitialised, NotInitialised
from dmcore.control.settings import ControlPlaneSettings
from dmcore.control.store.database import Database
from dmcore.control.store.tables import meta
from dmcore.host.errors import FileBroken, NodeRunning
from dmcore.host.lock import StateLock


@pytest.fixture
def settings(tmp_path: Path) -> ControlPlaneSettings:
    return ControlPlaneSettings(state_dir=tmp_path / "state", advertise=("control.example", "2001:db8::1"))


def test_a_control_plane_is_made_once(settings: ControlPlaneSettings) -> None:
    first = initialise(settings)
    with Plane.open(settings) as plane:
        kept = (plane.control, plane.certificate.fingerprint, plane.tickets.fingerprint)
        with plane.database.read() as connection:
            found = operators.recognise(connection, plane.database.now(connection), first.secret)
            assert audit.verify_chain(connection) is None
    assert (found.role, found.name) == (OperatorRole.ADMIN, "first")
    with pytest.raises(AlreadyInitialised, match=str(kept[0])):
        initialise(settings)
    with Plane.open(settings) as plane:
        assert (plane.control, plane.certificate.fingerprint, plane.tickets.fingerprint) == kept
        plane.close()


def test_an_invitation_names_all_its_addresses(settings: ControlPlaneSettings) -> None:
    initialise(settings)
    with Plane.open(settings) as plane:
        assert plane.invitation.urls == ("https://control.example:8443", "https://[2001:db8::1]:8443")
        assert plane.invitation.tls == plane.certificate.fingerprint


def test_what_was_not_made_is_not_opened(settings: ControlPlaneSettings, tmp_path: Path) -> None:
    with pytest.raises(NotInitialised, match="control init"):
        Plane.open(settings)
    assert not settings.state_dir.exists()
    elsewhere = settings.model_copy(update={"database": f"sqlite:///{tmp_path / 'other.db'}"})
    with pytest.raises(NotInitialised):  # a database without tables
        Plane.open(elsewhere)
    initialise(settings)
    database = Database(settings.database_url)
    with database.write() as connection:
        connection.execute(delete(meta))
    database.close()
    with pytest.raises(NotInitialised):  # tables without a control plane
        Plane.open(settings)


def test_the_tables_of_one_that_runs_are_not_changed(settings: ControlPlaneSettings) -> None:
    initialise(settings)
    with StateLock(settings.state_dir), pytest.raises(NodeRunning, match="stop it first"):  # as a server holds it
        upgrade_store(settings)
    upgrade_store(settings)


def test_making_one_where_there_is_one_does_not_change_its_tables(
    settings: ControlPlaneSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later version's `init` beside an older one that runs."""
    initialise(settings)
    monkeypatch.setattr("dmcore.control.plane.upgrade", lambda _: pytest.fail("upgraded"))
    with pytest.raises(AlreadyInitialised):
        initialise(settings)


@pytest.mark.parametrize("file", [KEY_FILE, TICKET_KEY_FILE])
def test_broken_keys_are_named(settings: ControlPlaneSettings, file: str) -> None:
    initialise(settings)
    (settings.state_dir / file).write_text("garbage")
    with pytest.raises(FileBroken, match=file):
        Plane.open(settings)


def test_an_older_schema_is_not_worked_on(settings: ControlPlaneSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    initialise(settings)

    def older(_: Database) -> None:
        raise StoreOutdated(found="0001", needed="0002")

    monkeypatch.setattr("dmcore.control.plane.require_current", older)
    with pytest.raises(StoreOutdated, match="control upgrade"):
        Plane.open(settings)
