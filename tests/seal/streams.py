"""Streams for tests: fixed keys, small disks, frames by hand."""

from dataclasses import dataclass
from uuid import UUID

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from dmcore.model.ids import CycleId, DiskId, ImageId, PlanId
from dmcore.native.opening import Opener
from dmcore.native.sealing import Sealer, worst_case_bytes
from dmcore.seal import constants as c
from dmcore.seal.header import StreamHeader
from dmcore.seal.reference_codec import block_digest, nonce
from dmcore.seal.reference_frame import Frame
from dmcore.seal.stream import StreamWriter

DEK = bytes(range(32))
DIGEST_KEY = bytes(range(0x40, 0x60))
FRAME_KEY = bytes(range(0x60, 0x80))
STREAM_ID = bytes(range(0xA0, 0xC0))
KIB, MIB = 1 << 10, 1 << 20
BLOCK = 4 * KIB


def stream_header(
    *,
    disk_bytes: int = 64 * BLOCK,
    block_bytes: int = BLOCK,
    disk: int = 0x22,
    cycle: int = 0x33,
    plan: int = 0x11,
    epoch: int = 5,
) -> StreamHeader:
    """A header whose ids are one byte repeated."""

    def same(byte: int) -> UUID:
        return UUID(bytes=bytes([byte]) * 16)

    return StreamHeader(
        dek_version=7, plan=PlanId(same(plan)), disk=DiskId(same(disk)), cycle=CycleId(same(cycle)),
        epoch=epoch, attempt=1, disk_bytes=disk_bytes, block_bytes=block_bytes, base_image=ImageId(same(0x44)),
    )  # fmt: skip


def content(block: int, length: int = BLOCK) -> bytes:
    """Incompressible, and different for every block."""
    return np.random.default_rng(block + 1).bytes(length)


def text(block: int, length: int = BLOCK) -> bytes:
    """Compressible, and different for every block."""
    return (f"block {block} " * length).encode()[:length]


def ids(*blocks: int) -> NDArray[np.int64]:
    return np.array(blocks, dtype=np.int64)


def extents(*pairs: tuple[int, int]) -> NDArray[np.int64]:
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def room(blocks: int, block_bytes: int = BLOCK, zero_runs: int = 0) -> bytearray:
    return bytearray(worst_case_bytes(blocks, block_bytes, zero_runs))


def sealer(*, disk_bytes: int = 64 * BLOCK, block_bytes: int = BLOCK, codec: int = 0, level: int = 1) -> Sealer:
    return Sealer(
        FRAME_KEY, STREAM_ID, DIGEST_KEY, block_bytes=block_bytes, disk_bytes=disk_bytes, codec=codec, level=level
    )


def opener(*, disk_bytes: int = 64 * BLOCK, block_bytes: int = BLOCK) -> Opener:
    return Opener(FRAME_KEY, STREAM_ID, DIGEST_KEY, block_bytes=block_bytes, disk_bytes=disk_bytes)


def seal(writer: StreamWriter, blocks: dict[int, bytes], *, zero_runs: tuple[tuple[int, int], ...] = ()) -> bytes:
    """One batch of a writer's, of whole blocks."""
    out = room(len(blocks), writer.header.block_bytes, len(zero_runs))
    raw = b"".join(blocks.values())
    batch = writer.seal(ids(*blocks), raw, out, zero_runs=extents(*zero_runs))
    return bytes(out[: batch.used])


def control(writer: StreamWriter, *, final: bool = False) -> bytes:
    """The OPEN or the FINAL batch."""
    out = bytearray(c.FRAME_HEADER_BYTES + c.FINAL_BYTES + c.TAG_BYTES)
    used = writer.final(out) if final else writer.open(out)
    return bytes(out[:used])


@dataclass
class Forger:
    """Somebody who has the frame key, and seals whatever it likes: what only the checks behind the tag can stop."""

    key: bytes = FRAME_KEY
    stream_id: bytes = STREAM_ID

    def frame(self, frame: Frame, plaintext: bytes) -> bytes:
        return self.raw(frame.pack(), plaintext)

    def raw(self, head: bytes, plaintext: bytes) -> bytes:
        seq = int.from_bytes(head[8:16], "big")
        return head + AESGCM(self.key).encrypt(nonce(seq), plaintext, self.stream_id + head)

    def data(self, codec: int, packed: bytes, raw: bytes, *, block: int = 1, digest: bytes | None = None) -> bytes:
        """Frame 0 of batch 1: a block with any codec output and any digest."""
        digest = block_digest(DIGEST_KEY, block, raw) if digest is None else digest
        plaintext = digest + packed
        head = Frame(c.TYPE_DATA, codec, 1 << 16, block * BLOCK, len(raw), len(plaintext))
        return self.frame(head, plaintext)
