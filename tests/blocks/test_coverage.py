"""Coverage against a set of blocks: a block is in it once, whatever the order and size of the batches."""

import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmcore.blocks import extents as ex
from dmcore.blocks.coverage import Coverage
from dmcore.blocks.extents import Extents

BLOCK = 4096

runs = st.tuples(st.integers(0, 60), st.integers(1, 6))
batches = st.lists(st.lists(runs, max_size=5), max_size=12)


def extents_of(batch: list[tuple[int, int]]) -> Extents:
    """As a verified batch gives them: in any order, not merged."""
    return np.array([(first * BLOCK, count * BLOCK) for first, count in batch], dtype=np.int64).reshape(-1, 2)


def blocks_of(batch: list[tuple[int, int]]) -> list[int]:
    return [block for first, count in batch for block in range(first, first + count)]


def as_blocks(extents: Extents) -> set[int]:
    return set(blocks_of([(offset // BLOCK, length // BLOCK) for offset, length in extents.tolist()]))


def repeated_blocks(held: set[int], batch: list[tuple[int, int]]) -> set[int]:
    blocks = blocks_of(batch)
    return {block for block in blocks if block in held or blocks.count(block) > 1}


@given(batches, batches)
def test_agrees_with_a_set_of_blocks(first: list[list[tuple[int, int]]], later: list[list[tuple[int, int]]]) -> None:
    start = [run for batch in first for run in batch]
    coverage, held = Coverage(extents_of(start)), set(blocks_of(start))
    for batch in later:
        repeated = repeated_blocks(held, batch)
        answer = coverage.add(extents_of(batch))
        if repeated:
            assert answer is not None
            assert answer // BLOCK in repeated
        else:
            assert answer is None
            held |= set(blocks_of(batch))
    found = coverage.extents()
    assert as_blocks(found) == held
    assert all(a[0] + a[1] < b[0] for a, b in pairwise(found.tolist()))  # sorted and merged


@given(st.permutations(range(30)))
def test_any_order_comes_to_the_same(order: list[int]) -> None:
    coverage = Coverage()
    for block in order:
        assert coverage.add(extents_of([(block, 1)])) is None
    assert coverage.extents().tolist() == [[0, 30 * BLOCK]]
    assert coverage.add(extents_of([(order[0], 1)])) == order[0] * BLOCK


def test_nothing_is_added_of_a_batch_with_a_repeated_block() -> None:
    coverage = Coverage(extents_of([(10, 2)]))
    assert coverage.add(extents_of([(0, 1), (11, 1), (20, 1)])) == 11 * BLOCK
    assert coverage.add(extents_of([(30, 2), (31, 1)])) == 31 * BLOCK  # inside one batch
    assert coverage.extents().tolist() == [[10 * BLOCK, 2 * BLOCK]]


def test_empty_batches() -> None:
    coverage = Coverage()
    assert coverage.add(ex.empty()) is None
    assert coverage.extents().tolist() == []


def test_asking_between_changes_nothing() -> None:
    coverage = Coverage()
    for block in range(0, 20, 2):
        assert coverage.add(extents_of([(block, 1)])) is None
        assert as_blocks(coverage.extents()) == set(range(0, block + 1, 2))
    assert coverage.add(extents_of([(4, 1)])) == 4 * BLOCK


def test_ascending_batches_are_merged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an add costs follows the batch, not what is there."""
    handled: list[int] = []
    normalize = ex.normalize

    def counted(extents: Extents) -> Extents:
        handled.append(len(extents))
        return normalize(extents)

    monkeypatch.setattr(ex, "normalize", counted)
    coverage = Coverage()
    for batch in range(2000):
        assert coverage.add(extents_of([(batch * 20 + 2 * at, 1) for at in range(10)])) is None
    assert sum(handled) == 20_000
    coverage.extents()
    assert sum(handled) == 40_000


def test_ascending_batches_beside_a_large_base_stay_quick() -> None:
    """As after a restart: what was durable is the base, and the stream goes through it from the start."""
    base = np.stack([np.arange(200_000) * 4 * BLOCK, np.full(200_000, BLOCK)], axis=1)
    coverage = Coverage(base)
    added = base + np.array([2 * BLOCK, 0])
    began = time.process_time()
    for at in range(0, len(added), 100):
        assert coverage.add(np.ascontiguousarray(added[at : at + 100])) is None
    assert len(coverage.extents()) == 400_000
    assert time.process_time() - began < 2
