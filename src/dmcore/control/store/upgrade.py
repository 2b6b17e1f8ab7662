"""The schema's version: brought up to date by an operator's command, and required by everybody else."""

from pathlib import Path
from typing import cast

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from dmcore.control.errors import StoreInUse, StoreNewer, StoreOutdated
from dmcore.control.store.database import STORE_LOCK, Database

MIGRATIONS = Path(__file__).parent / "migrations"
EMPTY = "none"
LOCK_NOT_AVAILABLE = "55P03"
"""It was waited for in vain, for `BUSY_S`."""


def upgrade(database: Database) -> None:
    """Make or bring up to date every table, in one transaction. Repeating it changes nothing.

    Raises:
        StoreNewer: a later version of dmcore has been here.
        StoreInUse: a control plane is connected to it (PostgreSQL; a SQLite file is its state directory's).
        StoreBusy, StoreFull, StoreRefused: nothing was changed.
    """
    with database.write() as connection:
        if not database.is_sqlite:
            require_alone(connection)
        config = configuration()
        _require_known(connection, config)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def require_current(database: Database) -> None:
    """Refuse to work on a schema of another version.

    Raises:
        StoreOutdated: `dmctl control upgrade` was not run.
        StoreNewer: a later version of dmcore has been here.
    """
    config = configuration()
    needed = cast("str", ScriptDirectory.from_config(config).get_current_head())
    with database.read() as connection:
        found = _require_known(connection, config)
    if found != needed:
        raise StoreOutdated(found=found or EMPTY, needed=needed)


def configuration() -> Config:
    """Alembic's, without a file of its own: the migrations are part of this package."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def require_alone(connection: Connection) -> None:
    """Of two that upgrade, one waits. Raises StoreInUse: others are connected, and stay so."""
    key = {"key": STORE_LOCK}
    connection.execute(text("SELECT pg_advisory_unlock_shared(:key)"), key)  # its own share; else both would wait
    try:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), key)
    except OperationalError as held:
        if getattr(held.orig, "sqlstate", None) == LOCK_NOT_AVAILABLE:
            raise StoreInUse from held
        raise


def _require_known(connection: Connection, config: Config) -> str | None:
    found = MigrationContext.configure(connection).get_current_revision()
    try:
        ScriptDirectory.from_config(config).get_revision(found or "base")
    except CommandError as unknown:
        raise StoreNewer(found=str(found)) from unknown
    return found
