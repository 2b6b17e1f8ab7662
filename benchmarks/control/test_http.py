"""A control plane's process with PostgreSQL, and agents that long-poll it over HTTPS, each on its own connection."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table
from sqlalchemy import select
from tests.control.databases import TEMPLATE, PostgresqlServer

from benchmarks.control.agents import Fleet, Server
from benchmarks.control.deployment import deploy, spread_due
from benchmarks.control.loads import Times
from benchmarks.control.test_store import table_of
from dmcore.api.server_trust import pinned_context
from dmcore.control.certificates import open_certificate
from dmcore.control.plane import control_id, initialise
from dmcore.control.settings import load_control
from dmcore.control.store.database import Database
from dmcore.control.store.tables import jobs
from dmcore.host.clock import utc_now
from dmcore.model.jobs import JobKind

SETTINGS = """
state_dir = "{home}/state"
listen = "127.0.0.1:0"
database = "{url}"
[logging]
level = "warning"
"""
TITLE = "One control plane process over HTTPS; agents long-poll; 'pickup': from due in the queue to leased"


def test_http(
    benchmark: Any, tmp_path: Path, postgresql: PostgresqlServer, sizes: list[tuple[int, int]], seconds: float,
    tables: list[Table],
) -> None:  # fmt: skip
    rows = [figures(postgresql, tmp_path / str(size[0]), *size, seconds) for size in sizes[:-1]]
    whole = (postgresql, tmp_path / "whole", *sizes[-1], seconds)
    rows.append(benchmark.pedantic(figures, args=whole, rounds=1, iterations=1))
    benchmark.extra_info["rows"] = rows
    tables.append(table_of(rows, TITLE))


def figures(
    postgresql: PostgresqlServer, home: Path, agents: int, plans: int, seconds: float
) -> dict[str, float]:  # fmt: skip
    home.mkdir()
    with postgresql.empty(TEMPLATE) as url:
        config = home / "control.toml"
        config.write_text(SETTINGS.format(home=home, url=url))
        initialise(load_control(config))
        database = Database(url)
        try:
            nodes = deploy(database, agents, plans)
            with serving(config, database) as server:
                fleet = Fleet(server, nodes)
                asyncio.run(fleet.run(partial(spread_due, database), seconds))
            return row_of(fleet, database, agents, plans, seconds)
        finally:
            database.close()


@contextmanager
def serving(config: Path, database: Database) -> Iterator[Server]:
    """A process of its own."""
    command = [str(Path(sys.executable).parent / "dmctl"), "control", "serve", "--config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"serves on (\S+):(\d+)", process.stdout.readline())
            assert found, "the control plane does not start"
            certificate = open_certificate(load_control(config), utc_now).certificate.read_text()
            with database.read() as connection:
                control = control_id(connection)
            assert control is not None
            yield Server(found[1], int(found[2]), control, pinned_context(certificate, "benchmark"))
        finally:
            process.terminate()
            process.wait(60)


def row_of(fleet: Fleet, database: Database, agents: int, plans: int, seconds: float) -> dict[str, float]:
    times = fleet.times | {"pickup": pickups(database, seconds)}
    row: dict[str, float] = {"agents": agents, "plans": plans, "leases/s": fleet.leases / seconds}
    for kind in ("claim", "pickup", "heartbeat", "point", "outcome"):
        row[f"{kind} p50 ms"], row[f"{kind} p99 ms"] = times[kind].ms(0.5), times[kind].ms(0.99)
    return row


def pickups(database: Database, seconds: float) -> Times:
    """By the database's clock: what was due and leased while it was measured."""
    with database.read() as connection:
        recent = select(jobs.c.not_before, jobs.c.leased_at).where(jobs.c.kind == JobKind.CYCLE)
        rows = connection.execute(recent.where(jobs.c.leased_at.is_not(None)).order_by(jobs.c.leased_at)).all()
    last: datetime = rows[-1].leased_at
    waits = [row.leased_at - row.not_before for row in rows if (last - row.not_before).total_seconds() < seconds]
    return Times([wait.total_seconds() for wait in waits])
