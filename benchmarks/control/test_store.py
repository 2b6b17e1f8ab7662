"""Leases, claims and ticks on PostgreSQL, without HTTP: at a tenth of the size and at the whole."""

from typing import Any

from rich.table import Table
from tests.control.databases import TEMPLATE, PostgresqlServer

from benchmarks.control.deployment import deploy, spread_due
from benchmarks.control.loads import Load, Paced, burst, warm_up
from dmcore.control.store.database import Database

TITLE = "The control plane's functions on PostgreSQL, 8 threads. due: as RPOs of 5 min bring; burst: all at once"


def test_store(
    benchmark: Any, postgresql: PostgresqlServer, sizes: list[tuple[int, int]], seconds: float, tables: list[Table]
) -> None:
    rows = [figures(postgresql, *size, seconds) for size in sizes[:-1]]
    rows.append(benchmark.pedantic(figures, args=(postgresql, *sizes[-1], seconds), rounds=1, iterations=1))
    benchmark.extra_info["rows"] = rows
    tables.append(table_of(rows, TITLE))


def figures(postgresql: PostgresqlServer, agents: int, plans: int, seconds: float) -> dict[str, float]:
    with postgresql.empty(TEMPLATE) as url:
        database = Database(url)
        try:
            return measured(database, agents, plans, seconds)
        finally:
            database.close()


def measured(database: Database, agents_count: int, plans_count: int, seconds: float) -> dict[str, float]:
    agents = deploy(database, agents_count, plans_count)
    warm_up(database)
    due, all_due = Load(database, agents), Load(database, agents)
    spread_due(database)
    due_leases_s = Paced(due, seconds).leases_s()
    burst_leases_s = burst(all_due, seconds)
    return {
        "agents": agents_count,
        "plans": plans_count,
        "due: leases/s": due_leases_s,
        "claim p50 ms": due.times["claim"].ms(0.5),
        "claim p99 ms": due.times["claim"].ms(0.99),
        "tick p50 ms": due.times["tick"].ms(0.5),
        "tick max ms": due.times["tick"].ms(1),
        "burst: leases/s": burst_leases_s,
        "burst claim p50 ms": all_due.times["claim"].ms(0.5),
        "burst claim p99 ms": all_due.times["claim"].ms(0.99),
        "burst tick max ms": all_due.times["tick, all due"].ms(1),
        "heartbeat p50 ms": all_due.times["heartbeat"].ms(0.5),
        "point p50 ms": all_due.times["point"].ms(0.5),
        "outcome p50 ms": all_due.times["outcome Job"].ms(0.5),
    }


def table_of(rows: list[dict[str, float]], title: str) -> Table:
    """A column a size, and how the figures grow from one to the next."""
    table = Table(title=title)
    for name in ("", *(f"{row['plans']:.0f} plans" for row in rows), "growth"):
        table.add_column(name, justify="left" if not name else "right")
    for name in rows[-1]:
        values = [row[name] for row in rows]
        growth = f"{values[-1] / values[0]:.2f}" if values[0] else "-"
        table.add_row(name, *(f"{value:.1f}" for value in values), growth)
    return table
