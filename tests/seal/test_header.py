"""The stream header: every field in its place, every value that is refused."""

from dataclasses import replace

import pytest

from dmcore.seal.constants import STREAM_HEADER_BYTES
from dmcore.seal.errors import HeaderRefused, WrongKey
from dmcore.seal.header import StreamHeader
from tests.seal.streams import DEK, stream_header

HEADER = stream_header()


def changed(offset: int, value: bytes) -> bytes:
    packed = bytearray(HEADER.pack())
    packed[offset : offset + len(value)] = value
    return bytes(packed)


def test_round_trip() -> None:
    header, _ = HEADER.fresh(DEK)
    packed = header.pack()
    assert len(packed) == STREAM_HEADER_BYTES
    assert StreamHeader.unpack(packed) == header


REFUSED = {
    "magic": (0, b"DMC2", "magic b'DMC2'"),
    "version 0": (4, b"\0\0", "version 0"),
    "version 2": (4, b"\0\2", "version 2"),
    "suite": (6, b"\0\2", "suite 2"),
    "flags": (12, b"\0\0\0\1", "flags or reserved"),
    "reserved": (92, b"\x80\0\0\0", "flags or reserved"),
    "a disk of nothing": (80, bytes(8), "a disk of 0 bytes"),
    "a disk of 2^63": (80, b"\x80" + bytes(7), "a disk of 9223372036854775808 bytes"),
    "no block": (88, bytes(4), "blocks of 0 bytes"),
    "small blocks": (88, (2048).to_bytes(4, "big"), "blocks of 2048 bytes"),
    "large blocks": (88, (8 << 20).to_bytes(4, "big"), "blocks of 8388608 bytes"),
    "odd blocks": (88, (65536 + 4096).to_bytes(4, "big"), "blocks of 69632 bytes"),
}


@pytest.mark.parametrize(("offset", "value", "problem"), REFUSED.values(), ids=REFUSED)
def test_refused_fields(offset: int, value: bytes, problem: str) -> None:
    with pytest.raises(HeaderRefused) as refused:
        StreamHeader.unpack(changed(offset, value))
    assert problem in str(refused.value)
    assert refused.value.code == "stream.header"


@pytest.mark.parametrize("length", [0, 1, 175, 177])
def test_other_lengths_are_refused(length: int) -> None:
    with pytest.raises(HeaderRefused, match=f"{length} bytes, not 176"):
        StreamHeader.unpack((HEADER.pack() + b"\0")[:length])


def test_each_stream_has_a_salt_and_a_key_of_its_own() -> None:
    streams = [HEADER.fresh(DEK) for _ in range(8)]
    assert len({header.salt for header, _ in streams}) == 8
    assert len({key for _, key in streams}) == 8
    assert len({header.stream_id for header, _ in streams}) == 8


@pytest.mark.parametrize("bit", range(0, 8 * STREAM_HEADER_BYTES, 7))
def test_every_bit_of_the_header_changes_the_commitment_or_is_refused(bit: int) -> None:
    """So nobody can move a stream to another disk, cycle, plan or base, nor give it another DEK version."""
    header, _ = HEADER.fresh(DEK)
    packed = bytearray(header.pack())
    packed[bit // 8] ^= 1 << bit % 8
    with pytest.raises((HeaderRefused, WrongKey)):
        StreamHeader.unpack(bytes(packed)).frame_key(DEK)


def test_another_key_is_its_own_error() -> None:
    header, key = HEADER.fresh(DEK)
    assert header.frame_key(DEK) == key
    with pytest.raises(WrongKey) as refused:
        header.frame_key(bytes(32))
    assert str(header.disk) in str(refused.value)
    assert "version 7" in str(refused.value)


def test_the_commitment_is_not_the_key() -> None:
    header, key = HEADER.fresh(DEK)
    assert header.commitment != key
    assert replace(header, commitment=bytes(32)).pack()[:144] == header.pack()[:144]
