"""Real databases for tests: SQLite files, and a PostgreSQL server of the test process's own, on a unix socket.

A fresh database costs a copied file, or a copied template. A folder of tests uses the fixtures of its conftest.py:
`database` (each test on both), `sqlite_database`, `postgresql_database`, and `postgresql` (the server: stop, start).
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dmcore.control.errors import StoreBusy
from dmcore.control.store.database import Database
from dmcore.control.store.upgrade import upgrade

START_TIMEOUT_S = 60.0
NUMBERS = count(1)
TEMPLATE = "dmcore_template"
UNSYNCED = ("fsync=off", "full_page_writes=off")
"""Nobody pulls the plug of a test; a killed process loses nothing by them."""


def server_programs() -> Path | None:
    """Where initdb and postgres are; Debian keeps them out of PATH."""
    if found := shutil.which("postgres"):
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    return versions[-1].parent if versions else None


class PostgresqlServer:
    """One server in a directory of its own. It ends with the thread that started it, however that ends."""

    def __init__(self, programs: Path, settings: tuple[str, ...] = UNSYNCED) -> None:
        self.programs = programs
        self.settings = settings
        self.home = Path(tempfile.mkdtemp(prefix="dmcore-pg-"))
        self._user = () if os.geteuid() else self._other_user()
        self._process: subprocess.Popen[bytes] | None = None
        self._run("initdb", "-D", str(self.home / "data"), "-A", "trust", "-U", "dmcore", "-N", "-E", "UTF8")
        self.start()

    def _other_user(self) -> tuple[str, ...]:
        """PostgreSQL refuses to run as root."""
        names = {entry.pw_name for entry in pwd.getpwall()}
        user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
        os.chown(self.home, user.pw_uid, user.pw_gid)
        return f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"

    def _command(self, program: str, *arguments: str) -> list[str]:
        return ["setpriv", *self._user, "--pdeathsig=INT", str(self.programs / program), *arguments]

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            self._command(program, *arguments), cwd=self.home, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def url(self, name: str) -> str:
        return f"postgresql+psycopg://dmcore@/{name}?host={self.home}"

    def start(self) -> None:
        options = (*self.settings, "listen_addresses=", f"unix_socket_directories={self.home}", "max_connections=200")
        flags = [word for option in options for word in ("-c", option)]
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command("postgres", "-D", str(self.home / "data"), *flags), cwd=self.home, stdout=log, stderr=log
            )
        waits = int(START_TIMEOUT_S / 0.05)
        assert any(self._answers() for _ in range(waits)), (self.home / "log").read_text()

    def _answers(self) -> bool:
        assert self._process is not None
        try:
            psycopg.connect(f"host={self.home} user=dmcore dbname=postgres").close()
        except psycopg.OperationalError:
            try:
                self._process.wait(0.05)
            except subprocess.TimeoutExpired:
                return False
            raise AssertionError((self.home / "log").read_text()) from None
        return True

    def stop(self, *, kill: bool = False) -> None:
        """Every connection breaks. `kill`: as by a power cut, with recovery at the next start."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGQUIT if kill else signal.SIGINT)
        self._process.wait(START_TIMEOUT_S)
        self._process = None

    def restart(self, *, kill: bool = False) -> None:
        self.stop(kill=kill)
        self.start()

    def execute(self, statement: str) -> None:
        with psycopg.connect(f"host={self.home} user=dmcore dbname=postgres", autocommit=True) as connection:
            connection.execute(statement)

    @contextmanager
    def empty(self, template: str = "template0") -> Iterator[str]:
        """The URL of a database that is gone afterwards."""
        name = f"test_{next(NUMBERS)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield self.url(name)
        finally:
            if self._process is None:
                self.start()
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def make_template(self) -> None:
        self.execute(f"CREATE DATABASE {TEMPLATE}")
        make_schema(self.url(TEMPLATE))

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.home)


def patiently(act: Callable[[], Any]) -> Any:
    """As a caller does who is told to come back: again, until the database answers."""
    while True:
        try:
            return act()
        except StoreBusy:
            continue


def make_schema(url: str) -> None:
    database = Database(url)
    upgrade(database)
    database.close()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """The server. Skips, and says why, where it cannot be had."""
    programs = server_programs()
    if programs is None or not shutil.which("setpriv"):
        pytest.skip("NOT RUN on PostgreSQL: needs its server (apt install postgresql util-linux)")
    server = PostgresqlServer(programs)
    try:
        server.make_template()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with all tables and nothing in them."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    make_schema(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_database(sqlite_template: Path, tmp_path: Path) -> Iterator[Database]:
    path = tmp_path / "control.db"
    shutil.copyfile(sqlite_template, path)
    database = Database(f"sqlite:///{path}")
    yield database
    database.close()


@pytest.fixture
def postgresql_database(postgresql: PostgresqlServer) -> Iterator[Database]:
    with postgresql.empty(TEMPLATE) as url:
        database = Database(url)
        yield database
        database.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Database:
    """Each of the two."""
    found: Database = request.getfixturevalue(f"{request.param}_database")
    return found
