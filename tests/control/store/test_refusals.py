"""A database that does not let the control plane in, or cannot even be talked to, says which it is and what to do."""

import builtins
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from dmcore.control.errors import StoreBusy, StoreRefused
from dmcore.control.plane import Plane, initialise
from dmcore.control.reports.metrics import ControlCollector
from dmcore.control.serving_errors import DriverMissing
from dmcore.control.settings import ControlPlaneSettings
from dmcore.control.store.database import Database
from dmcore.errors import ExitCode
from tests.control.databases import PostgresqlServer

HBA = """
local all dmcore trust
local all eve scram-sha-256
local all nobody,ghost trust
"""


@pytest.fixture
def guarded(postgresql: PostgresqlServer) -> Iterator[PostgresqlServer]:
    """The server, asking some for a password."""
    path = postgresql.home / "data" / "pg_hba.conf"
    before = path.read_text()
    postgresql.execute("CREATE ROLE eve LOGIN PASSWORD 'right'")
    postgresql.execute("CREATE ROLE nobody")
    path.write_text(HBA)
    postgresql.restart()
    yield postgresql
    path.write_text(before)
    postgresql.restart()
    for role in ("eve", "nobody"):
        postgresql.execute(f"DROP ROLE {role}")


def url(server: PostgresqlServer, user: str, name: str = "postgres") -> str:
    return f"postgresql+psycopg://{user}@/{name}?host={server.home}"


@pytest.mark.parametrize(
    ("user", "name", "why"),
    [
        ("eve:wrong-secret", "postgres", "wrong user or password"),
        ("eve", "postgres", "wants a password"),
        ("ghost", "postgres", "no such user"),
        ("nobody", "postgres", "may not log in"),
        ("stranger", "postgres", "lets nobody in from here"),
        ("dmcore", "nowhere", "no such database"),
    ],
)
def test_each_refusal_is_told_apart(guarded: PostgresqlServer, user: str, name: str, why: str) -> None:
    database = Database(url(guarded, user, name))
    for transaction in (database.read, database.write):
        with pytest.raises(StoreRefused, match=why) as told, transaction():
            pass
    assert told.value.exit_code == ExitCode.CONFIGURATION
    assert "`database`" in str(told.value)
    assert "secret" not in str(told.value)
    assert str(guarded.home) not in str(told.value)
    database.close()


def test_the_right_password_gets_in(guarded: PostgresqlServer) -> None:
    database = Database(url(guarded, "eve:right"))
    with database.read() as connection:
        assert database.now(connection)
    database.close()


def test_a_control_plane_says_so_before_it_begins(guarded: PostgresqlServer, tmp_path: Path) -> None:
    settings = ControlPlaneSettings(state_dir=tmp_path / "state", database=url(guarded, "eve:wrong"))
    for act in (initialise, Plane.open):
        with pytest.raises(StoreRefused, match="wrong user or password"):
            act(settings)


def test_a_scrape_survives_it(guarded: PostgresqlServer) -> None:
    """A password that was changed while it runs."""
    database = Database(url(guarded, "eve:wrong"))
    registry = CollectorRegistry()
    registry.register(ControlCollector(database))
    assert registry.get_sample_value("dmcore_store_up") == 0
    database.close()


def test_a_server_that_is_not_there_is_away(tmp_path: Path) -> None:
    database = Database(f"postgresql+psycopg://dmcore@/postgres?host={tmp_path}")
    with pytest.raises(StoreBusy), database.read():
        pass
    database.close()


def test_a_database_that_is_closed_for_now_is_away(postgresql: PostgresqlServer) -> None:
    """It says FATAL, too, and names the database."""
    postgresql.execute("CREATE DATABASE closed ALLOW_CONNECTIONS false")
    database = Database(url(postgresql, "dmcore", "closed"))
    with pytest.raises(StoreBusy), database.read():
        pass
    database.close()
    postgresql.execute("DROP DATABASE closed")


@pytest.mark.parametrize("problem", ["No module named 'psycopg'", "no pq wrapper available.\nAttempts made:\n- more"])
def test_a_missing_driver_is_told_with_its_extra(problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def importing(name: str, *more: Any, **others: Any) -> Any:
        if name == "psycopg":
            raise ImportError(problem)
        return real(name, *more, **others)

    for loaded in [name for name in sys.modules if name.partition(".")[0] == "psycopg"]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(DriverMissing, match=r"pip install 'dmcore\[postgresql\]'") as told:
        Database("postgresql+psycopg://dmcore@/postgres")
    assert problem.partition("\n")[0] in str(told.value)
    assert "Attempts" not in str(told.value)
    assert told.value.exit_code == ExitCode.CONFIGURATION
