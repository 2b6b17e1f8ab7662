from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmcore.blocks import extents as ex
from dmcore.blocks.constants import DEFAULT_BLOCK_BYTES, MAX_BLOCK_BYTES, MIN_BLOCK_BYTES
from dmcore.blocks.grid import Grid
from dmcore.native.errors import ExtentsInvalid

Pairs: TypeAlias = list[tuple[int, int]]

KIB = 1024
SHORT_TAIL = Grid(10 * 64 * KIB + 512)


def test_default_block_is_64_kib() -> None:
    assert Grid(1 << 40).block_bytes == DEFAULT_BLOCK_BYTES == 64 * KIB


@pytest.mark.parametrize("block_bytes", [MIN_BLOCK_BYTES, 8192, 1 << 20, MAX_BLOCK_BYTES])
def test_powers_of_two_in_range_are_taken(block_bytes: int) -> None:
    assert Grid(1 << 30, block_bytes).blocks == (1 << 30) // block_bytes


@pytest.mark.parametrize("block_bytes", [-4096, 0, 1, 512, 2048, 4095, 4097, 12288, 8 << 20, 1 << 62])
def test_other_block_sizes_are_refused(block_bytes: int) -> None:
    with pytest.raises(ExtentsInvalid, match="no power of two"):
        Grid(1 << 30, block_bytes)


@pytest.mark.parametrize("disk_bytes", [-512, 0, 1 << 63, 1 << 80])
def test_disks_of_no_possible_size_are_refused(disk_bytes: int) -> None:
    with pytest.raises(ExtentsInvalid, match="a disk of"):
        Grid(disk_bytes)


def test_the_last_block_may_be_short() -> None:
    assert SHORT_TAIL.blocks == 11
    assert [SHORT_TAIL.length(block) for block in (0, 9, 10)] == [64 * KIB, 64 * KIB, 512]


def test_a_disk_smaller_than_a_block_is_one_short_block() -> None:
    assert Grid(512).blocks == 1
    assert Grid(512).length(0) == 512


def test_the_largest_disk_has_a_count_of_blocks() -> None:
    assert Grid((1 << 63) - 1).blocks == 1 << 47


@given(blocks=st.integers(1, 200), tail=st.integers(0, 7))
def test_block_lengths_add_up_to_the_disk(blocks: int, tail: int) -> None:
    grid = Grid((blocks - 1) * 4096 + (tail + 1) * 512, 4096)
    assert sum(grid.length(block) for block in range(grid.blocks)) == grid.disk_bytes


@pytest.mark.parametrize(
    ("given_pairs", "aligned"),
    [
        ([], []),
        ([(1, 1)], [(0, 65536)]),
        ([(65535, 2)], [(0, 131072)]),
        ([(0, 1), (65536, 1)], [(0, 131072)]),
        ([(655360, 1)], [(655360, 512)]),
        ([(0, 655872)], [(0, 655872)]),
    ],
    ids=["nothing", "one-byte", "across-a-border", "neighbours-merge", "short-tail", "whole-disk"],
)
def test_align_widens_to_whole_blocks(given_pairs: Pairs, aligned: Pairs) -> None:
    assert SHORT_TAIL.align(ex.from_pairs(given_pairs)).tolist() == [list(pair) for pair in aligned]


@pytest.mark.parametrize("pairs", [[], [(0, 65536)], [(655360, 512)], [(0, 655872)], [(65536, 65536), (0, 65536)]])
def test_check_passes_whole_blocks_inside_the_disk(pairs: Pairs) -> None:
    assert SHORT_TAIL.check(ex.from_pairs(pairs)).tolist() == ex.from_pairs(pairs).tolist()


@pytest.mark.parametrize("pairs", [[(0, 655873)], [(655360, 65536)], [(1 << 50, 65536)]])
def test_check_refuses_what_ends_behind_the_disk(pairs: Pairs) -> None:
    with pytest.raises(ExtentsInvalid, match="of a disk of 655872 bytes"):
        SHORT_TAIL.check(ex.from_pairs(pairs))


@pytest.mark.parametrize(
    "pairs", [[(0, 512)], [(512, 65536)], [(65536, 65537)], [(655360, 511)], [(0, 65536), (131073, 1)]]
)
def test_check_refuses_what_is_not_on_the_grid(pairs: Pairs) -> None:
    with pytest.raises(ExtentsInvalid, match="not on the grid"):
        SHORT_TAIL.check(ex.from_pairs(pairs))


@given(st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 1 << 18)), max_size=20))
def test_what_align_gives_passes_check(pairs: Pairs) -> None:
    grid = Grid(2 << 20, 4096)
    aligned = grid.align(ex.from_pairs(pairs))
    assert grid.check(aligned).tolist() == aligned.tolist()
