"""Native and reference seal and open each other's streams, whatever they are made of."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmcore.native.batches import BatchTotals, Opened, Verdict
from dmcore.seal import constants as c
from dmcore.seal.header import StreamHeader
from dmcore.seal.reference import ReferenceReader, ReferenceWriter
from dmcore.seal.reference_codec import block_digest
from dmcore.seal.stream import Codec, StreamReader, StreamWriter
from tests.seal.nonces import NonceRecorder
from tests.seal.streams import DEK, DIGEST_KEY, KIB, MIB, control, extents, ids, room, stream_header

SIZES = [4 * KIB] * 6 + [64 * KIB] * 3 + [MIB, 4 * MIB]
KINDS = ["zeros", "noise", "text", "one byte", "last byte"]


@dataclass(frozen=True)
class Block:
    number: int
    kind: str
    verdict: Verdict

    def raw(self, length: int) -> bytes:
        noise = np.random.default_rng(self.number)
        return {
            "zeros": bytes(length),
            "noise": noise.bytes(length),
            "text": (noise.bytes(40) * (length // 40 + 1))[:length],
            "one byte": b"\x01" + bytes(length - 1),
            "last byte": bytes(length - 1) + b"\x80",
        }[self.kind]


@dataclass(frozen=True)
class Batch:
    blocks: list[Block]
    zero_run: tuple[int, int] | None
    verdicts: bool
    digests: bool


@dataclass(frozen=True)
class Stream:
    header: StreamHeader
    codec: Codec
    level: int
    batches: list[Batch]

    def length(self, block: int) -> int:
        return min(self.header.block_bytes, self.header.disk_bytes - block * self.header.block_bytes)


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    block_bytes = draw(st.sampled_from(SIZES))
    most = max(1, min(12, 8 * MIB // block_bytes))
    count = draw(st.integers(1, 4 * most))
    tail = draw(st.integers(1, block_bytes // 512)) * 512
    header = stream_header(disk_bytes=(count - 1) * block_bytes + tail, block_bytes=block_bytes)
    left = draw(st.permutations(range(count)))
    batches = []
    for _ in range(draw(st.integers(0, 3))):
        taken, left = left[:most], left[most:]
        numbers = taken[: draw(st.integers(0, len(taken)))]
        blocks = [Block(n, draw(st.sampled_from(KINDS)), draw(st.sampled_from(Verdict))) for n in numbers]
        run = draw(zero_runs(count, {*range(count)} - set(numbers), header)) if draw(st.booleans()) else None
        if numbers or run:
            batches.append(Batch(blocks, run, draw(st.booleans()), draw(st.booleans())))
    return Stream(header, draw(st.sampled_from(Codec)), draw(st.sampled_from([1, 3])), batches)


@st.composite
def zero_runs(draw: st.DrawFn, count: int, free: set[int], header: StreamHeader) -> tuple[int, int] | None:
    """A run of blocks that the batch does not send, to the disk's end if it may be."""
    if not free:
        return None
    first = draw(st.sampled_from(sorted(free)))
    last = first
    while last + 1 in free and draw(st.booleans()):
        last += 1
    offset = first * header.block_bytes
    return offset, min((last + 1) * header.block_bytes, header.disk_bytes) - offset


def expected(stream: Stream, batch: Batch) -> dict[int, bytes]:
    """What a batch leaves in a shadow, by offset."""
    left: dict[int, bytes] = {}
    for block in batch.blocks:
        length = stream.length(block.number)
        raw = block.raw(length)
        verdict = block.verdict if batch.verdicts else Verdict.DATA
        if verdict is not Verdict.SKIP:
            left[block.number * stream.header.block_bytes] = raw if verdict is Verdict.DATA else bytes(length)
    if batch.zero_run:
        offset, length = batch.zero_run
        for at in range(offset, offset + length, stream.header.block_bytes):
            left[at] = bytes(min(stream.header.block_bytes, offset + length - at))
    return left


def native_stream(stream: Stream, nonces: NonceRecorder) -> tuple[StreamHeader, list[bytes], BatchTotals]:
    writer = StreamWriter(stream.header, DEK, DIGEST_KEY, stream.codec, stream.level)
    batches = [control(writer)]
    size = stream.header.block_bytes
    for batch in stream.batches:
        if not expected(stream, batch):
            continue
        raws = [block.raw(stream.length(block.number)) for block in batch.blocks]
        digests = [block_digest(DIGEST_KEY, b.number, raw) for b, raw in zip(batch.blocks, raws, strict=True)]
        runs = [batch.zero_run] if batch.zero_run else []
        out = room(len(raws), size, len(runs))
        sealed = writer.seal(
            ids(*(block.number for block in batch.blocks)),
            b"".join(raw.ljust(size, b"\xdd") for raw in raws),
            out,
            verdicts=np.array([b.verdict for b in batch.blocks], dtype=np.uint8) if batch.verdicts else None,
            digests=np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 16) if batch.digests else None,
            zero_runs=extents(*runs),
        )
        batches.append(bytes(out[: sealed.used]))
    batches.append(control(writer, final=True))
    for data in batches:
        nonces.saw(writer.header.frame_key(DEK), data)
    return writer.header, batches, writer.totals


def reference_stream(stream: Stream) -> tuple[StreamHeader, list[bytes], BatchTotals]:
    header, _ = stream.header.fresh(DEK)
    writer = ReferenceWriter(header, DEK, DIGEST_KEY, stream.codec, stream.level)
    batches = [writer.open()]
    for batch in stream.batches:
        left = expected(stream, batch)
        blocks = {block.number * header.block_bytes for block in batch.blocks}
        for offset, raw in left.items():
            if any(raw) or (batch.digests and offset in blocks):
                writer.data(offset // header.block_bytes, raw)
            else:
                writer.zero(offset, len(raw))
        if left:
            batches.append(writer.batch())
    return header, [*batches, writer.final()], writer.totals


def check(stream: Stream, header: StreamHeader, batches: list[bytes], totals: BatchTotals) -> None:
    """Both readers read the same, and what was meant."""
    received = StreamHeader.unpack(header.pack())
    verifier, redo = (StreamReader(received, DEK, DIGEST_KEY) for _ in range(2))
    reference = ReferenceReader(received, DEK, DIGEST_KEY)
    out = bytearray(c.MAX_BATCH_DATA_BYTES)
    meant = [e for e in (expected(stream, batch) for batch in stream.batches) if e]
    for number, data in enumerate(batches):
        verified = verifier.verify(data)
        opened = redo.open(data, out)
        frames = reference.read(data)
        native = [
            (offset, length, bytes(out[at : at + length]) if at >= 0 else b"", digest.tobytes(), Opened(verdict))
            for (offset, length, at, verdict), digest in zip(opened.rows.tolist(), opened.digests, strict=True)
        ]
        assert native == [tuple(frame) for frame in frames]
        assert verified.extents.tolist() == [[frame.offset, frame.length] for frame in frames]
        assert verifier.totals == reference.totals
        if 0 < number < len(batches) - 1:
            image = bytearray(b"\xee" * header.disk_bytes)
            wanted = bytearray(image)
            for frame in frames:
                assert frame.verdict is Opened.OK
                image[frame.offset : frame.offset + frame.length] = frame.raw or bytes(frame.length)
            for offset, raw in meant[number - 1].items():
                wanted[offset : offset + len(raw)] = raw
            assert image == wanted
    assert verifier.finished
    assert reference.finished
    assert len(batches) == len(meant) + 2
    assert totals[1:3] == verifier.totals[1:3]


@settings(max_examples=300)
@given(streams())
def test_what_the_native_core_seals_both_open(stream: Stream) -> None:
    check(stream, *native_stream(stream, NonceRecorder()))


@settings(max_examples=200)
@given(streams())
def test_what_the_reference_seals_both_open(stream: Stream) -> None:
    check(stream, *reference_stream(stream))


@settings(max_examples=30)
@given(streams())
def test_the_same_blocks_give_the_same_totals_and_nothing_larger(stream: Stream) -> None:
    """Two writers, the same library: under codec 0 the frames are equal but for their salts."""
    _, batches, totals = native_stream(stream, NonceRecorder())
    _, again, same = native_stream(stream, NonceRecorder())
    assert totals == same
    assert [len(data) for data in batches] == [len(data) for data in again]
    assert batches != again


@pytest.mark.parametrize("tail", [512, -512, 0], ids=["shortest tail", "longest tail", "whole"])
@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("block_bytes", sorted(set(SIZES)))
def test_every_codec_and_block_size_up_to_the_last_block(block_bytes: int, codec: Codec, tail: int) -> None:
    header = stream_header(disk_bytes=2 * block_bytes + tail % block_bytes, block_bytes=block_bytes)
    last = -(-header.disk_bytes // block_bytes) - 1
    first = Batch([Block(0, "text", Verdict.DATA)], None, verdicts=False, digests=True)
    rest = Batch([Block(last, "text", Verdict.DATA)], None, verdicts=True, digests=False)
    zeros = Batch([], (last * block_bytes, header.disk_bytes - last * block_bytes), verdicts=False, digests=False)
    for batches in ([first, rest], [zeros]):
        stream = Stream(header, codec, 1, batches)
        check(stream, *native_stream(stream, NonceRecorder()))
        check(stream, *reference_stream(stream))
