import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from dmcore.control.errors import StoreBusy, StoreFull
from dmcore.control.store.database import POOL_OVERFLOW, POOL_SIZE, Database
from dmcore.control.store.tables import meta
from tests.control.databases import PostgresqlServer


def address(database: Database) -> str:
    return database.engine.url.render_as_string(hide_password=False)


@pytest.fixture
def impatient(database: Database) -> Iterator[Database]:
    """The same database for another process, which waits no longer than a second."""
    other = Database(address(database), busy_s=1)
    yield other
    other.close()


def put(connection: Connection, key: str, value: str = "x") -> None:
    connection.execute(insert(meta).values(key=key, value=value))


def write(database: Database, *acts: Callable[[Connection], object]) -> None:
    """All of these in one transaction."""
    with database.write() as connection:
        for act in acts:
            act(connection)


def putting(key: str) -> Callable[[Connection], None]:
    return lambda connection: put(connection, key)


def keys(database: Database) -> list[str]:
    with database.read() as connection:
        return sorted(connection.execute(select(meta.c.key)).scalars())


def raising(state: str) -> Callable[[Connection], object]:
    """An error of the server's own, as it reports it."""
    error = text(f"DO $$ BEGIN RAISE EXCEPTION 'as wished' USING ERRCODE = '{state}'; END $$")
    return lambda connection: connection.execute(error)


def test_committed_at_the_end(database: Database) -> None:
    with database.write() as connection:
        put(connection, "a")
    assert keys(database) == ["a"]


def test_an_error_undoes_all_of_it(database: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        write(database, putting("a"), lambda _: 1 // 0)
    assert keys(database) == []


def test_a_reader_neither_waits_for_the_writer_nor_sees_its_work(impatient: Database, database: Database) -> None:
    with database.write() as connection:
        put(connection, "a")
        assert keys(impatient) == []
    assert keys(impatient) == ["a"]


def test_the_clock_is_the_databases_and_can_be_set(database: Database) -> None:
    fixed = datetime(2030, 1, 1, tzinfo=UTC)
    with database.read() as connection:
        assert abs(database.now(connection) - datetime.now(UTC)) < timedelta(minutes=1)
        assert Database(address(database), clock=lambda _: fixed).now(connection) == fixed


def test_a_lock_that_is_not_given_back_is_busy(impatient: Database, database: Database) -> None:
    with database.write() as connection:
        put(connection, "a")
        with pytest.raises(StoreBusy), impatient.write() as second:
            put(second, "a")
    assert keys(database) == ["a"]
    with impatient.write() as connection:
        put(connection, "b")


def test_what_an_error_says_has_no_values_in_it(database: Database) -> None:
    write(database, putting("one"))
    with pytest.raises(IntegrityError) as told:
        write(database, lambda connection: put(connection, "one", "a secret"))
    assert "a secret" not in str(told.value)


def test_a_writer_that_waits_has_its_turn(sqlite_database: Database) -> None:
    """SQLite's own lock goes to whoever asks in the right moment: others wait until they are told to come back."""
    trials = 20
    overtaken = sum(turns_before_another(sqlite_database, trial) for trial in range(trials))
    assert overtaken < 5 * trials  # two each, and without turns about seventy


def turns_before_another(database: Database, trial: int) -> int:
    """How often this thread writes, again and again, before another one that waits has written once."""
    other = threading.Thread(target=write, args=(database, putting(f"{trial} other")))
    turns = 0
    with database.write():
        other.start()
    while other.is_alive():
        write(database, *(putting(f"{trial} {turns} {number}") for number in range(20)))
        turns += 1
    return turns


def test_a_turn_that_does_not_come_is_busy(sqlite_database: Database) -> None:
    impatient = Database(address(sqlite_database), busy_s=0)
    with pytest.raises(StoreBusy), impatient.write(), impatient.write():
        pass
    impatient.close()


def test_an_error_of_the_caller_is_not_the_stores(database: Database) -> None:
    with pytest.raises(IntegrityError):
        write(database, putting("a"), putting("a"))
    with pytest.raises(DBAPIError), database.read() as connection:
        connection.execute(text("SELECT nonsense"))


def test_more_callers_than_connections_are_told_to_come_back(impatient: Database) -> None:
    done, held = threading.Event(), threading.Semaphore(0)

    def hold() -> None:
        with impatient.read() as connection:
            connection.execute(select(meta)).all()
            held.release()
            done.wait()

    holders = [threading.Thread(target=hold) for _ in range(POOL_SIZE + POOL_OVERFLOW)]
    for holder in holders:
        holder.start()
    for _ in holders:
        held.acquire()
    with pytest.raises(StoreBusy), impatient.read():
        pass
    done.set()
    for holder in holders:
        holder.join()
    assert keys(impatient) == []


class TestSqlite:
    def test_is_durable_when_it_says_so(self, sqlite_database: Database) -> None:
        with sqlite_database.read() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2
            assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 1

    def test_a_full_disk_changes_nothing_and_is_survived(self, sqlite_template: Path, small_file_system: Path) -> None:
        path = small_file_system / "control.db"
        path.write_bytes(sqlite_template.read_bytes())
        database = Database(f"sqlite:///{path}")
        with database.write() as connection:
            put(connection, "before")
        with pytest.raises(StoreFull):
            write(database, *(putting(f"{number:060}") for number in range(20_000)))
        assert keys(database) == ["before"]
        with database.write() as connection:
            put(connection, "after")
        database.close()
        assert keys(database) == ["after", "before"]
        database.close()

    def test_a_directory_that_is_not_there_is_busy(self, tmp_path: Path) -> None:
        with pytest.raises(StoreBusy), Database(f"sqlite:///{tmp_path / 'no' / 'control.db'}").read():
            pass

    def test_a_read_only_database_is_full(self, sqlite_database: Database) -> None:
        with sqlite_database.read() as connection:
            connection.exec_driver_sql("PRAGMA query_only = ON")
        with pytest.raises(StoreFull), sqlite_database.write() as connection:
            put(connection, "a")

    def test_what_is_no_database_is_neither(self, tmp_path: Path) -> None:
        (tmp_path / "control.db").write_bytes(b"not a database" * 100)
        with pytest.raises(DBAPIError, match="not a database"), Database(f"sqlite:///{tmp_path / 'control.db'}").read():
            pass


class TestPostgresql:
    @pytest.mark.parametrize("state", ["53100", "25006"])
    def test_a_server_that_cannot_write_is_full(self, postgresql_database: Database, state: str) -> None:
        with pytest.raises(StoreFull):
            write(postgresql_database, putting("a"), raising(state))
        assert keys(postgresql_database) == []

    @pytest.mark.parametrize("state", ["40001", "40P01", "53300", "57P01", "55P03", "25P03", "08006"])
    def test_a_server_that_cannot_answer_now_is_busy(self, postgresql_database: Database, state: str) -> None:
        with pytest.raises(StoreBusy):
            write(postgresql_database, putting("a"), raising(state))
        assert keys(postgresql_database) == []

    def test_another_error_of_the_server_stays_what_it_is(self, postgresql_database: Database) -> None:
        with pytest.raises(DBAPIError, match="as wished"):
            write(postgresql_database, raising("22012"))

    @pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
    def test_restarted_in_the_middle_of_a_transaction(
        self, postgresql: PostgresqlServer, postgresql_database: Database, kill: bool
    ) -> None:
        with postgresql_database.write() as connection:
            put(connection, "before")
        with pytest.raises(StoreBusy):
            write(postgresql_database, putting("lost"), lambda _: postgresql.restart(kill=kill), putting("lost too"))
        assert keys(postgresql_database) == ["before"]
        with postgresql_database.write() as connection:
            put(connection, "after")
        assert keys(postgresql_database) == ["after", "before"]

    def test_restarted_before_the_commit(self, postgresql: PostgresqlServer, postgresql_database: Database) -> None:
        with pytest.raises(StoreBusy):
            write(postgresql_database, putting("lost"), lambda _: postgresql.restart())
        assert keys(postgresql_database) == []

    def test_gone_and_back(self, postgresql: PostgresqlServer, postgresql_database: Database) -> None:
        assert keys(postgresql_database) == []
        postgresql.stop()
        for transaction in (postgresql_database.read, postgresql_database.write):
            with pytest.raises(StoreBusy), transaction():
                pass
        postgresql.start()
        assert keys(postgresql_database) == []

    def test_a_restart_between_transactions_goes_unnoticed(
        self, postgresql: PostgresqlServer, postgresql_database: Database
    ) -> None:
        """The pool's connections are looked at before they are given out."""
        with postgresql_database.read(), postgresql_database.read():
            pass
        postgresql.restart()
        for _ in range(2):
            assert keys(postgresql_database) == []

    def test_a_connection_that_was_closed_here_is_not_given_out(self, postgresql_database: Database) -> None:
        with postgresql_database.read() as connection:
            raw: Any = connection.connection.driver_connection
        raw.close()
        assert keys(postgresql_database) == []

    def test_a_replica_that_freezes_loses_its_transaction(self, postgresql_database: Database) -> None:
        at_once = text("SET idle_in_transaction_session_timeout = '50ms'")
        with pytest.raises(StoreBusy):
            write(
                postgresql_database,
                lambda connection: connection.execute(at_once),
                putting("lost"),
                lambda _: wait_until_alone(postgresql_database),
                putting("lost too"),
            )
        assert keys(postgresql_database) == []


def wait_until_alone(database: Database) -> None:
    """Until the server has ended every other connection to this database."""
    others = text("""SELECT count(*), pg_sleep(0.02) FROM pg_stat_activity
                     WHERE datname = current_database() AND pid <> pg_backend_pid()""")
    watcher = Database(address(database))
    with watcher.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while connection.execute(others).scalar_one():
            pass
    watcher.close()
