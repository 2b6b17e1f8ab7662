"""A PostgreSQL server that syncs, and the sizes."""

import shutil
from collections.abc import Iterator
from typing import cast

import pytest
from tests.control.databases import PostgresqlServer, server_programs


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """One of its own, with its defaults: a commit is on the disk."""
    programs = server_programs()
    if programs is None or not shutil.which("setpriv"):
        pytest.skip("NOT RUN: needs PostgreSQL's server (apt install postgresql util-linux)")
    server = PostgresqlServer(programs, settings=())
    try:
        server.make_template()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def sizes(pytestconfig: pytest.Config) -> list[tuple[int, int]]:
    """Agents and plans: a tenth, and all."""
    agents, plans = (cast("int", pytestconfig.getoption(name)) for name in ("--control-agents", "--control-plans"))
    return [(max(agents // 10, 1), max(plans // 10, 1)), (agents, plans)]


@pytest.fixture(scope="session")
def seconds(pytestconfig: pytest.Config) -> float:
    return cast("float", pytestconfig.getoption("--control-s"))


@pytest.fixture(scope="session")
def replicas(pytestconfig: pytest.Config) -> int:
    return cast("int", pytestconfig.getoption("--control-replicas"))
