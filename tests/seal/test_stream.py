"""Streams from OPEN to FINAL: order, totals, limits, and what ends them."""

import gc
import weakref
from collections.abc import Callable
from uuid import UUID

import pytest

from dmcore.model.ids import NO_IMAGE, CycleId, DiskId, PlanId
from dmcore.native.batches import BatchTotals
from dmcore.native.errors import FrameRefused, SealFailed, TagMismatch
from dmcore.seal import constants as c
from dmcore.seal.errors import StreamEnded, TotalsDiffer, WrongKey
from dmcore.seal.header import StreamHeader
from dmcore.seal.reference import ReferenceReader
from dmcore.seal.stream import FINAL, Codec, StreamReader, StreamWriter
from tests.seal.streams import (
    BLOCK,
    DEK,
    DIGEST_KEY,
    Forger,
    content,
    control,
    extents,
    ids,
    room,
    seal,
    stream_header,
    text,
)  # fmt: skip

CONTROL_ROOM = 99


def opened(header: StreamHeader | None = None, codec: Codec = Codec.LZ4) -> tuple[StreamWriter, bytes]:
    writer = StreamWriter(header or stream_header(), DEK, DIGEST_KEY, codec)
    return writer, control(writer)


def stream() -> tuple[StreamHeader, list[bytes]]:
    """OPEN, two batches, FINAL."""
    writer, first = opened()
    batches = [
        first,
        seal(writer, {1: text(1), 2: content(2)}),
        seal(writer, {7: text(7)}, zero_runs=((9 * BLOCK, BLOCK),)),
    ]
    return writer.header, [*batches, control(writer, final=True)]


def reader(header: StreamHeader) -> StreamReader:
    return StreamReader(header, DEK, DIGEST_KEY)


def test_a_whole_stream() -> None:
    header, batches = stream()
    one = reader(StreamHeader.unpack(header.pack()))
    for number, batch in enumerate(batches):
        assert one.next_batch == number
        verified = one.verify(batch)
    assert one.finished
    assert verified.final is not None
    assert FINAL.unpack(verified.final) == (5, 3 * BLOCK, BLOCK, one.totals.sealed_bytes - c.FINAL_BYTES)
    assert one.totals.frames == 6


def test_the_same_stream_is_opened_at_redo() -> None:
    header, batches = stream()
    one, out = reader(header), bytearray(2 * BLOCK)
    rows = [one.open(batch, out).rows.tolist() for batch in batches]
    assert rows == [
        [],
        [[BLOCK, BLOCK, 0, 0], [2 * BLOCK, BLOCK, BLOCK, 0]],
        [[7 * BLOCK, BLOCK, 0, 0], [9 * BLOCK, BLOCK, -1, 0]],
        [],
    ]


@pytest.mark.parametrize("order", [(1,), (3,), (0, 0), (0, 2), (0, 3), (0, 1, 1), (0, 1, 0), (0, 1, 3)], ids=str)
def test_batches_out_of_order_end_the_stream(order: tuple[int, ...]) -> None:
    header, batches = stream()
    one, reference = reader(header), ReferenceReader(header, DEK, DIGEST_KEY)
    *good, bad = order
    for number in good:
        one.verify(batches[number])
        reference.read(batches[number])
    for call in (one.verify, reference.read):
        with pytest.raises(FrameRefused):
            call(batches[bad])
    with pytest.raises(StreamEnded, match="a batch was refused"):
        one.verify(batches[len(good)])


def test_a_forged_batch_ends_the_stream() -> None:
    header, batches = stream()
    one = reader(header)
    one.verify(batches[0])
    forged = bytearray(batches[1])
    forged[-1] ^= 1
    with pytest.raises(TagMismatch):
        one.verify(forged)
    with pytest.raises(StreamEnded, match="a batch was refused"):
        one.verify(batches[1])


def other(**change: int) -> Callable[[], StreamHeader]:
    return lambda: stream_header(**change)


@pytest.mark.parametrize(
    "elsewhere", [other(disk=0x23), other(cycle=0x34), other(plan=0x12), other(epoch=6), other()],
    ids=["disk", "cycle", "plan", "epoch", "stream"],
)  # fmt: skip
def test_frames_of_another_stream_are_refused(elsewhere: Callable[[], StreamHeader]) -> None:
    """Even of one that differs in nothing but its salt."""
    _, batches = stream()
    writer, first = opened(elsewhere())
    for implementation in (reader(writer.header).verify, ReferenceReader(writer.header, DEK, DIGEST_KEY).read):
        with pytest.raises(TagMismatch):
            implementation(batches[0])
    one = reader(writer.header)
    one.verify(first)
    with pytest.raises(TagMismatch):
        one.verify(batches[1])


CHANGES = {
    "plan": PlanId(UUID(int=9)),
    "disk": DiskId(UUID(int=9)),
    "cycle": CycleId(UUID(int=9)),
    "base_image": NO_IMAGE,
    "epoch": 6,
    "attempt": 2,
    "disk_bytes": 63 * BLOCK,
    "dek_version": 8,
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_stream_under_a_header_that_was_changed_has_another_key(name: str) -> None:
    """A header is bound by the commitment: whoever changes it needs the DEK to commit again."""
    header, _ = stream()
    with pytest.raises(WrongKey):
        reader(StreamHeader(**{**header.__dict__, name: CHANGES[name]}))


def test_a_wrong_key_is_known_before_anything_is_decrypted() -> None:
    header, _ = stream()
    for implementation in (StreamReader, ReferenceReader):
        with pytest.raises(WrongKey):
            implementation(header, bytes(32), DIGEST_KEY)


def test_final_must_name_what_arrived() -> None:
    header, batches = stream()
    forger = Forger(header.frame_key(DEK), header.stream_id)
    final = bytearray(batches[3][: c.FRAME_HEADER_BYTES])
    for wrong in ((4, 3 * BLOCK, BLOCK, 99), (0, 0, 0, 0)):
        one, reference = reader(header), ReferenceReader(header, DEK, DIGEST_KEY)
        for batch in batches[:3]:
            one.verify(batch)
            reference.read(batch)
        forged = forger.raw(bytes(final), FINAL.pack(*wrong))
        for read in (one.verify, reference.read):
            with pytest.raises(TotalsDiffer) as refused:
                read(forged)
            assert refused.value.claimed == wrong
            assert refused.value.counted[0] == 5
        assert not one.finished
        with pytest.raises(StreamEnded):
            one.verify(batches[3])


def test_nothing_follows_final() -> None:
    header, batches = stream()
    one, reference = reader(header), ReferenceReader(header, DEK, DIGEST_KEY)
    for batch in batches:
        one.verify(batch)
        reference.read(batch)
    for call in (lambda: one.verify(batches[3]), lambda: one.open(batches[3], b""), lambda: reference.read(batches[3])):
        with pytest.raises(StreamEnded, match="nothing may follow FINAL"):
            call()


@pytest.mark.parametrize("first", [1, 2, 3])
def test_a_part_of_what_was_verified_is_read_again(first: int) -> None:
    """From a checkpoint on: FINAL counts more than this reader has seen, and was checked before."""
    header, batches = stream()
    verifying, opening = (StreamReader(header, DEK, DIGEST_KEY, first) for _ in range(2))
    for number, batch in enumerate(batches[first:], first):
        assert verifying.next_batch == opening.next_batch == number
        verifying.verify(batch)
        opening.open(batch, bytearray(2 * BLOCK))
    assert verifying.finished
    another = StreamReader(header, DEK, DIGEST_KEY, first)
    with pytest.raises(FrameRefused):
        another.verify(batches[first - 1])


def test_a_reader_that_was_closed_reads_no_more() -> None:
    header, batches = stream()
    one = reader(header)
    one.end()
    with pytest.raises(StreamEnded, match="it was closed"):
        one.verify(batches[0])
    assert not one.finished


def test_a_writer_seals_nothing_behind_final() -> None:
    writer, _ = opened()
    control(writer, final=True)
    calls: list[Callable[[], bytes]] = [
        lambda: control(writer, final=True),
        lambda: seal(writer, {0: text(0)}),
        lambda: control(writer),
    ]
    for call in calls:
        with pytest.raises(StreamEnded, match="FINAL was sealed"):
            call()


def test_a_failure_ends_the_stream() -> None:
    writer, _ = opened()
    with pytest.raises(SealFailed):
        writer.seal(ids(99), content(0), room(1))
    with pytest.raises(StreamEnded, match="sealing a batch failed") as ended:
        seal(writer, {0: text(0)})
    assert str(writer.header.disk) in str(ended.value)
    with pytest.raises(StreamEnded):
        control(writer, final=True)


@pytest.mark.parametrize("call", [
    pytest.param(lambda writer: control(writer, final=True), id="final"),
    pytest.param(lambda writer: seal(writer, {0: text(0)}), id="batch"),
    pytest.param(lambda writer: writer.open(bytearray(9)), id="no room"),
])  # fmt: skip
def test_a_stream_begins_with_open(call: Callable[[StreamWriter], object]) -> None:
    writer = StreamWriter(stream_header(), DEK, DIGEST_KEY)
    with pytest.raises(SealFailed):
        call(writer)
    with pytest.raises(StreamEnded):
        control(writer)


def test_a_stream_opens_once() -> None:
    writer, _ = opened()
    with pytest.raises(SealFailed, match="OPEN is batch 0"):
        control(writer)
    with pytest.raises(StreamEnded):
        seal(writer, {0: text(0)})


def test_a_writer_that_was_ended_says_why() -> None:
    writer, _ = opened()
    writer.end("the connection was lost")
    writer.end("and later closed")
    with pytest.raises(StreamEnded, match="the connection was lost"):
        seal(writer, {0: text(0)})


AT_DATA_LIMIT = BatchTotals(7, c.MAX_STREAM_DATA_BYTES - c.MAX_BATCH_DATA_BYTES + 1, 0, 0)
AT_FRAME_LIMIT = BatchTotals(c.MAX_STREAM_FRAMES - c.MAX_BATCH_FRAMES, 0, 0, 0)


@pytest.mark.parametrize("totals", [AT_DATA_LIMIT, AT_FRAME_LIMIT], ids=["data", "frames"])
def test_a_stream_at_its_limit_takes_its_final_and_nothing_else(totals: BatchTotals) -> None:
    writer, _ = opened()
    assert writer.room()
    writer.totals = totals
    assert not writer.room()
    assert control(writer, final=True)
    writer, _ = opened()
    writer.totals = totals
    with pytest.raises(StreamEnded, match="it is at its limit"):
        seal(writer, {0: text(0)})


@pytest.mark.parametrize(
    "totals", [BatchTotals(9, c.MAX_STREAM_DATA_BYTES, 0, 0), BatchTotals(c.MAX_STREAM_FRAMES, 0, 0, 0)],
    ids=["data", "frames"],
)  # fmt: skip
def test_a_reader_refuses_what_is_past_the_limits(totals: BatchTotals) -> None:
    header, batches = stream()
    for implementation in (reader(header), ReferenceReader(header, DEK, DIGEST_KEY)):
        call = implementation.verify if isinstance(implementation, StreamReader) else implementation.read
        call(batches[0])
        implementation.totals = totals
        with pytest.raises(StreamEnded, match="past its limit"):
            call(batches[1])


def test_totals_are_those_of_the_batches() -> None:
    writer, _ = opened(codec=Codec.NONE)
    seal(writer, {1: content(1), 2: content(2)}, zero_runs=((8 * BLOCK, 3 * BLOCK),))
    assert writer.totals == BatchTotals(4, 2 * BLOCK, 3 * BLOCK, 2 * (16 + BLOCK))


def test_a_stream_that_is_let_go_leaves_nothing() -> None:
    """Neither the registry of key holders nor a cycle of references keeps keys alive."""
    writer, _ = opened()
    sealer = weakref.ref(writer._sealer)
    gc.disable()
    try:
        del writer
        assert sealer() is None
    finally:
        gc.enable()


def test_verdicts_and_zero_runs_pass_through() -> None:
    writer, _ = opened()
    out = room(0, zero_runs=1)
    batch = writer.seal(ids(), b"", out, zero_runs=extents((0, 64 * BLOCK)))
    assert batch.totals.zero_bytes == 64 * BLOCK
