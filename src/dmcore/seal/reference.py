"""The sealed format, version 1, in pure Python: docs/format.md as a program.

It needs `lz4`, `zstandard` and `cryptography`, and none of dmcore's compiled code. So it is the proof that whoever
has the keys can read a staging log without it, the oracle that the native core is tested against, and the baseline
of the benchmarks. It is slow, and keeps a whole batch's plaintext in memory.

    header, _ = StreamHeader(...).fresh(dek)
    writer = ReferenceWriter(header, dek, digest_key, CODEC_LZ4)
    batches = [writer.open()]
    writer.data(7, block)
    writer.zero(8 * 65536, 16 * 65536)
    batches += [writer.batch(), writer.final()]

    reader = ReferenceReader(header, dek, digest_key)
    for batch in batches:
        for opened in reader.read(batch):
            ...

The parts that need no key are in reference_frame.py, codecs and digests in reference_codec.py.
"""

import struct
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dmcore.blocks.constants import DIGEST_BYTES
from dmcore.native.batches import BatchTotals, Opened
from dmcore.native.errors import TagMismatch
from dmcore.seal import constants as c
from dmcore.seal.errors import StreamEnded, TotalsDiffer
from dmcore.seal.header import StreamHeader
from dmcore.seal.reference_codec import CodecError, block_digest, compress, decompress, nonce
from dmcore.seal.reference_frame import Frame, FrameChecks

FINAL = struct.Struct(">QQQQ")
NOTHING = BatchTotals(0, 0, 0, 0)


class OpenedFrame(NamedTuple):
    """What one DATA or ZERO frame says about the disk."""

    offset: int
    length: int
    raw: bytes
    """The block; empty for a run of zeros, and for a frame that did not open."""
    digest: bytes
    verdict: Opened


def _count(totals: BatchTotals, frame: Frame) -> BatchTotals:
    return BatchTotals(
        totals.frames + 1,
        totals.data_bytes + frame.raw_length * (frame.type == c.TYPE_DATA),
        totals.zero_bytes + frame.raw_length * (frame.type == c.TYPE_ZERO),
        totals.sealed_bytes + frame.sealed_length,
    )


class ReferenceWriter:
    """Seals one stream. The header has its salt and commitment: use a salt once (`StreamHeader.fresh`)."""

    def __init__(
        self, header: StreamHeader, dek: bytes, digest_key: bytes, codec: int = c.CODEC_LZ4, level: int = 1
    ) -> None:
        self.header = header
        self.totals = NOTHING
        self._aead = AESGCM(header.frame_key(dek))
        self._digest_key = digest_key
        self._codec, self._level = codec, level
        self._batch = 0
        self._frames: list[bytes] = []

    def open(self) -> bytes:
        """Batch 0."""
        self._seal(c.TYPE_OPEN)
        return self.batch()

    def data(self, block: int, raw: bytes, digest: bytes | None = None) -> None:
        """Add one block to the batch; its digest is made if it is not given."""
        digest = block_digest(self._digest_key, block, raw) if digest is None else digest
        codec, packed = compress(self._codec, self._level, raw)
        self._seal(c.TYPE_DATA, codec, block * self.header.block_bytes, len(raw), digest + packed)

    def zero(self, offset: int, length: int) -> None:
        """Add a run of zeros to the batch."""
        self._seal(c.TYPE_ZERO, offset=offset, raw_length=length)

    def batch(self) -> bytes:
        """The batch's bytes; what is added next belongs to the next one."""
        data = b"".join(self._frames)
        FrameChecks(self.header.block_bytes, self.header.disk_bytes, self._batch).split(data)
        self._batch, self._frames = self._batch + 1, []
        return data

    def final(self) -> bytes:
        """The last batch."""
        self._seal(c.TYPE_FINAL, plaintext=FINAL.pack(*self.totals))
        return self.batch()

    def _seal(self, kind: int, codec: int = 0, offset: int = 0, raw_length: int = 0, plaintext: bytes = b"") -> None:
        seq = (self._batch << c.SEQ_BATCH_SHIFT) + len(self._frames)
        frame = Frame(kind, codec, seq, offset, raw_length, len(plaintext))
        head = frame.pack()
        self._frames.append(head + self._aead.encrypt(nonce(seq), plaintext, self.header.stream_id + head))
        self.totals = _count(self.totals, frame)


class ReferenceReader:
    """Checks and opens one stream, batch by batch, in the order of docs/format.md section 8."""

    def __init__(self, header: StreamHeader, dek: bytes, digest_key: bytes) -> None:
        """Raises WrongKey before anything can be decrypted."""
        self.header = header
        self.totals = NOTHING
        self.finished = False
        self._aead = AESGCM(header.frame_key(dek))
        self._digest_key = digest_key
        self._batch = 0

    def read(self, data: bytes) -> list[OpenedFrame]:
        """Authenticate and open the next batch. OPEN and FINAL give nothing.

        An authenticated block that does not decompress, or has another digest, is a verdict, as at redo.

        Raises:
            FrameRefused: a header check failed; TagMismatch if it was the tag.
            TotalsDiffer: FINAL does not name what arrived.
            StreamEnded: something came behind FINAL, or the stream is past its limits.
        """
        if self.finished:
            raise StreamEnded(disk=str(self.header.disk), problem="nothing may follow FINAL")
        frames = FrameChecks(self.header.block_bytes, self.header.disk_bytes, self._batch).split(data)
        plaintexts = [self._decrypt(index, frame, body) for index, (frame, body) in enumerate(frames)]
        for (frame, _), plaintext in zip(frames, plaintexts, strict=True):
            if frame.type == c.TYPE_FINAL:
                self._check_final(plaintext)
            self._add(frame)
        self._batch += 1
        return [
            self._opened(frame, plaintext)
            for (frame, _), plaintext in zip(frames, plaintexts, strict=True)
            if frame.covers
        ]

    def _decrypt(self, index: int, frame: Frame, body: bytes) -> bytes:
        try:
            return self._aead.decrypt(nonce(frame.seq), body, self.header.stream_id + frame.pack())
        except InvalidTag:
            raise TagMismatch(
                "the authentication tag is wrong", batch=self._batch, index=index, offset=frame.offset
            ) from None

    def _check_final(self, plaintext: bytes) -> None:
        claimed = FINAL.unpack(plaintext)
        if claimed != self.totals:
            raise TotalsDiffer(disk=str(self.header.disk), claimed=claimed, counted=self.totals)
        self.finished = True

    def _add(self, frame: Frame) -> None:
        self.totals = _count(self.totals, frame)
        if self.totals.data_bytes > c.MAX_STREAM_DATA_BYTES or self.totals.frames > c.MAX_STREAM_FRAMES:
            raise StreamEnded(disk=str(self.header.disk), problem="it is past its limit")

    def _opened(self, frame: Frame, plaintext: bytes) -> OpenedFrame:
        if frame.type == c.TYPE_ZERO:
            return OpenedFrame(frame.offset, frame.raw_length, b"", bytes(DIGEST_BYTES), Opened.OK)
        digest, packed = plaintext[:DIGEST_BYTES], plaintext[DIGEST_BYTES:]
        try:
            raw = decompress(frame.codec, packed, frame.raw_length)
        except CodecError:
            return OpenedFrame(frame.offset, frame.raw_length, b"", bytes(DIGEST_BYTES), Opened.BAD_CODEC)
        if digest != block_digest(self._digest_key, frame.offset // self.header.block_bytes, raw):
            return OpenedFrame(frame.offset, frame.raw_length, b"", digest, Opened.BAD_DIGEST)
        return OpenedFrame(frame.offset, frame.raw_length, raw, digest, Opened.OK)
