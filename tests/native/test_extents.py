"""Extents against a bitmap: a set of the bytes of a small disk."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dmcore.native import extents as ex
from dmcore.native.errors import ExtentsInvalid

Extents = NDArray[np.int64]
DISK = 96
MOST = (1 << 63) - 1


def array(pairs: list[tuple[int, int]]) -> Extents:
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


ANY = st.lists(st.tuples(st.integers(0, DISK), st.integers(0, 12)), max_size=24).map(array)


def bits(extents: Extents) -> set[int]:
    return {byte for offset, length in extents.tolist() for byte in range(offset, offset + length)}


def tidy(extents: Extents) -> bool:
    """Sorted, merged, nothing empty."""
    ends = extents.sum(axis=1)
    return bool((extents[:, 1] > 0).all() and (extents[1:, 0] > ends[:-1]).all())


@given(ANY)
def test_normalize(given_extents: Extents) -> None:
    before = given_extents.copy()
    result = ex.normalize(given_extents)
    assert bits(result) == bits(given_extents)
    assert tidy(result)
    assert (given_extents == before).all(), "the input is not changed"


@given(ANY, ANY)
def test_union_subtract_intersect(a: Extents, b: Extents) -> None:
    for operation, expected in (
        (ex.union, bits(a) | bits(b)),
        (ex.subtract, bits(a) - bits(b)),
        (ex.intersect, bits(a) & bits(b)),
    ):
        result = operation(a, b)
        assert bits(result) == expected
        assert tidy(result)


@given(ANY, st.sampled_from([1, 2, 8, 64]), st.integers(1, DISK + 20))
def test_align(given_extents: Extents, block: int, disk: int) -> None:
    result = ex.align(given_extents, block, disk)
    touched = {byte // block for byte in bits(given_extents) if byte < disk}
    assert bits(result) == {byte for byte in range(disk) if byte // block in touched}
    assert tidy(result)


@given(ANY, st.integers(1, 20))
def test_split(given_extents: Extents, most: int) -> None:
    result = ex.split(given_extents, most)
    assert bits(result) == bits(given_extents)
    assert (result[1:, 0] >= result.sum(axis=1)[:-1]).all(), "sorted, without overlaps"
    assert ((result[:, 1] > 0) & (result[:, 1] <= most)).all()
    whole = -(-ex.normalize(given_extents)[:, 1] // most)
    assert len(result) == whole.sum(), "no piece more than needed"


@given(ANY)
def test_total_bytes(given_extents: Extents) -> None:
    assert ex.total_bytes(given_extents) == given_extents[:, 1].sum()
    assert ex.total_bytes(ex.normalize(given_extents)) == len(bits(given_extents))


TIDY = array([(0, 8), (16, 8), (32, 3)])


@pytest.mark.parametrize(
    "same",
    [
        pytest.param(ex.normalize, id="normalize"),
        pytest.param(lambda e: ex.align(e, 8, 35), id="align"),
        pytest.param(lambda e: ex.split(e, 8), id="split"),
        pytest.param(lambda e: ex.union(e, array([])), id="union"),
        pytest.param(lambda e: ex.union(array([]), e), id="union of nothing and"),
        pytest.param(lambda e: ex.subtract(e, array([])), id="subtract"),
    ],
)
@pytest.mark.parametrize("extents", [TIDY, array([])], ids=["three", "none"])
def test_what_is_tidy_already_is_given_back_without_a_copy(
    same: Callable[[Extents], Extents], extents: Extents
) -> None:
    assert same(extents) is extents or not len(extents)
    assert (same(extents) == extents).all()


def test_read_only_and_strided_arrays_are_welcome() -> None:
    TIDY_COPY = TIDY.copy()  # noqa: N806 - a constant's copy
    TIDY_COPY.flags.writeable = False
    assert ex.normalize(TIDY_COPY) is TIDY_COPY
    strided = np.repeat(TIDY, 2, axis=0)[::2]
    assert not strided.flags.c_contiguous
    for result in (ex.normalize(strided), ex.align(strided, 8, 35), ex.split(strided, 8)):
        assert (result == TIDY).all()
    assert ex.total_bytes(strided) == 19


@pytest.mark.parametrize(
    "pair", [(-1, 1), (0, -1), (1, MOST), (MOST, 1), (-(1 << 63), 1)], ids=["offset", "length", "end", "last", "least"]
)
@pytest.mark.parametrize("function", [ex.normalize, ex.total_bytes, lambda e: ex.align(e, 1, 9)])
def test_negative_and_overflowing_extents_are_refused(
    function: Callable[[Extents], Any], pair: tuple[int, int]
) -> None:
    with pytest.raises(ExtentsInvalid, match="extent 1 is"):
        function(array([(0, 1), pair]))


def test_the_last_byte_of_63_bits_is_in_reach() -> None:
    whole = array([(0, MOST)])
    assert ex.normalize(whole) is whole
    assert ex.total_bytes(ex.split(whole, 1 << 60)) == MOST
    with pytest.raises(ExtentsInvalid, match="more than 2\\^63 bytes"):
        ex.total_bytes(np.repeat(whole, 2, axis=0))


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(np.zeros((2, 3), dtype=np.int64), id="three columns"),
        pytest.param(np.zeros(4, dtype=np.int64), id="one dimension"),
        pytest.param(np.zeros((1, 2, 2), dtype=np.int64), id="three dimensions"),
        pytest.param(np.zeros((1, 2), dtype=np.uint64), id="unsigned"),
        pytest.param(np.zeros((1, 2), dtype=">i8"), id="big-endian"),
        pytest.param([(0, 1)], id="a list"),
    ],
)
def test_other_shapes_and_types_are_refused(wrong: Any) -> None:
    with pytest.raises(ExtentsInvalid, match="not an int64 array"):
        ex.normalize(wrong)


@pytest.mark.parametrize(("block", "disk"), [(0, 1), (-8, 1), (8, 0), (8, -1), (8, MOST)])
def test_impossible_grids_are_refused(block: int, disk: int) -> None:
    with pytest.raises(ExtentsInvalid, match="a grid of"):
        ex.align(TIDY, block, disk)


@pytest.mark.parametrize("most", [0, -1])
def test_pieces_of_nothing_are_refused(most: int) -> None:
    with pytest.raises(ExtentsInvalid, match="pieces of"):
        ex.split(TIDY, most)
