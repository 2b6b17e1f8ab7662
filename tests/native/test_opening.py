"""What an Opener refuses: by the header before anything else, by the tag, and behind the tag."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import lz4.block
import numpy as np
import pytest
import zstandard

from dmcore.native.batches import BatchTotals, Opened
from dmcore.native.errors import FrameRefused, SealFailed, TagMismatch
from dmcore.native.opening import Opener
from dmcore.seal import constants as c
from dmcore.seal.reference_codec import CodecError, decompress
from dmcore.seal.reference_frame import Frame, FrameChecks
from tests.seal.streams import (
    BLOCK,
    DIGEST_KEY,
    FRAME_KEY,
    MIB,
    STREAM_ID,
    Forger,
    content,
    extents,
    ids,
    opener,
    room,
    sealer,
    text,
)  # fmt: skip

FORGER = Forger()
DISK = 64 * BLOCK
TAIL = 1024
DATA = Frame(c.TYPE_DATA, 0, 1 << 16, 3 * BLOCK, BLOCK, 16 + BLOCK)
ZERO = Frame(c.TYPE_ZERO, 0, 1 << 16, 3 * BLOCK, 5 * BLOCK, 0)
OPEN = Frame(c.TYPE_OPEN, 0, 0, 0, 0, 0)
FINAL = Frame(c.TYPE_FINAL, 0, 1 << 16, 0, 0, 32)


def sealed(frame: Frame) -> bytes:
    return FORGER.frame(frame, bytes(frame.sealed_length))


def with_byte(at: int, value: int, frame: Frame = DATA) -> bytes:
    head = bytearray(frame.pack())
    head[at] = value
    return FORGER.raw(bytes(head), bytes(frame.sealed_length))


# Every problem that a header can have: the native core and the reference find the same one.
REFUSED: dict[str, tuple[str, int, bytes]] = {
    "nothing": ("an empty batch", 1, b""),
    "a header without a tag": ("cut short", 1, sealed(ZERO)[:55]),
    "a body cut": ("cut short", 1, sealed(DATA)[:-1]),
    "a sealed length of 4 GiB": ("cut short", 1, with_byte(32, 0xFF)),
    "magic": ("bad magic", 1, with_byte(0, 0xD0)),
    "magic's second byte": ("bad magic", 1, with_byte(1, 0)),
    "version": ("unknown version", 1, with_byte(2, 2)),
    "type": ("unknown type", 1, with_byte(3, 4)),
    "codec": ("unknown codec", 1, with_byte(4, 3)),
    "flags": ("flags or reserved bytes", 1, with_byte(5, 1)),
    "first reserved": ("flags or reserved bytes", 1, with_byte(6, 1)),
    "first reserved's end": ("flags or reserved bytes", 1, with_byte(7, 1)),
    "second reserved": ("flags or reserved bytes", 1, with_byte(36, 1)),
    "second reserved's end": ("flags or reserved bytes", 1, with_byte(39, 1)),
    "huge offset": ("offset or length of 2^63", 1, with_byte(16, 0x80)),
    "huge length": ("offset or length of 2^63", 1, with_byte(24, 0x80)),
    "OPEN with a codec": ("OPEN or FINAL with a codec", 0, sealed(replace(OPEN, codec=1))),
    "OPEN with an offset": ("OPEN or FINAL with a codec", 0, sealed(replace(OPEN, offset=BLOCK))),
    "FINAL with a length": ("OPEN or FINAL with a codec", 1, sealed(replace(FINAL, raw_length=1))),
    "OPEN with a payload": ("OPEN or FINAL of a wrong", 0, sealed(replace(OPEN, sealed_length=1))),
    "FINAL without": ("OPEN or FINAL of a wrong", 1, sealed(replace(FINAL, sealed_length=0))),
    "ZERO with a codec": ("ZERO with a codec", 1, sealed(replace(ZERO, codec=1))),
    "ZERO with a payload": ("ZERO with a codec", 1, sealed(replace(ZERO, sealed_length=16))),
    "DATA of two blocks": ("DATA is larger than a block", 1, sealed(replace(DATA, raw_length=2 * BLOCK))),
    "raw too short": ("raw block of a wrong", 1, sealed(replace(DATA, sealed_length=15 + BLOCK))),
    "raw too long": ("raw block of a wrong", 1, sealed(replace(DATA, sealed_length=17 + BLOCK))),
    "LZ4 of nothing": ("compressed block of a wrong", 1, sealed(replace(DATA, codec=1, sealed_length=16))),
    "LZ4 that gains too little": (
        "compressed block of a wrong", 1, sealed(replace(DATA, codec=1, sealed_length=16 + BLOCK - BLOCK // 16)),
    ),
    "ZSTD as long as raw": ("compressed block of a wrong", 1, sealed(replace(DATA, codec=2))),
    "off the grid": ("offset is off the grid", 1, sealed(replace(DATA, offset=512))),
    "behind the disk": ("offset is off the grid", 1, sealed(replace(DATA, offset=65 * BLOCK))),
    "ZERO of nothing": ("length is zero", 1, sealed(replace(ZERO, raw_length=0))),
    "DATA of nothing": ("length is zero", 1, sealed(replace(DATA, raw_length=0, sealed_length=16))),
    "ZERO over the end": ("length is zero or reaches", 1, sealed(replace(ZERO, offset=60 * BLOCK))),
    "DATA of half a block": (
        "DATA is not one whole block", 1, sealed(replace(DATA, raw_length=BLOCK // 2, sealed_length=16 + BLOCK // 2)),
    ),
    "DATA of a whole block at the tail": (
        "length is zero or reaches", 1, sealed(replace(DATA, offset=64 * BLOCK)),
    ),
    "DATA of half the tail": (
        "DATA is not one whole block", 1,
        sealed(replace(DATA, offset=64 * BLOCK, raw_length=TAIL // 2, sealed_length=16 + TAIL // 2)),
    ),
    "ZERO that ends inside a block": ("ZERO does not end", 1, sealed(replace(ZERO, raw_length=BLOCK + 512))),
    "OPEN in batch 1": ("OPEN belongs to batch 0", 1, sealed(replace(OPEN, seq=1 << 16))),
    "DATA in batch 0": ("OPEN belongs to batch 0", 0, sealed(replace(DATA, seq=0))),
    "FINAL in batch 0": ("OPEN belongs to batch 0", 0, sealed(replace(FINAL, seq=0))),
    "FINAL behind ZERO": ("OPEN or FINAL beside", 1, sealed(ZERO) + sealed(replace(FINAL, seq=1 << 16 | 1))),
    "ZERO behind FINAL": ("OPEN or FINAL beside", 1, sealed(FINAL) + sealed(replace(ZERO, seq=1 << 16 | 1))),
    "OPEN twice": ("OPEN or FINAL beside", 0, sealed(OPEN) + sealed(replace(OPEN, seq=1))),
    "a later batch": ("not the expected sequence", 1, sealed(replace(DATA, seq=2 << 16))),
    "an earlier batch": ("not the expected sequence", 2, sealed(DATA)),
    "index 1 first": ("not the expected sequence", 1, sealed(replace(DATA, seq=1 << 16 | 1))),
    "repeated": ("not the expected sequence", 1, sealed(DATA) * 2),
    "trailing bytes": ("cut short", 1, sealed(DATA) + b"\0"),
    "zeros over the disk": (
        "the batch covers more than the disk", 1,
        sealed(replace(ZERO, offset=0, raw_length=64 * BLOCK))
        + sealed(replace(ZERO, seq=1 << 16 | 1, offset=BLOCK, raw_length=BLOCK)),
    ),
    "more zeros than 63 bits": ("the batch covers more", 1, sealed(replace(ZERO, raw_length=(1 << 63) - 1))),
}  # fmt: skip
UNREADABLE = ("bad magic", "unknown", "flags", "offset or length of 2^63", "cut short", "an empty")


@pytest.mark.parametrize(("problem", "batch", "data"), REFUSED.values(), ids=REFUSED)
def test_every_problem_of_a_header(problem: str, batch: int, data: bytes) -> None:
    out = bytearray(8 * MIB)
    disk_bytes = DISK + TAIL
    native = opener(disk_bytes=disk_bytes)
    refusals = []
    for call in (
        lambda: native.verify(batch, data),
        lambda: native.open(batch, data, out),
        lambda: FrameChecks(BLOCK, disk_bytes, batch).split(data),
    ):
        with pytest.raises(FrameRefused) as refused:
            call()
        refusals.append(refused.value)
    assert {refusal.code for refusal in refusals} == {"frame.refused"}
    assert {refusal.batch for refusal in refusals} == {batch}
    assert len({(r.problem, r.index, r.offset) for r in refusals}) == 1, refusals
    assert refusals[0].problem.startswith(problem)
    assert not any(out), "nothing is opened of a batch that is refused"


def test_the_error_names_the_frame() -> None:
    data = sealed(ZERO) + sealed(replace(ZERO, seq=1 << 16 | 1, offset=512))
    with pytest.raises(FrameRefused) as refused:
        opener().verify(1, data)
    assert str(refused.value) == "frame 1 of batch 1 at offset 512: offset is off the grid or outside the disk"


def test_the_caps_of_a_batch() -> None:
    disk_bytes = 4 * c.MAX_BATCH_FRAMES * BLOCK
    frames = b"".join(
        sealed(Frame(c.TYPE_ZERO, 0, (1 << 16) + n, 2 * n * BLOCK, BLOCK, 0)) for n in range(c.MAX_BATCH_FRAMES + 1)
    )
    most = frames[: -len(sealed(ZERO))]
    assert opener(disk_bytes=disk_bytes).verify(1, most).totals.frames == c.MAX_BATCH_FRAMES
    block = bytes(MIB)
    blocks = b"".join(
        FORGER.frame(Frame(c.TYPE_DATA, 0, (1 << 16) + n, n * MIB, MIB, 16 + MIB), bytes(16) + block) for n in range(9)
    )
    for data, block_bytes, problem in (
        (frames, BLOCK, "more frames than a batch may hold"),
        (blocks, MIB, "more data than a batch may hold"),
    ):
        for check in (
            opener(disk_bytes=disk_bytes, block_bytes=block_bytes).verify,
            lambda number, given, size=block_bytes: FrameChecks(size, disk_bytes, number).split(given),
        ):
            with pytest.raises(FrameRefused) as refused:
                check(1, data)
            assert refused.value.problem == problem
            assert refused.value.index == (c.MAX_BATCH_FRAMES if block_bytes == BLOCK else 8)


def one_frame(kind: str) -> tuple[int, bytes]:
    """Batch number and bytes of the smallest honest batch of a kind."""
    out = room(1, zero_runs=1)
    if kind in {"OPEN", "FINAL"}:
        final = kind == "FINAL"
        used = sealer().seal_control(c.TYPE_FINAL if final else c.TYPE_OPEN, final, bytes(32 * final), out)
        return int(final), bytes(out[:used])
    if kind == "ZERO":
        batch = sealer().seal(1, ids(), b"", out, zero_runs=extents((3 * BLOCK, 5 * BLOCK)))
    elif kind == "DATA raw":
        batch = sealer(disk_bytes=DISK + 512).seal(1, ids(64), content(64, 512), out)
    else:
        batch = sealer(codec={"DATA lz4": 1, "DATA zstd": 2}[kind]).seal(1, ids(3), text(3), out)
    return 1, bytes(out[: batch.used])


KINDS = ["OPEN", "DATA raw", "DATA lz4", "DATA zstd", "ZERO", "FINAL"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_flipped_bit_is_refused(kind: str) -> None:
    number, data = one_frame(kind)
    one = opener(disk_bytes=DISK + 512)
    one.verify(number, data)
    flipped = bytearray(data)
    by_tag = 0
    for bit in range(8 * len(data)):
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FrameRefused) as refused:
            one.verify(number, flipped)
        by_tag += isinstance(refused.value, TagMismatch)
        flipped[bit // 8] ^= 1 << bit % 8
    assert by_tag >= 8 * (len(data) - c.FRAME_HEADER_BYTES), "of body and tag, every bit is the tag's"
    one.verify(number, data)


@pytest.mark.parametrize("kind", KINDS)
def test_cut_short_at_every_byte(kind: str) -> None:
    number, data = one_frame(kind)
    one = opener(disk_bytes=DISK + 512)
    for length in range(len(data)):
        with pytest.raises(FrameRefused, match="an empty batch" if length == 0 else "cut short"):
            one.verify(number, data[:length])


def test_frames_that_change_places_are_refused() -> None:
    out = room(2)
    used = sealer().seal(1, ids(1, 2), content(1) + content(2), out).used
    first, second = bytes(out[: used // 2]), bytes(out[used // 2 : used])
    with pytest.raises(FrameRefused, match="not the expected sequence"):
        opener().verify(1, second + first)
    relabelled = bytearray(second + first)
    relabelled[8:16], relabelled[used // 2 + 8 : used // 2 + 16] = first[8:16], second[8:16]
    with pytest.raises(TagMismatch):
        opener().verify(1, relabelled)


def test_a_frame_cannot_be_moved_on_the_disk() -> None:
    moved = bytearray(sealed(DATA))
    moved[16:24] = (4 * BLOCK).to_bytes(8, "big")
    with pytest.raises(TagMismatch) as refused:
        opener().verify(1, moved)
    assert refused.value.offset == 4 * BLOCK


def test_verify_says_what_a_batch_covers() -> None:
    out = room(2, zero_runs=1)
    runs = extents((40 * BLOCK, 24 * BLOCK))
    used = sealer().seal(1, ids(9, 3), content(9) + content(3), out, zero_runs=runs).used
    batch = opener().verify(1, out[:used])
    assert batch.extents.tolist() == [[9 * BLOCK, BLOCK], [3 * BLOCK, BLOCK], [40 * BLOCK, 24 * BLOCK]]
    assert batch.totals == BatchTotals(3, 2 * BLOCK, 24 * BLOCK, 2 * (16 + BLOCK))
    assert batch.final is None


def test_open_and_final_cover_nothing() -> None:
    for kind, plaintext in (("OPEN", None), ("FINAL", bytes(32))):
        number, data = one_frame(kind)
        batch = opener().verify(number, data)
        assert batch.extents.shape == (0, 2)
        assert batch.final == plaintext
        opened = opener().open(number, data, bytearray())
        assert opened.rows.shape == (0, 4)


def zstd(raw: bytes, **options: Any) -> bytes:
    written = {"write_content_size": False, "write_checksum": False, "write_dict_id": False, **options}
    return zstandard.ZstdCompressor(**written).compress(raw)


RAW = text(1)
DICTIONARY = zstandard.ZstdCompressionDict(text(7), zstandard.DICT_TYPE_RAWCONTENT)
SKIPPABLE = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
BAD_CODEC: dict[str, tuple[int, Callable[[], bytes]]] = {
    "lz4 of less": (c.CODEC_LZ4, lambda: lz4.block.compress(RAW[:-1], store_size=False)),
    "lz4 of more": (c.CODEC_LZ4, lambda: lz4.block.compress(RAW + b"x", store_size=False)),
    "lz4 cut short": (c.CODEC_LZ4, lambda: lz4.block.compress(RAW, store_size=False)[:-1]),
    "lz4 with bytes behind it": (c.CODEC_LZ4, lambda: lz4.block.compress(RAW, store_size=False) + b"\0"),
    "lz4 with a size before it": (c.CODEC_LZ4, lambda: lz4.block.compress(RAW, store_size=True)),
    "no lz4": (c.CODEC_LZ4, lambda: b"\xff" * 40),
    "zstd of less": (c.CODEC_ZSTD, lambda: zstd(RAW[:-1])),
    "zstd of more": (c.CODEC_ZSTD, lambda: zstd(RAW + b"x")),
    "zstd of much more": (c.CODEC_ZSTD, lambda: zstd(bytes(64 * MIB))),
    "zstd cut short": (c.CODEC_ZSTD, lambda: zstd(RAW)[:-1]),
    "zstd with bytes behind it": (c.CODEC_ZSTD, lambda: zstd(RAW) + b"\0"),
    "two zstd frames": (c.CODEC_ZSTD, lambda: zstd(RAW[:2048]) + zstd(RAW[2048:])),
    "zstd before a skippable frame": (c.CODEC_ZSTD, lambda: zstd(RAW) + SKIPPABLE),
    "zstd behind a skippable frame": (c.CODEC_ZSTD, lambda: SKIPPABLE + zstd(RAW)),
    "zstd with a content size": (c.CODEC_ZSTD, lambda: zstd(RAW, write_content_size=True)),
    "zstd with a checksum": (c.CODEC_ZSTD, lambda: zstd(RAW, write_checksum=True)),
    "zstd with a dictionary": (c.CODEC_ZSTD, lambda: zstd(RAW, dict_data=DICTIONARY)),
    "zstd of nothing": (c.CODEC_ZSTD, lambda: zstd(b"")),
    "less than a zstd header": (c.CODEC_ZSTD, lambda: b"\x28\xb5\x2f\xfd\x00"),
    "no zstd": (c.CODEC_ZSTD, lambda: b"\xff" * 40),
}


@pytest.mark.parametrize(("codec", "packed"), BAD_CODEC.values(), ids=BAD_CODEC)
def test_a_block_that_is_not_exactly_itself_compressed(codec: int, packed: Callable[[], bytes]) -> None:
    data, out = FORGER.data(codec, packed(), RAW), bytearray(BLOCK)
    opener().verify(1, data)
    opened = opener().open(1, data, out)
    assert opened.rows.tolist() == [[BLOCK, BLOCK, 0, Opened.BAD_CODEC]]
    assert not any(out)
    with pytest.raises(CodecError):
        decompress(codec, packed(), BLOCK)


@pytest.mark.parametrize("codec", [c.CODEC_RAW, c.CODEC_LZ4, c.CODEC_ZSTD])
def test_a_block_with_another_digest(codec: int) -> None:
    packed = {0: RAW, 1: lz4.block.compress(RAW, store_size=False), 2: zstd(RAW)}[codec]
    data, out = FORGER.data(codec, packed, RAW, digest=bytes(15) + b"\1"), bytearray(BLOCK)
    opened = opener().open(1, data, out)
    assert opened.rows[0, 3] == Opened.BAD_DIGEST
    assert not any(out), "nothing usable is left in the buffer"


def test_a_block_of_another_index_has_another_digest() -> None:
    data = FORGER.data(0, RAW, RAW, block=2)
    assert opener().open(1, data, bytearray(BLOCK)).rows[0, 3] == Opened.OK
    other = Frame(c.TYPE_DATA, 0, 1 << 16, 3 * BLOCK, BLOCK, 16 + BLOCK)
    digest = opener().open(1, data, bytearray(BLOCK)).digests[0].tobytes()
    moved = FORGER.frame(other, digest + RAW)
    assert opener().open(1, moved, bytearray(BLOCK)).rows[0, 3] == Opened.BAD_DIGEST


def test_a_zero_block_may_come_as_data_with_the_zero_digest_only() -> None:
    good = FORGER.data(0, bytes(BLOCK), bytes(BLOCK))
    assert opener().open(1, good, bytearray(BLOCK)).rows[0, 3] == Opened.OK
    gmac = FORGER.data(0, bytes(BLOCK), bytes(BLOCK), digest=b"\1" * 16)
    assert opener().open(1, gmac, bytearray(BLOCK)).rows[0, 3] == Opened.BAD_DIGEST


def test_one_bad_frame_does_not_spoil_its_neighbours() -> None:
    out, plain = room(4, zero_runs=1), bytearray(4 * BLOCK)
    raws = [content(1), text(2), content(3), content(4)]
    batch = sealer(codec=1).seal(1, ids(1, 2, 3, 4), b"".join(raws), out, zero_runs=extents((8 * BLOCK, BLOCK)))
    spoiled = bytearray(out[: batch.used])
    at = 0
    for frame, bad in zip(
        [f for f, _ in FrameChecks(BLOCK, DISK, 1).split(bytes(spoiled))], [False, True, True, False, True], strict=True
    ):
        spoiled[at + frame.frame_bytes - 1] ^= bad
        at += frame.frame_bytes
    opened = opener().open(1, spoiled, plain)
    assert opened.rows[:, 3].tolist() == [Opened.OK, Opened.BAD_TAG, Opened.BAD_TAG, Opened.OK, Opened.BAD_TAG]
    assert bytes(plain) == raws[0] + bytes(2 * BLOCK) + raws[3]
    assert opened.rows[:, 2].tolist() == [0, BLOCK, 2 * BLOCK, 3 * BLOCK, -1]


def test_open_needs_room_for_the_data() -> None:
    with pytest.raises(FrameRefused, match="4096 bytes of data for a smaller buffer"):
        opener().open(1, sealed(DATA), bytearray(BLOCK - 1))


def test_an_opener_that_was_wiped_opens_no_more() -> None:
    one = opener()
    one.wipe()
    one.wipe()
    with pytest.raises(SealFailed, match="wiped"):
        one.verify(1, sealed(ZERO))
    with pytest.raises(SealFailed, match="wiped"):
        one.open(1, sealed(ZERO), bytearray())


BAD_OPENERS: dict[str, dict[str, Any]] = {
    "short key": {"frame_key": b""},
    "short stream id": {"stream_id": b""},
    "short digest key": {"digest_key": b""},
    "no blocks": {"block_bytes": 0},
    "large blocks": {"block_bytes": 8 * MIB},
    "no disk": {"disk_bytes": 0},
}


@pytest.mark.parametrize("change", BAD_OPENERS.values(), ids=BAD_OPENERS)
def test_impossible_openers_are_refused(change: dict[str, Any]) -> None:
    good = {"frame_key": FRAME_KEY, "stream_id": STREAM_ID, "digest_key": DIGEST_KEY,
            "block_bytes": BLOCK, "disk_bytes": BLOCK}  # fmt: skip
    with pytest.raises(SealFailed):
        Opener(**{**good, **change})


def test_rows_feed_the_digest_map() -> None:
    out = room(1)
    used = sealer().seal(1, ids(3), content(3), out).used
    opened = opener().open(1, out[:used], bytearray(BLOCK))
    assert opened.rows.dtype == np.int64
    assert opened.digests.shape == (1, 16)
