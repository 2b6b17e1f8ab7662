import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmcore.wire.errors import ProtocolError
from dmcore.wire.records import (
    HEADER,
    MAX_BATCH_BYTES,
    MAX_JSON_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_PAYLOAD_BYTES,
    MIN_BATCH_BYTES,
    Kind,
    Record,
    RecordReader,
    pack_header,
    parse_header,
    split_message,
)


def feed(reader: RecordReader, data: bytes, step: int = 1 << 30) -> list[Record]:
    """Give the reader bytes as a socket would."""
    records, rest = [], memoryview(data)
    while rest:
        wanted = reader.wanted()
        assert 0 < len(wanted) <= max(MAX_BATCH_BYTES, MAX_MESSAGE_BYTES)
        count = min(len(wanted), len(rest), step)
        wanted[:count] = rest[:count]
        rest = rest[count:]
        if (record := reader.filled(count)) is not None:
            records.append(record)
    return records


def test_the_longest_batch_is_2048_raw_frames_of_8_mib() -> None:
    assert MAX_BATCH_BYTES == (8 << 20) + 2048 * (40 + 16 + 16)


@pytest.mark.parametrize(
    ("kind", "length"),
    [(Kind.MESSAGE, 4), (Kind.MESSAGE, MAX_MESSAGE_BYTES), (Kind.BATCH, 56), (Kind.BATCH, MAX_BATCH_BYTES)],
)
def test_a_header_comes_back(kind: Kind, length: int) -> None:
    assert parse_header(pack_header(kind, length)) == (kind, length)


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(bytes.fromhex("00000000 00000010"), id="kind 0"),
        pytest.param(bytes.fromhex("03000000 00000010"), id="kind 3"),
        pytest.param(bytes.fromhex("01010000 00000010"), id="reserved, first"),
        pytest.param(bytes.fromhex("01000001 00000010"), id="reserved, last"),
        pytest.param(HEADER.pack(1, bytes(3), 3), id="message too short"),
        pytest.param(HEADER.pack(1, bytes(3), MAX_MESSAGE_BYTES + 1), id="message too long"),
        pytest.param(HEADER.pack(2, bytes(3), MIN_BATCH_BYTES - 1), id="batch too short"),
        pytest.param(HEADER.pack(2, bytes(3), MAX_BATCH_BYTES + 1), id="batch too long"),
        pytest.param(HEADER.pack(2, bytes(3), 0xFFFFFFFF), id="all ones"),
    ],
)
def test_a_wrong_header_is_refused_before_anything_is_allocated(header: bytes) -> None:
    reader = RecordReader()
    reader.batches_allowed = 10
    with pytest.raises(ProtocolError):
        feed(reader, header)
    assert len(reader._buffer) == HEADER.size


@pytest.mark.parametrize("length", [3, MAX_MESSAGE_BYTES + 1])
def test_an_impossible_record_is_not_sent(length: int) -> None:
    with pytest.raises(ValueError, match="MESSAGE"):
        pack_header(Kind.MESSAGE, length)


def test_a_batch_without_credit_is_refused_before_its_body() -> None:
    reader = RecordReader()
    reader.batches_allowed = 1
    batch = pack_header(Kind.BATCH, 56) + bytes(56)
    assert [record.kind for record in feed(reader, batch)] == [Kind.BATCH]
    with pytest.raises(ProtocolError, match="without credit"):
        feed(reader, batch[: HEADER.size])


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\0\0\0\3{}", id="past the record"),
        pytest.param((MAX_JSON_BYTES + 1).to_bytes(4) + bytes(MAX_JSON_BYTES + 1), id="json too long"),
        pytest.param(bytes(4) + bytes(MAX_PAYLOAD_BYTES + 1), id="payload too long"),
    ],
)
def test_a_message_with_wrong_lengths_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        split_message(memoryview(body))


@given(
    bodies=st.lists(st.tuples(st.sampled_from(Kind), st.binary(min_size=56, max_size=300)), max_size=5),
    step=st.integers(1, 200),
)
def test_records_come_back_however_they_are_cut(bodies: list[tuple[Kind, bytes]], step: int) -> None:
    reader = RecordReader()
    reader.batches_allowed = len(bodies)
    data = b"".join(pack_header(kind, len(body)) + body for kind, body in bodies)
    assert [(kind, bytes(body)) for kind, body in feed(reader, data, step)] == bodies


@settings(max_examples=300)
@given(data=st.binary(max_size=400), kind=st.sampled_from([0, 1, 2, 255]), short=st.booleans())
def test_random_bytes_only_ever_raise_protocol_error(data: bytes, kind: int, short: bool) -> None:
    reader = RecordReader()
    reader.batches_allowed = 3
    start = bytes([kind, 0, 0, 0, 0, 0, 0]) if short else b""
    with contextlib.suppress(ProtocolError):
        for record in feed(reader, start + data):
            if record.kind is Kind.MESSAGE:
                split_message(record.body)
