"""Connections and transactions. One way to write: `write`, which on SQLite takes the one writer's lock at its start."""

import select
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, func, make_url
from sqlalchemy import select as query
from sqlalchemy.exc import InvalidatePoolError

from dmcore.control.errors import StoreBusy
from dmcore.control.serving_errors import DriverMissing
from dmcore.control.store.failures import translated

BUSY_S = 10
"""How long a transaction waits for a lock, a connection or a server: far longer than any of ours takes."""
IDLE_S = 60
"""A replica that stops in the middle of a transaction loses it, and its locks, after this."""
POOL_SIZE, POOL_OVERFLOW = 10, 10
STORE_LOCK = 0x646D636F7265
"""PostgreSQL's advisory lock ("dmcore"): every connection shares it as long as it lasts, an upgrade has it alone."""

_NOW = query(func.clock_timestamp())

DatabaseClock = Callable[[Connection], datetime]


class Database:
    """A database and its clock: leases expire by it, not by any replica's. Thread-safe."""

    def __init__(self, url: str, clock: DatabaseClock | None = None, busy_s: int = BUSY_S) -> None:
        self.engine = make_engine(url, busy_s)
        self._clock = clock or database_time
        self._busy_s = busy_s
        self._turn = threading.Lock()

    @property
    def is_sqlite(self) -> bool:
        """Which of the two it is."""
        return self.engine.dialect.name == "sqlite"

    def now(self, connection: Connection) -> datetime:
        """The database's clock, aware, in UTC."""
        return self._clock(connection)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction, committed at the end unless there is an error.

        Raises:
            StoreBusy, StoreFull: nothing was done; or, if the connection broke while it committed, perhaps all of it.
            StoreRefused: it does not let this control plane in.
        """
        with translated(), self._in_turn(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """SQLite's own lock goes to the luckiest: threads wait for it in vain while others have it twice."""
        if not self.is_sqlite:
            yield
            return
        if not self._turn.acquire(timeout=self._busy_s):
            raise StoreBusy
        try:
            yield
        finally:
            self._turn.release()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One transaction that only looks. On SQLite it does not wait for the writer.

        Raises:
            StoreBusy: the database does not answer.
            StoreRefused: it does not let this control plane in.
        """
        with translated(), self.engine.connect().execution_options(dmcore_read_only=True) as connection:
            yield connection

    def close(self) -> None:
        """Close every connection. Idempotent."""
        self.engine.dispose()


def make_engine(url: str, busy_s: int = BUSY_S) -> Engine:
    """An engine for SQLite (WAL, synchronous=FULL, BEGIN IMMEDIATE for writers) or PostgreSQL.

    Raises DriverMissing: the extra is not installed.
    """
    parsed = make_url(url)
    pool: dict[str, Any] = {"pool_size": POOL_SIZE, "max_overflow": POOL_OVERFLOW, "pool_timeout": busy_s}
    pool["hide_parameters"] = True  # what an error says may be logged: the values of a statement are not for that
    if parsed.get_backend_name() == "sqlite":
        engine = create_engine(parsed, connect_args={"timeout": busy_s}, **pool)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    try:
        engine = create_engine(parsed, connect_args={"connect_timeout": busy_s}, **pool)
    except ImportError as missing:  # also of libpq, which psycopg loads
        raise DriverMissing(problem=str(missing).partition("\n")[0]) from missing
    event.listen(engine, "connect", _prepare_postgresql(busy_s))
    event.listen(engine, "checkout", _require_open)
    return engine


def database_time(connection: Connection) -> datetime:
    """The clock of the database's machine: of SQLite that is this one."""
    if connection.dialect.name == "sqlite":
        return datetime.now(UTC)
    found: datetime = connection.execute(_NOW).scalar_one()
    return found.astimezone(UTC)


def _prepare_sqlite(raw: Any, _: object) -> None:
    raw.isolation_level = None  # transactions are begun by _begin_sqlite alone
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        raw.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    """A transaction that reads and then writes must hold the lock before it reads, else SQLITE_BUSY is immediate."""
    deferred = connection.get_execution_options().get("dmcore_read_only", False)
    connection.exec_driver_sql("BEGIN DEFERRED" if deferred else "BEGIN IMMEDIATE")


def _require_open(raw: Any, *_: object) -> None:
    """A server that ended has closed its side. That can be seen here; a ping would cost each transaction a round trip.

    Raises InvalidatePoolError: the pool opens another one.
    """
    if raw.closed:
        raise InvalidatePoolError("it was closed here")
    unread = select.poll()
    unread.register(raw.fileno(), select.POLLIN)
    if unread.poll(0):
        raise InvalidatePoolError("the server closed it")


def _prepare_postgresql(busy_s: int) -> Callable[[Any, object], None]:
    """No lock is waited for, and no transaction left open, without end. And the tables stay as they are meanwhile."""

    def prepare(raw: Any, _: object) -> None:
        with raw.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = '{busy_s}s'")
            cursor.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_S}s'")
            cursor.execute(f"SELECT pg_advisory_lock_shared({STORE_LOCK})")
        raw.commit()

    return prepare
