"""A control plane that dies: a forked process that ends, without a goodbye, before a chosen statement."""

import os
import warnings
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, event, text

from dmcore.control.store.database import Database

KILLED, FINISHED, BROKEN = 9, 0, 1
Work = Callable[[Connection], object]


def address_of(database: Database) -> str:
    return database.engine.url.render_as_string(hide_password=False)


def dies_before(database: Database, statement: int, work: Work) -> bool:
    """Do `work` in one transaction of another process, which dies before its n-th statement, the commit counted as
    one and the return from it as another. False: it has not so many.

    The database must have no open connection here: a fork would share it.
    """
    url = address_of(database)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads of pytest-xdist, which the child needs not
        child = os.fork()
    if not child:
        _run_and_exit(url, statement, work)
    _, status = os.waitpid(child, 0)
    if not database.is_sqlite:
        _wait_until_noticed(database)
    code = os.waitstatus_to_exitcode(status)
    assert code in {KILLED, FINISHED}, f"the process that was to be killed failed by itself: {code}"
    return code == KILLED


def _wait_until_noticed(database: Database) -> None:
    """The server gives a lost client's locks back when it comes to it."""
    others = text("""SELECT count(*), pg_sleep(0.005) FROM pg_stat_activity
                     WHERE datname = current_database() AND pid <> pg_backend_pid()""")
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while connection.execute(others).scalar_one():
            pass
    database.close()


def _run_and_exit(url: str, statement: int, work: Work) -> None:
    code = BROKEN
    try:
        with Database(url).write() as connection:
            reached = _count(connection, statement)
            work(connection)
        reached()
        code = FINISHED
    finally:
        os._exit(code)


def _count(connection: Connection, statement: int) -> Callable[..., None]:
    passed = 0

    def reached(*_: Any) -> None:
        nonlocal passed
        passed += 1
        if passed == statement:
            os._exit(KILLED)

    event.listen(connection, "before_cursor_execute", reached)
    event.listen(connection.engine, "commit", reached)
    return reached
