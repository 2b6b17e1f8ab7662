"""Each stage beside the library calls that it cannot avoid and beside pure Python, on the machine's own files."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from dmcore.bench import reference
from dmcore.bench.bounds import Bounds
from dmcore.bench.compare import Comparison
from dmcore.bench.content import Recipe
from dmcore.bench.libraries import Bytes, Call
from dmcore.bench.replay import Replay
from dmcore.bench.stages import Stages, memory_file
from dmcore.bench.workload import Workload, prepare
from dmcore.blocks import extents as ex
from dmcore.blocks.extents import Extents
from dmcore.seal.stream import Codec

EXTENTS = 200_000


@pytest.fixture(scope="module", params=[Codec.LZ4, Codec.ZSTD], ids=["lz4", "zstd"])
def workload(request: pytest.FixtureRequest, content: Bytes, recipe: Recipe) -> Workload:
    return prepare(content, recipe, request.param)


@pytest.fixture
def memory_files(content: Bytes) -> Iterator[tuple[int, int]]:
    """One file for each contestant, its pages there already."""
    ours, theirs = memory_file(content), memory_file(content)
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


class Contest:
    """Lets the others take their turn before each of our rounds, then files the comparison."""

    def __init__(self, benchmark: Any, rounds: int, comparisons: list[Comparison]) -> None:
        self._benchmark, self._rounds, self._comparisons = benchmark, rounds, comparisons

    def run(
        self,
        comparison: Comparison,
        ours: Callable[[], object],
        libraries: Callable[[], float],
        reference: Callable[[], float],
    ) -> None:
        ours()  # pages, caches and clock speeds are the first pass's to pay
        libraries()

        def others_first() -> None:
            comparison.turn(libraries, reference)

        self._benchmark.pedantic(ours, setup=others_first, rounds=self._rounds, iterations=1)
        comparison.ours_s = list(self._benchmark.stats.stats.data)
        self._comparisons.append(comparison)
        self._benchmark.extra_info.update(
            rate=comparison.rate(comparison.ours_s),
            unit=f"{comparison.unit}/s",
            of_libraries=comparison.of_bound,
            times_reference=comparison.times_reference,
        )


@pytest.fixture
def contest(benchmark: Any, rounds: int, comparisons: list[Comparison]) -> Contest:
    return Contest(benchmark, rounds, comparisons)


def calls_alone(calls: list[Call]) -> Callable[[], float]:
    return Replay(calls).seconds


def stage(workload: Workload, name: str) -> Comparison:
    return Comparison(f"{name} {workload.codec.name.lower()}", workload.raw_bytes / 1e9)


def test_scan(contest: Contest, workload: Workload) -> None:
    if workload.codec is Codec.ZSTD:
        pytest.skip("a scan knows no codec")
    python = reference.Reference(workload)
    comparison = Comparison("scan", workload.raw_bytes / 1e9)
    contest.run(comparison, Stages(workload).scan, calls_alone(Bounds(workload).scan()), python.scan)


def test_seal(contest: Contest, workload: Workload) -> None:
    python = reference.Reference(workload)
    contest.run(stage(workload, "seal"), Stages(workload).seal, calls_alone(Bounds(workload).seal()), python.seal)


def test_verify(contest: Contest, workload: Workload) -> None:
    python = reference.Reference(workload)
    bounds = Bounds(workload)
    contest.run(stage(workload, "verify"), Stages(workload).verify, calls_alone(bounds.verify()), python.verify)


def test_open(contest: Contest, workload: Workload) -> None:
    python = reference.Reference(workload)
    contest.run(stage(workload, "open"), Stages(workload).open, calls_alone(Bounds(workload).open()), python.open)


def test_apply(contest: Contest, workload: Workload, memory_files: tuple[int, int]) -> None:
    ours, theirs = memory_files
    python, stages, bounds = reference.Reference(workload), Stages(workload), Bounds(workload)
    contest.run(
        stage(workload, "apply"),
        lambda: stages.apply(ours),
        calls_alone(bounds.apply(theirs)),
        lambda: python.apply(theirs),
    )


def scattered(count: int) -> Extents:
    """Extents as a change map has them: sorted, disjoint, none next to another."""
    gaps = np.random.default_rng(1).integers(1, 64, size=(count, 2)) * 65536
    ends = gaps.ravel().cumsum()
    return np.ascontiguousarray(np.column_stack([ends[0::2], gaps[:, 1]]).astype(np.int64))


def test_extents_merge_unsorted(contest: Contest) -> None:
    """Beside the sort alone, which no merging of unsorted extents can do without."""
    extents = np.random.default_rng(2).permutation(scattered(EXTENTS))
    comparison = Comparison("merge unsorted", EXTENTS / 1e6, "M extents")
    libraries = reference.seconds_of(lambda: np.sort(extents[:, 0]))
    contest.run(
        comparison,
        lambda: ex.normalize(extents),
        libraries,
        reference.seconds_of(lambda: reference.merge(extents.tolist())),
    )


def test_extents_subtract(contest: Contest) -> None:
    """Sorted input, beside reading both arrays once."""
    dirty = scattered(EXTENTS)
    durable = dirty[::3].copy()
    comparison = Comparison("subtract sorted", EXTENTS / 1e6, "M extents")
    libraries = reference.seconds_of(lambda: (dirty.sum(), durable.sum()))
    contest.run(
        comparison,
        lambda: ex.subtract(dirty, durable),
        libraries,
        reference.seconds_of(lambda: reference.subtract(dirty.tolist(), durable.tolist())),
    )
