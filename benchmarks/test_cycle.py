"""A whole seed and a whole delta cycle between two real processes, with their phases, beside the CPU work alone."""

import os
from pathlib import Path
from typing import Any, cast

import pytest
from rich.table import Table

from dmcore.bench.content import Recipe
from dmcore.bench.cycles import CpuSeconds, CycleRun, bench_lab, change, one_cycle
from dmcore.bench.libraries import Bytes
from dmcore.bench.workload import prepare
from dmcore.seal.stream import Codec

CHANGED_SHARE = 0.1


@pytest.fixture
def copies(pytestconfig: pytest.Config, content: Bytes) -> int:
    """Cycles that are measured carry at least this much (`--cycle-mib`)."""
    wanted = cast("int", pytestconfig.getoption("--cycle-mib")) << 20
    return max(wanted // len(content), 1)


def test_seed_and_delta(
    benchmark: Any, tmp_path: Path, content: Bytes, recipe: Recipe, copies: int, tables: list[Table]
) -> None:
    (tmp_path / "tls").mkdir()
    cpu = CpuSeconds.of(prepare(content, recipe, Codec.LZ4), tmp_path / "tls")
    with bench_lab(tmp_path / "lab", content, copies) as (lab, disk):
        seed = benchmark.pedantic(one_cycle, args=(lab,), rounds=1, iterations=1)
        change(disk, content, CHANGED_SHARE)
        delta = one_cycle(lab)
        idle = one_cycle(lab)
    runs = {"seed": seed, "delta": delta, "nothing changed": idle}
    benchmark.extra_info.update({name: row_of(run, cpu) for name, run in runs.items()})
    tables.append(table_of(runs, cpu))


def row_of(run: CycleRun, cpu: CpuSeconds) -> dict[str, float]:
    """A phase's bound is its CPU seconds over the machine's cores: devices and fixed costs are not in it."""
    gigabytes, cores = (run.disk["data_bytes"] + run.disk["zero_bytes"]) / 1e9, os.cpu_count() or 1
    return {
        "raw_GB": gigabytes,
        "sealed_GB": run.disk["sealed_bytes"] / 1e9,
        "transfer_s": run.transfer_s,
        "commit_s": run.commit_s,
        "transfer_of_bound": cpu.transfer * gigabytes / cores / run.transfer_s,
        "commit_of_bound": cpu.apply * gigabytes / cores / run.commit_s,
        "other_s": sum(run.report["seconds"].values()) - run.transfer_s - run.commit_s,
    }


def table_of(runs: dict[str, CycleRun], cpu: CpuSeconds) -> Table:
    title = "Whole cycles, two processes; 'of bound': CPU seconds of the libraries alone / cores / seconds"
    table = Table(title=title)
    names = list(row_of(next(iter(runs.values())), cpu))
    for name in ("cycle", *names):
        table.add_column(name, justify="right")
    for name, run in runs.items():
        table.add_row(name, *(f"{value:.3f}" for value in row_of(run, cpu).values()))
    return table
