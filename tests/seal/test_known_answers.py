"""The known answers of version 1, by both implementations. format-v1.txt is never regenerated."""

import hashlib
from pathlib import Path
from uuid import UUID

import pytest

from dmcore.blocks.extents import coverage_hash
from dmcore.model.ids import CycleId, DiskId, ImageId, PlanId
from dmcore.native.batches import BatchTotals
from dmcore.native.digests import Scanner
from dmcore.native.sealing import Sealer
from dmcore.seal import constants as c
from dmcore.seal import derive
from dmcore.seal.header import StreamHeader
from dmcore.seal.reference import ReferenceReader, ReferenceWriter
from dmcore.seal.reference_codec import block_digest
from dmcore.seal.stream import FINAL, StreamReader
from tests.seal.streams import Forger, extents, ids, room

BLOCK = 65536
DISK = 1 << 40
DEK, SALT, DIGEST_KEY = bytes(range(32)), bytes(range(0x80, 0xA0)), bytes(range(0x40, 0x60))
RAW = bytes(range(256)) * 256
TEXT = (b"dmcore " * BLOCK)[:BLOCK]


def same(byte: int) -> UUID:
    return UUID(bytes=bytes([byte]) * 16)


HEADER, FRAME_KEY = StreamHeader(
    dek_version=7, plan=PlanId(same(0x11)), disk=DiskId(same(0x22)), cycle=CycleId(same(0x33)), epoch=5, attempt=1,
    disk_bytes=DISK, block_bytes=BLOCK, base_image=ImageId(same(0x44)), salt=SALT,
).committed(DEK)  # fmt: skip

LINES = (Path(__file__).parent / "format-v1.txt").read_text().splitlines()
ANSWERS = {line[:12].strip(): line[12:].strip() for line in LINES[LINES.index("") + 1 :]}
NAMES = {"K", "commitment", "stream_id", "OPEN", "digest", "DATA raw", "DATA lz4 in", "ZERO", "FINAL", "coverage"}


def answer(name: str) -> bytes:
    return bytes.fromhex(ANSWERS[name])


def test_every_line_is_checked_here() -> None:
    assert set(ANSWERS) == NAMES


def test_keys_and_ids() -> None:
    assert answer("K") == FRAME_KEY
    assert HEADER.commitment == answer("commitment")
    assert HEADER.stream_id == answer("stream_id")
    assert derive.stream_id(HEADER.pack()) == answer("stream_id")


def test_digest() -> None:
    assert block_digest(DIGEST_KEY, 3, RAW) == answer("digest")
    digests, _ = Scanner(DIGEST_KEY, block_bytes=BLOCK, disk_bytes=DISK).scan(ids(3), RAW)
    assert digests.tobytes() == answer("digest")


def native_frames() -> dict[str, bytes]:
    sealer = Sealer(FRAME_KEY, HEADER.stream_id, DIGEST_KEY, block_bytes=BLOCK, disk_bytes=DISK, codec=c.CODEC_RAW)
    out = room(2, BLOCK, 1)
    frames = {"OPEN": bytes(out[: sealer.seal_control(c.TYPE_OPEN, 0, b"", out)])}
    # The LZ4 frame is the recorded one: another version of the library may compress to other bytes.
    used = sealer.seal(1, ids(3, 4), RAW + bytes(BLOCK), out).used
    frames["DATA raw"] = bytes(out[: c.FRAME_HEADER_BYTES + 16 + BLOCK + c.TAG_BYTES])
    sealer = Sealer(FRAME_KEY, HEADER.stream_id, DIGEST_KEY, block_bytes=BLOCK, disk_bytes=DISK, codec=c.CODEC_RAW)
    used = sealer.seal(1, ids(3, 14), RAW * 2, out, zero_runs=extents((5 * BLOCK, 10 * BLOCK))).used
    frames["ZERO"] = bytes(out[used - 56 : used])
    frames["FINAL"] = bytes(out[: sealer.seal_control(c.TYPE_FINAL, 2, totals(), out)])
    return frames


def totals() -> bytes:
    """OPEN and batch 1, with the recorded LZ4 frame."""
    lz4_bytes = int.from_bytes(answer("DATA lz4 in")[32:36], "big")
    return FINAL.pack(4, 2 * BLOCK, 10 * BLOCK, 16 + BLOCK + lz4_bytes)


def reference_frames() -> dict[str, bytes]:
    writer = ReferenceWriter(HEADER, DEK, DIGEST_KEY, c.CODEC_RAW)
    frames = {"OPEN": writer.open()}
    writer.data(3, RAW)
    writer.data(4, TEXT)
    writer.zero(5 * BLOCK, 10 * BLOCK)
    batch = writer.batch()
    whole = c.FRAME_HEADER_BYTES + 16 + BLOCK + c.TAG_BYTES
    frames |= {"DATA raw": batch[:whole], "ZERO": batch[2 * whole :]}
    writer.totals = BatchTotals(*FINAL.unpack(totals()))
    return {**frames, "FINAL": writer.final()}


@pytest.mark.parametrize("made", [native_frames, reference_frames])
def test_frames_are_made_as_known(made: object) -> None:
    assert callable(made)
    frames = made()
    for name in ("OPEN", "ZERO", "FINAL"):
        assert frames[name] == answer(name), name
    head, tag, digest = (
        bytes.fromhex(part) for part in ANSWERS["DATA raw"].replace(" ... ", " ").replace("sha256 ", "").split()
    )
    assert frames["DATA raw"][: c.FRAME_HEADER_BYTES] == head
    assert frames["DATA raw"][-c.TAG_BYTES :] == tag
    assert hashlib.sha256(frames["DATA raw"]).digest() == digest


def test_the_known_stream_opens() -> None:
    """With the LZ4 frame as it was recorded."""
    frames = reference_frames()
    batches = [answer("OPEN"), frames["DATA raw"] + answer("DATA lz4 in") + answer("ZERO"), answer("FINAL")]
    out = bytearray(2 * BLOCK)
    verifier, redo = StreamReader(HEADER, DEK, DIGEST_KEY), StreamReader(HEADER, DEK, DIGEST_KEY)
    reference = ReferenceReader(HEADER, DEK, DIGEST_KEY)
    covered = []
    for batch in batches:
        covered += verifier.verify(batch).extents.tolist()
        redo.open(batch, out)
        if batch is batches[1]:
            assert out == RAW + TEXT
        opened = reference.read(batch)
        if batch is batches[1]:
            assert [(o.offset, o.length, o.raw) for o in opened] == [
                (3 * BLOCK, BLOCK, RAW), (4 * BLOCK, BLOCK, TEXT), (5 * BLOCK, 10 * BLOCK, b""),
            ]  # fmt: skip
    assert verifier.finished
    assert reference.finished
    assert coverage_hash(extents(*covered)) == answer("coverage")


def test_the_frames_are_what_anybody_with_the_key_makes() -> None:
    """By a third way: the header's bytes as DESIGNed, and AES-GCM as it is."""
    forger = Forger(FRAME_KEY, HEADER.stream_id)
    assert forger.raw(answer("ZERO")[:40], b"") == answer("ZERO")
    assert forger.raw(answer("FINAL")[:40], totals()) == answer("FINAL")
