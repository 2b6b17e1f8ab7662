"""The reference on its own: without compiled code, and as strict as the native core."""

import subprocess
import sys

import pytest

from dmcore.native.batches import Opened
from dmcore.native.errors import FrameRefused, TagMismatch
from dmcore.seal import constants as c
from dmcore.seal.reference import OpenedFrame, ReferenceReader, ReferenceWriter
from dmcore.seal.reference_codec import ZERO_DIGEST, CodecError, compress, decompress
from tests.seal.streams import BLOCK, DEK, DIGEST_KEY, Forger, content, stream_header, text

INDEPENDENT = """
import sys
import dmcore.seal.reference
ours = [module for name, module in sys.modules.items() if name.startswith("dmcore")]
sys.exit(any(str(module.__file__).endswith(".so") for module in ours) or len(ours) < 5)
"""


def test_it_needs_no_compiled_code_of_ours() -> None:
    result = subprocess.run([sys.executable, "-c", INDEPENDENT], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def written(codec: int = c.CODEC_LZ4) -> tuple[ReferenceWriter, list[bytes]]:
    header, _ = stream_header().fresh(DEK)
    writer = ReferenceWriter(header, DEK, DIGEST_KEY, codec)
    batches = [writer.open()]
    writer.data(1, text(1))
    writer.data(2, content(2))
    writer.data(3, bytes(BLOCK))
    writer.zero(9 * BLOCK, 3 * BLOCK)
    return writer, [*batches, writer.batch(), writer.final()]


@pytest.mark.parametrize("codec", [c.CODEC_RAW, c.CODEC_LZ4, c.CODEC_ZSTD])
def test_round_trip(codec: int) -> None:
    writer, batches = written(codec)
    reader = ReferenceReader(writer.header, DEK, DIGEST_KEY)
    assert reader.read(batches[0]) == []
    frames = reader.read(batches[1])
    assert [(f.offset // BLOCK, f.length, f.raw, f.verdict) for f in frames] == [
        (1, BLOCK, text(1), Opened.OK),
        (2, BLOCK, content(2), Opened.OK),
        (3, BLOCK, bytes(BLOCK), Opened.OK),
        (9, 3 * BLOCK, b"", Opened.OK),
    ]
    assert frames[2].digest == frames[3].digest == ZERO_DIGEST
    assert reader.read(batches[2]) == []
    assert reader.finished


def test_bad_blocks_are_verdicts() -> None:
    header, _ = stream_header().fresh(DEK)
    forger = Forger(header.frame_key(DEK), header.stream_id)
    start = ReferenceWriter(header, DEK, DIGEST_KEY).open()
    for codec, packed, digest, verdict in (
        (c.CODEC_LZ4, b"\xff" * 20, None, Opened.BAD_CODEC),
        (c.CODEC_ZSTD, b"\xff" * 20, None, Opened.BAD_CODEC),
        (c.CODEC_RAW, text(1), bytes(16), Opened.BAD_DIGEST),
    ):
        reader = ReferenceReader(header, DEK, DIGEST_KEY)
        reader.read(start)
        frames = reader.read(forger.data(codec, packed, text(1), digest=digest))
        assert frames == [OpenedFrame(BLOCK, BLOCK, b"", bytes(16), verdict)]


def test_every_flipped_bit_of_a_batch_is_refused() -> None:
    writer, batches = written()
    flipped = bytearray(batches[2])
    reader = ReferenceReader(writer.header, DEK, DIGEST_KEY)
    reader.read(batches[0])
    reader.read(batches[1])
    for bit in range(8 * len(flipped)):
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FrameRefused):
            reader.read(bytes(flipped))
        flipped[bit // 8] ^= 1 << bit % 8
    reader.read(batches[2])


def test_the_tag_names_its_frame() -> None:
    writer, batches = written()
    spoiled = bytearray(batches[1])
    spoiled[-1] ^= 1
    reader = ReferenceReader(writer.header, DEK, DIGEST_KEY)
    reader.read(batches[0])
    with pytest.raises(TagMismatch) as refused:
        reader.read(bytes(spoiled))
    assert (refused.value.batch, refused.value.index, refused.value.offset) == (1, 3, 9 * BLOCK)


def test_a_writer_checks_its_own_batches() -> None:
    header, _ = stream_header().fresh(DEK)
    writer = ReferenceWriter(header, DEK, DIGEST_KEY)
    with pytest.raises(FrameRefused, match="an empty batch"):
        writer.batch()
    writer.open()
    writer.zero(512, BLOCK)
    with pytest.raises(FrameRefused, match="off the grid"):
        writer.batch()


@pytest.mark.parametrize("codec", [c.CODEC_LZ4, c.CODEC_ZSTD])
def test_a_codec_must_gain_a_sixteenth(codec: int) -> None:
    assert compress(codec, 1, content(1)) == (c.CODEC_RAW, content(1))
    used, packed = compress(codec, 1, text(1))
    assert used == codec
    assert decompress(codec, packed, BLOCK) == text(1)


def test_a_raw_block_of_another_length_is_refused() -> None:
    with pytest.raises(CodecError, match="3 bytes, not 4"):
        decompress(c.CODEC_RAW, b"abc", 4)
