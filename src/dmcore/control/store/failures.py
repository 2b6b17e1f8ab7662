"""What a database's refusals mean to a caller: come back later, or make room. All else is a bug, and stays one."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from dmcore.control.errors import StoreBusy, StoreFull, StoreRefused

SQLITE_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_WRITE}
SQLITE_AWAY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR}
POSTGRESQL_FULL = {"53100", "25006"}
"""disk_full, read_only_sql_transaction."""
POSTGRESQL_AWAY = {"08", "53", "57", "40001", "40P01", "55P03", "25P03"}
"""Classes of lost connections, of resources and of restarts; then what a lock or a deadline cost."""

CONNECTING = "connection failed: "
REFUSALS = {
    "password authentication failed": "wrong user or password",
    "no password supplied": "it wants a password, and none was given",
    "no pg_hba.conf entry": "it lets nobody in from here, or not as this user",
    "is not permitted to log in": "this user may not log in",
    "permission denied for database": "this user may not use this database",
    "authentication failed": "it does not believe that we are this user",
    r'FATAL: +database ".*" does not exist': "there is no such database",
    r'FATAL: +role ".*" does not exist': "there is no such user",
}
"""What libpq says of a connection that was not made (a pattern), and what that means."""


@contextmanager
def translated() -> Iterator[None]:
    """Inside, a database that cannot answer or write says so in the project's own words.

    Raises:
        StoreBusy: locked, restarting, out of connections or gone.
        StoreFull: its disk is full, or it is read-only.
        StoreRefused: it does not let this control plane in.
    """
    try:
        yield
    except PoolTimeout as problem:
        raise StoreBusy from problem
    except DBAPIError as problem:
        if refusal := refused(problem.orig):
            raise StoreRefused(problem=refusal) from None  # what it says names users and hosts
        if is_full(problem.orig):
            raise StoreFull from problem
        if is_away(problem):
            raise StoreBusy from problem
        raise


def refused(problem: BaseException | None) -> str | None:
    """Why a server does not let us in, in our words; None: it is another problem.

    Of a connection that was not made there is nothing but a text. In another language it reads as a server that is
    away: `lc_messages` of the server says which.
    """
    text = "" if getattr(problem, "sqlstate", None) else str(problem)
    told = text if text.startswith(CONNECTING) else ""
    return next((said for pattern, said in REFUSALS.items() if re.search(pattern, told)), None)


def is_full(problem: BaseException | None) -> bool:
    """Whether the database could not write."""
    if isinstance(problem, sqlite3.Error):
        code = getattr(problem, "sqlite_errorcode", 0)
        return code in SQLITE_FULL or code & 0xFF in SQLITE_FULL
    return getattr(problem, "sqlstate", None) in POSTGRESQL_FULL


def is_away(problem: DBAPIError) -> bool:
    """Whether the same may succeed later: nothing of the transaction is kept."""
    cause = problem.orig
    if isinstance(cause, sqlite3.Error):
        return getattr(cause, "sqlite_errorcode", 0) & 0xFF in SQLITE_AWAY
    state = getattr(cause, "sqlstate", None)
    if state is None:  # never reached a server, or lost it: the driver's own error
        return problem.connection_invalidated or type(problem).__name__ == "OperationalError"
    return state in POSTGRESQL_AWAY or state[:2] in POSTGRESQL_AWAY
