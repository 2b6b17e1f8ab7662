"""Content cut into batches and sealed once: what every stage's contestants are given, byte for byte the same."""

import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dmcore.bench.content import Recipe
from dmcore.bench.libraries import Bytes
from dmcore.model.ids import CycleId, DiskId, PlanId
from dmcore.native.sealing import worst_case_bytes
from dmcore.seal import constants as c
from dmcore.seal.header import StreamHeader
from dmcore.seal.stream import Codec, StreamWriter

FRAME = struct.Struct(">HBBBBHQQQII")
"""The frame header of docs/format.md section 5."""
DEK = bytes(range(32))
DIGEST_KEY = bytes(range(64, 96))


class FrameAt(NamedTuple):
    """One frame of a sealed batch, read from its header."""

    body: int
    """Where the ciphertext begins in the batch."""
    aad: bytes
    type: int
    codec: int
    seq: int
    offset: int
    raw_length: int
    sealed_length: int


class Batch(NamedTuple):
    """One batch, raw and sealed."""

    number: int
    blocks: NDArray[np.int64]
    raw: Bytes
    sealed: Bytes


@dataclass(frozen=True)
class Workload:
    """A disk's content under one codec, in batches of 8 MiB."""

    content: Bytes
    block_bytes: int
    codec: Codec
    header: StreamHeader
    open_frame: Bytes
    batches: list[Batch]

    @property
    def raw_bytes(self) -> int:
        """What every stage's rate is of."""
        return len(self.content)


def header_for(content_bytes: int, block_bytes: int) -> StreamHeader:
    """A stream of a disk that is just the content."""
    ids = [uuid.UUID(int=n) for n in (1, 2, 3)]
    return StreamHeader(1, PlanId(ids[0]), DiskId(ids[1]), CycleId(ids[2]), 1, 1, content_bytes, block_bytes)


def prepare(content: Bytes, recipe: Recipe, codec: Codec) -> Workload:
    """Cut the content into batches and seal them."""
    writer = StreamWriter(header_for(len(content), recipe.block_bytes), DEK, DIGEST_KEY, codec)
    open_frame = np.zeros(c.FRAME_HEADER_BYTES + c.TAG_BYTES, dtype=np.uint8)
    writer.open(open_frame.data)
    batches = []
    for number, (blocks, raw) in enumerate(cut(content, recipe.block_bytes), start=1):
        sealed = batch_buffer(recipe.block_bytes)
        used = writer.seal(blocks, raw.data, sealed.data).used
        batches.append(Batch(number, blocks, raw, sealed[:used].copy()))
    return Workload(content, recipe.block_bytes, codec, writer.header, open_frame, batches)


def batch_buffer(block_bytes: int) -> Bytes:
    """Room for the largest batch, touched once so that no round pays for its pages."""
    buffer = np.empty(worst_case_bytes(c.MAX_BATCH_DATA_BYTES // block_bytes, block_bytes), dtype=np.uint8)
    buffer.fill(1)
    return buffer


def cut(content: Bytes, block_bytes: int) -> Iterator[tuple[NDArray[np.int64], Bytes]]:
    """(blocks, raw bytes) of each batch."""
    for at in range(0, len(content), c.MAX_BATCH_DATA_BYTES):
        raw = content[at : at + c.MAX_BATCH_DATA_BYTES]
        first = at // block_bytes
        yield np.arange(first, first + len(raw) // block_bytes, dtype=np.int64), raw


def frames_of(workload: Workload, batch: Batch) -> Iterator[FrameAt]:
    """Where each frame of a sealed batch lies."""
    at = 0
    while at < len(batch.sealed):
        head = batch.sealed[at : at + c.FRAME_HEADER_BYTES].tobytes()
        _, _, kind, codec, _, _, seq, offset, raw_length, sealed_length, _ = FRAME.unpack(head)
        body = at + c.FRAME_HEADER_BYTES
        aad = workload.header.stream_id + head
        yield FrameAt(body, aad, kind, codec, seq, offset, raw_length, sealed_length)
        at = body + sealed_length + c.TAG_BYTES
