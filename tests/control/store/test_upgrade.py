import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from dmcore.control.errors import StoreBusy, StoreFull, StoreInUse, StoreNewer, StoreOutdated
from dmcore.control.store.database import Database
from dmcore.control.store.tables import metadata
from dmcore.control.store.upgrade import configuration, require_alone, require_current, upgrade
from tests.control.databases import PostgresqlServer, patiently


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'control 100%.db'}"
        return
    server: PostgresqlServer = request.getfixturevalue("postgresql")
    with server.empty() as url:
        yield url


@pytest.fixture
def empty(empty_url: str) -> Iterator[Database]:
    database = Database(empty_url)
    yield database
    database.close()


def tables(database: Database) -> set[str]:
    with database.read() as connection:
        return set(inspect(connection).get_table_names())


def test_makes_what_the_code_names(empty: Database) -> None:
    upgrade(empty)
    with empty.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    assert tables(empty) == set(metadata.tables) | {"alembic_version"}


def test_partial_indexes_are_over_the_words_that_queries_use(empty: Database) -> None:
    """What Alembic's comparison does not look at."""
    upgrade(empty)
    with empty.read() as connection:
        found = {index["name"]: index for index in inspect(connection).get_indexes("jobs")}
    for name in ("uq_jobs_group_in_flight", "ix_jobs_lease_until", "ix_jobs_queue_cycles", "ix_jobs_queue_work"):
        options = found[name]["dialect_options"]
        assert "state" in str(options.get("sqlite_where", options.get("postgresql_where")))
    assert found["uq_jobs_group_in_flight"]["unique"]


def test_repeating_it_changes_nothing(empty: Database) -> None:
    upgrade(empty)
    with empty.write() as connection:
        connection.execute(text("INSERT INTO meta (key, value) VALUES ('a', 'b')"))
    upgrade(empty)
    with empty.read() as connection:
        assert connection.execute(text("SELECT value FROM meta")).scalar_one() == "b"


def test_what_an_older_version_kept_stays(empty: Database) -> None:
    config = configuration()
    with empty.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        connection.execute(text("INSERT INTO sites VALUES ('north', '{}', '2026-03-01')"))
        node = "'a', 'north', 'connector', 'key', '1.0', '[]', '2026-03-01', '[]', '[]', '[]'"
        columns = "id, site, role, public_key, version, superseded, enrolled_at, sources, targets, recoveries"
        connection.execute(text(f"INSERT INTO nodes ({columns}) VALUES ({node})"))
    upgrade(empty)
    require_current(empty)
    with empty.read() as connection:
        assert connection.execute(text("SELECT id, statement FROM nodes")).one() == ("a", 0)


def test_two_at_once_do_it_once(empty_url: str) -> None:
    """One waits; a new SQLite file, which becomes a WAL database first, may tell it to come back instead."""
    failures: list[Exception] = []

    def run() -> None:
        database = Database(empty_url)
        try:
            patiently(lambda: upgrade(database))
        except Exception as failure:  # noqa: BLE001 - shown by the assertion below
            failures.append(failure)
        database.close()

    racers = [threading.Thread(target=run) for _ in range(2)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert failures == []
    database = Database(empty_url)
    require_current(database)
    database.close()


class TestWhileAControlPlaneWorksWithIt:
    """On PostgreSQL; a SQLite file is its state directory's, which is locked: tests/control/test_plane.py."""

    def test_it_is_refused(self, postgresql_database: Database) -> None:
        with postgresql_database.read() as connection:
            connection.execute(text("SELECT 1"))  # and goes back to the pool
        other = Database(postgresql_database.engine.url.render_as_string(hide_password=False), busy_s=1)
        with pytest.raises(StoreInUse, match="stop every replica"):
            upgrade(other)
        postgresql_database.close()
        upgrade(other)
        other.close()

    def test_also_after_the_database_was_restarted(
        self, postgresql: PostgresqlServer, postgresql_database: Database
    ) -> None:
        other = Database(postgresql_database.engine.url.render_as_string(hide_password=False), busy_s=1)
        for _ in range(2):
            require_current(postgresql_database)
            with pytest.raises(StoreInUse):
                patiently(lambda: upgrade(other))
            postgresql.restart()
        other.close()

    def test_one_that_starts_meanwhile_waits_and_is_told_to_come_back(self, postgresql_database: Database) -> None:
        late = Database(postgresql_database.engine.url.render_as_string(hide_password=False), busy_s=1)
        with postgresql_database.write() as connection:
            require_alone(connection)
            with pytest.raises(StoreBusy):
                require_current(late)
        require_current(late)
        late.close()


def test_a_schema_that_was_never_made_is_refused(empty: Database) -> None:
    with pytest.raises(StoreOutdated, match=r"schema none.*dmctl control upgrade"):
        require_current(empty)
    upgrade(empty)
    require_current(empty)


def test_a_schema_of_a_later_version_is_left_alone(database: Database) -> None:
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for act in (require_current, upgrade):
        with pytest.raises(StoreNewer, match="9999"):
            act(database)


def test_a_disk_that_fills_up_leaves_no_half_of_a_schema(small_file_system: Path) -> None:
    database = Database(f"sqlite:///{small_file_system / 'control.db'}")
    with database.read():
        pass  # the file is there
    (small_file_system / "ballast").write_bytes(bytes((1 << 20) - (150 << 10)))
    with pytest.raises(StoreFull):
        upgrade(database)
    assert tables(database) == set()
    (small_file_system / "ballast").unlink()
    upgrade(database)
    require_current(database)
    database.close()
