"""A control plane's processes with PostgreSQL, and agents that long-poll it over HTTPS, each on its own connection."""

import asyncio
import functools
import operator
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table
from sqlalchemy import select
from tests.control.databases import TEMPLATE, PostgresqlServer

from benchmarks.control.agents import Fleet
from benchmarks.control.deployment import deploy, make_all_due, spread_due
from benchmarks.control.loads import Times
from benchmarks.control.replicas import Replica, Ticks, cpu_s, family_cpu_s, machine_cpu_s, serving
from benchmarks.control.test_store import table_of
from dmcore.control.store.database import Database
from dmcore.control.store.tables import jobs
from dmcore.model.jobs import JobKind

TITLE = "{} over HTTPS; agents long-poll. due: as RPOs of 5 min bring; burst: all at once"
WARM_UP_S = 40.0
"""Until polls are spread over their length, and as many cycles end as begin."""


def test_http(
    benchmark: Any, tmp_path: Path, postgresql: PostgresqlServer, sizes: list[tuple[int, int]], seconds: float,
    replicas: int, tables: list[Table],
) -> None:  # fmt: skip
    rows = [figures(postgresql, tmp_path / str(size[0]), *size, seconds, replicas) for size in sizes[:-1]]
    whole = (postgresql, tmp_path / "whole", *sizes[-1], seconds, replicas)
    rows.append(benchmark.pedantic(figures, args=whole, rounds=1, iterations=1))
    benchmark.extra_info["rows"] = rows
    tables.append(table_of(rows, TITLE.format(f"A control plane of {replicas} process(es)")))


def figures(
    postgresql: PostgresqlServer, home: Path, agents: int, plans: int, seconds: float, replicas: int
) -> dict[str, float]:
    home.mkdir()
    with postgresql.empty(TEMPLATE) as url:
        database = Database(url)
        try:
            with serving(home, url, replicas) as running:
                nodes = deploy(database, agents, plans)
                fleet = Fleet([each.server for each in running], nodes)
                row: dict[str, float] = {"agents": agents, "plans": plans}
                processes = Processes(running, int((postgresql.home / "data/postmaster.pid").read_text().split()[0]))
                asyncio.run(fleet.run(partial(scenario, fleet, database, processes, seconds, row)))
            return row
        finally:
            database.close()


async def scenario(
    fleet: Fleet, database: Database, processes: "Processes", seconds: float, row: dict[str, float]
) -> None:
    """What arriving costs, then what the plans' RPOs bring, then everything due at once. Each apart."""
    for kind in ("connect", "first poll"):
        row[f"{kind} p99 ms"] = fleet.times[kind].ms(0.99)
    await asyncio.to_thread(spread_due, database)
    await asyncio.sleep(WARM_UP_S)
    row |= await measured(fleet, database, processes, seconds, "due")
    await asyncio.to_thread(make_all_due, database)
    fleet.takes_s = 0
    row |= await measured(fleet, database, processes, seconds, "burst")


async def measured(
    fleet: Fleet, database: Database, processes: "Processes", seconds: float, name: str
) -> dict[str, float]:  # fmt: skip
    ticks = await asyncio.to_thread(processes.ticks)
    fleet.forget()
    begin, before = time.perf_counter(), processes.used_s()
    await asyncio.sleep(seconds)
    took = time.perf_counter() - begin
    row = {"cycles/s": fleet.cycles / took, "other leases/s": fleet.works / took, "requests/s": fleet.requests / took}
    row |= {f"{who} % of a core": 100 * (used - before[who]) / took for who, used in processes.used_s().items()}
    times = fleet.times | {"pickup": await asyncio.to_thread(pickups, database, took)}
    for kind in ("claim", "pickup", "heartbeat", "point", "outcome"):
        row[f"{kind} p50 ms"], row[f"{kind} p99 ms"] = times[kind].ms(0.5), times[kind].ms(0.99)
    ticked = await asyncio.to_thread(processes.ticks) - ticks
    row |= {"tick mean ms": ticked.mean_ms, "tick max at most ms": ticked.longest_ms}
    return {f"{name}: {key}": value for key, value in row.items()}


@dataclass(frozen=True)
class Processes:
    """What serves the agents."""

    replicas: Sequence[Replica]
    postgresql: int

    def ticks(self) -> Ticks:
        """Of all replicas."""
        return functools.reduce(operator.add, [each.ticks() for each in self.replicas])

    def used_s(self) -> dict[str, float]:
        """Who has used how much time of the processors; figures are worth little when others use much."""
        ours = {f"server {number}": each.cpu_s() for number, each in enumerate(self.replicas)}
        ours |= {"postgresql": family_cpu_s(self.postgresql), "agents": cpu_s(os.getpid())}
        everybody, kept = machine_cpu_s()
        return ours | {"others": everybody - sum(ours.values()), "host": kept}


def pickups(database: Database, seconds: float) -> Times:
    """From due in the queue to leased, by the database's clock: of what was leased so long before now."""
    with database.read() as connection:
        since = database.now(connection) - timedelta(seconds=seconds)
        recent = select(jobs.c.not_before, jobs.c.leased_at).where(jobs.c.kind == JobKind.CYCLE)
        rows = connection.execute(recent.where(jobs.c.leased_at > since)).all()
    return Times([(row.leased_at - row.not_before).total_seconds() for row in rows])
