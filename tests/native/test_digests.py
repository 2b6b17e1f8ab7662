"""Block digests against another AES-GCM."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from dmcore.native.digests import Scanner
from dmcore.native.errors import ExtentsInvalid, SealFailed
from tests.seal.streams import BLOCK, DIGEST_KEY, KIB, MIB, content, ids


def scanner(disk_bytes: int = 64 * BLOCK, block_bytes: int = BLOCK) -> Scanner:
    return Scanner(DIGEST_KEY, block_bytes=block_bytes, disk_bytes=disk_bytes)


def gmac(block: int, raw: bytes) -> bytes:
    return AESGCM(DIGEST_KEY).encrypt(block.to_bytes(12, "big"), b"", raw)


@settings(max_examples=30)
@given(
    block_bytes=st.sampled_from([4 * KIB, 64 * KIB, MIB]),
    blocks=st.lists(st.integers(0, 1 << 40), max_size=5),
    shift=st.integers(0, 9),
)
def test_digests_are_gmac_of_the_block_under_its_index(block_bytes: int, blocks: list[int], shift: int) -> None:
    raw = [content(block, block_bytes) for block in blocks]
    buffer = memoryview(bytes(shift) + b"".join(raw))[shift:]
    digests, zero = scanner((1 << 40) * block_bytes + 512, block_bytes).scan(ids(*blocks), buffer if blocks else b"")
    short = {1 << 40: 512}
    expected = [gmac(b, one[: short.get(b, block_bytes)]) for b, one in zip(blocks, raw, strict=True)]
    assert [row.tobytes() for row in digests] == expected
    assert not zero.any()


@pytest.mark.parametrize("length", [512, 1024, BLOCK - 512, BLOCK])
def test_the_last_block_may_be_short(length: int) -> None:
    raw = content(9, BLOCK)
    digests, _ = scanner(9 * BLOCK + length).scan(ids(8, 9), raw + raw[:length])
    assert digests[1].tobytes() == gmac(9, raw[:length])


@pytest.mark.parametrize("length", [512, BLOCK])
def test_a_zero_blocks_digest_is_sixteen_zeros(length: int) -> None:
    digests, zero = scanner(BLOCK + length).scan(ids(0, 1), bytes(BLOCK + length))
    assert zero.all()
    assert not digests.any()


@pytest.mark.parametrize("shift", range(8))
def test_one_set_bit_anywhere_is_seen(shift: int) -> None:
    """In a buffer at any address: the zero test reads words."""
    buffer = bytearray(shift + 576)
    one = scanner(576)
    for at in range(576):
        buffer[shift + at] = 1 << at % 8
        assert not one.scan(ids(0), memoryview(buffer)[shift:])[1][0]
        buffer[shift + at] = 0
    assert one.scan(ids(0), memoryview(buffer)[shift:])[1][0]


def test_no_blocks_give_nothing() -> None:
    digests, zero = scanner().scan(ids(), b"")
    assert digests.shape == (0, 16)
    assert zero.shape == (0,)


@pytest.mark.parametrize("block", [-1, 64, 1 << 51, (1 << 63) - 1, -(1 << 63)])
def test_blocks_outside_the_disk_are_refused(block: int) -> None:
    with pytest.raises(ExtentsInvalid, match=f"block {block} is outside the disk"):
        scanner().scan(ids(0, block), bytes(2 * BLOCK))


def test_blocks_outside_the_buffer_are_refused() -> None:
    with pytest.raises(ExtentsInvalid, match="block 1 is outside the buffer"):
        scanner().scan(ids(0, 1), bytes(2 * BLOCK - 1))


def test_a_scanner_that_was_wiped_scans_no_more() -> None:
    one = scanner()
    one.wipe()
    one.wipe()
    with pytest.raises(SealFailed, match="wiped"):
        one.scan(ids(0), bytes(BLOCK))


@pytest.mark.parametrize(
    ("key", "block_bytes", "disk_bytes"),
    [(bytes(31), BLOCK, BLOCK), (bytes(32), 0, BLOCK), (bytes(32), -BLOCK, BLOCK), (bytes(32), 8 * MIB, BLOCK),
     (bytes(32), BLOCK, 0)],
)  # fmt: skip
def test_impossible_scanners_are_refused(key: bytes, block_bytes: int, disk_bytes: int) -> None:
    with pytest.raises(SealFailed):
        Scanner(key, block_bytes=block_bytes, disk_bytes=disk_bytes)


def test_digests_fit_the_digest_map() -> None:
    digests, zero = scanner().scan(ids(3), content(3))
    assert digests.dtype == np.uint8
    assert zero.dtype == np.bool_
