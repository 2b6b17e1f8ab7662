"""Extents as values; the arithmetic itself is tested against a bitmap in tests/native."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmcore.blocks import extents as ex
from dmcore.native.errors import ExtentsInvalid

PAIRS = st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(1, 1 << 30)), max_size=20)

# Known answer of the format's version 1: blocks 3 to 14 of 64 KiB, one extent.
COVERAGE_OF_BLOCKS_3_TO_14 = "70a58aacbdb2eb5ab27352581f6227285901ca860f20ab0d88c3c7f7208a471e"


def test_coverage_hash_is_the_known_answer() -> None:
    blocks = ex.from_pairs([(block * 65536, 65536) for block in range(3, 15)])
    assert ex.coverage_hash(blocks).hex() == COVERAGE_OF_BLOCKS_3_TO_14


def test_coverage_hash_does_not_depend_on_order_or_pieces() -> None:
    pieces = np.array([(block * 65536, 65536) for block in range(14, 2, -1)], dtype=np.int64)
    assert ex.coverage_hash(pieces).hex() == COVERAGE_OF_BLOCKS_3_TO_14


def test_coverage_hash_of_nothing_is_the_hash_of_nothing() -> None:
    assert ex.coverage_hash(ex.empty()).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_empty_is_no_bytes() -> None:
    assert ex.empty().shape == (0, 2)
    assert ex.empty().dtype == np.int64
    assert ex.total_bytes(ex.empty()) == 0


def test_from_pairs_sorts_and_merges() -> None:
    assert ex.from_pairs([(20, 5), (0, 10), (10, 10)]).tolist() == [[0, 25]]


def test_from_pairs_takes_none() -> None:
    assert ex.from_pairs([]).tolist() == []


def test_whole_disk() -> None:
    assert ex.whole(1000).tolist() == [[0, 1000]]


def test_packed_form_is_big_endian_pairs() -> None:
    assert ex.to_bytes(ex.from_pairs([(0x0102, 0x03)])).hex() == "0000000000000102" + "0000000000000003"


@given(PAIRS)
def test_packed_form_reads_back(pairs: list[tuple[int, int]]) -> None:
    extents = ex.from_pairs(pairs)
    assert ex.from_bytes(ex.to_bytes(extents)).tolist() == extents.tolist()


@pytest.mark.parametrize("length", [1, 8, 15, 17, 31])
def test_packed_form_of_a_wrong_length_is_refused(length: int) -> None:
    with pytest.raises(ExtentsInvalid, match=f"{length} bytes are no whole number of extents"):
        ex.from_bytes(bytes(length))


def test_read_back_extents_belong_to_the_reader() -> None:
    """What a peer sent may lie in a buffer that the next message overwrites."""
    packed = bytearray(ex.to_bytes(ex.from_pairs([(0, 16)])))
    extents = ex.from_bytes(packed)
    packed[:] = bytes(len(packed))
    assert extents.tolist() == [[0, 16]]
    assert extents.flags.writeable
