"""One sealed stream from its OPEN to its FINAL: batch numbers, totals and limits around the native calls.

A stream belongs to one thread at a time, and its key to one process: a forked child's copies are wiped at the
fork (native/forks.py).
"""

import struct
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

from dmcore.native.batches import BatchTotals, OpenedBatch, SealedBatch, VerifiedBatch
from dmcore.native.opening import Opener
from dmcore.native.sealing import Sealer
from dmcore.seal import constants as c
from dmcore.seal.errors import StreamEnded, TotalsDiffer
from dmcore.seal.header import StreamHeader

FINAL = struct.Struct(">QQQQ")
"""FINAL's plaintext: frames before it, data bytes, zero bytes, sealed bytes (docs/format.md section 7)."""


class Codec(IntEnum):
    """How a DATA frame's block is compressed. A block that does not shrink travels raw under any codec."""

    NONE = c.CODEC_RAW
    LZ4 = c.CODEC_LZ4
    ZSTD = c.CODEC_ZSTD


def _add(a: BatchTotals, b: BatchTotals) -> BatchTotals:
    return BatchTotals(*(x + y for x, y in zip(a, b, strict=True)))


class StreamWriter:
    """Seals one disk's batches. Draws the salt: a writer is one connection's, never continued by another."""

    def __init__(
        self, header: StreamHeader, dek: bytes, digest_key: bytes, codec: Codec = Codec.LZ4, level: int = 1
    ) -> None:
        self.header, frame_key = header.fresh(dek)
        self.totals = BatchTotals(0, 0, 0, 0)
        self._next = 0
        self._ended = ""
        self._sealer = Sealer(
            frame_key, self.header.stream_id, digest_key,
            block_bytes=header.block_bytes, disk_bytes=header.disk_bytes, codec=codec, level=level,
        )  # fmt: skip

    def open(self, out: Buffer) -> int:
        """Seal batch 0. Returns the bytes used of `out`."""
        used = self._control(c.TYPE_OPEN, b"", out)
        self.totals = BatchTotals(1, 0, 0, 0)
        return used

    def seal(
        self,
        blocks: NDArray[np.int64],
        raw: Buffer,
        out: Buffer,
        *,
        verdicts: NDArray[np.uint8] | None = None,
        digests: NDArray[np.uint8] | None = None,
        zero_runs: NDArray[np.int64] | None = None,
    ) -> SealedBatch:
        """Seal the next batch (see `Sealer.seal`). Any failure ends the stream: its number is spent.

        Raises:
            StreamEnded: it has had its FINAL, has failed, or would pass its limits.
        """
        if not self.room():
            self.end("it is at its limit")
        number = self._spend()
        try:
            batch = self._sealer.seal(number, blocks, raw, out, verdicts=verdicts, digests=digests, zero_runs=zero_runs)
        except BaseException:
            self.end("sealing a batch failed")
            raise
        self.totals = _add(self.totals, batch.totals)
        return batch

    def room(self) -> bool:
        """Whether another batch surely fits under the stream's limits; if not: `final`, and a new stream."""
        data_room = self.totals.data_bytes + c.MAX_BATCH_DATA_BYTES <= c.MAX_STREAM_DATA_BYTES
        return data_room and self.totals.frames + c.MAX_BATCH_FRAMES < c.MAX_STREAM_FRAMES

    def final(self, out: Buffer) -> int:
        """Seal the last batch and end. Returns the bytes used of `out`."""
        used = self._control(c.TYPE_FINAL, FINAL.pack(*self.totals), out)
        self.end("FINAL was sealed")
        return used

    def end(self, why: str) -> None:
        """Wipe the keys; nothing can be sealed any more."""
        self._ended = self._ended or why
        self._sealer.wipe()

    def _control(self, frame_type: int, plaintext: bytes, out: Buffer) -> int:
        number = self._spend()
        try:
            return self._sealer.seal_control(frame_type, number, plaintext, out)
        except BaseException:
            self.end("sealing OPEN or FINAL failed")
            raise

    def _spend(self) -> int:
        if self._ended:
            raise StreamEnded(disk=str(self.header.disk), problem=self._ended)
        number, self._next = self._next, self._next + 1
        return number


class StreamReader:
    """Checks or opens one stream's batches in order: the receiver's side, and redo's."""

    def __init__(self, header: StreamHeader, dek: bytes, digest_key: bytes, first_batch: int = 0) -> None:
        """Begin at `first_batch`: of what was verified before, a part can be read again.

        Raises WrongKey before anything can be decrypted.
        """
        self.header = header
        self.totals = BatchTotals(0, 0, 0, 0)
        self.finished = False
        self._ended = ""
        self._next = self._first = first_batch
        self._opener = Opener(
            header.frame_key(dek), header.stream_id, digest_key,
            block_bytes=header.block_bytes, disk_bytes=header.disk_bytes,
        )  # fmt: skip

    @property
    def next_batch(self) -> int:
        """The number that the next batch must carry."""
        return self._next

    def verify(self, data: Buffer) -> VerifiedBatch:
        """Authenticate the next batch; its plaintext is not kept.

        Raises:
            FrameRefused: a frame is not what must come next. The stream is over.
            TotalsDiffer: FINAL does not name what arrived, if all of it did here. The stream is over.
            StreamEnded: something came behind FINAL or a refusal, or the stream passed its limits.
        """
        self._expect_more()
        try:
            batch = self._opener.verify(self._next, data)
            if batch.final is not None:
                self._check_final(batch.final)
            self._count(batch.totals)
            self.finished = batch.final is not None
        except BaseException:
            self.end("a batch was refused")
            raise
        return batch

    def open(self, data: Buffer, out: Buffer) -> OpenedBatch:
        """Open the next batch, which was verified before it was kept, into `out` (see `Opener.open`)."""
        self._expect_more()
        batch = self._opener.open(self._next, data, out)
        self._next += 1
        return batch

    def end(self, why: str = "it was closed") -> None:
        """Wipe the keys; nothing can be verified or opened any more."""
        self._ended = self._ended or why
        self._opener.wipe()

    def _expect_more(self) -> None:
        if self.finished or self._ended:
            problem = "nothing may follow FINAL" if self.finished else self._ended
            raise StreamEnded(disk=str(self.header.disk), problem=problem)

    def _check_final(self, plaintext: bytes) -> None:
        claimed: tuple[Any, ...] = FINAL.unpack(plaintext)
        if not self._first and claimed != tuple(self.totals):
            raise TotalsDiffer(disk=str(self.header.disk), claimed=claimed, counted=tuple(self.totals))

    def _count(self, totals: BatchTotals) -> None:
        self._next += 1
        self.totals = _add(self.totals, totals)
        if self.totals.data_bytes > c.MAX_STREAM_DATA_BYTES or self.totals.frames > c.MAX_STREAM_FRAMES:
            raise StreamEnded(disk=str(self.header.disk), problem="it is past its limit")
