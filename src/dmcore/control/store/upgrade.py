"""The schema's version: brought up to date by an operator's command, and required by everybody else."""

from pathlib import Path
from typing import cast

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, text

from dmcore.control.errors import StoreNewer, StoreOutdated
from dmcore.control.store.database import Database

MIGRATIONS = Path(__file__).parent / "migrations"
UPGRADE_LOCK = 0x646D636F7265
"""PostgreSQL's advisory lock: of two replicas that upgrade, one waits. ("dmcore")"""
EMPTY = "none"


def upgrade(database: Database) -> None:
    """Make or bring up to date every table, in one transaction. Repeating it changes nothing.

    Raises:
        StoreNewer: a later version of dmcore has been here.
        StoreBusy, StoreFull: nothing was changed.
    """
    with database.write() as connection:
        if not database.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": UPGRADE_LOCK})
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


def _require_known(connection: Connection, config: Config) -> str | None:
    found = MigrationContext.configure(connection).get_current_revision()
    try:
        ScriptDirectory.from_config(config).get_revision(found or "base")
    except CommandError as unknown:
        raise StoreNewer(found=str(found)) from unknown
    return found
