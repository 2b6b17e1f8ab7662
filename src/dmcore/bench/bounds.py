"""The library calls of each stage, listed over a workload: what the stage's own code is measured against."""

from dmcore.bench.libraries import (
    Bytes,
    Call,
    Compressor,
    Gcm,
    Pointer,
    check,
    pointer,
    punch,
    write,
    zero_test,
)
from dmcore.bench.workload import DEK, DIGEST_KEY, Batch, FrameAt, Workload, batch_buffer, frames_of
from dmcore.blocks.constants import DIGEST_BYTES
from dmcore.native.batches import Verdict
from dmcore.seal import constants as c
from dmcore.seal.stream import Codec


class Bounds:
    """Lists calls; keeps alive the buffers that they point into."""

    def __init__(self, workload: Workload) -> None:
        self._load = workload
        frame_key = workload.header.frame_key(DEK)
        self._digests = Gcm(DIGEST_KEY, encrypt=True)
        self._sealing = Gcm(frame_key, encrypt=True)
        self._opening = Gcm(frame_key, encrypt=False)
        self._codec = Compressor(lz4_blocks=workload.codec is Codec.LZ4)
        self._sealed = batch_buffer(workload.block_bytes)
        self._scratch = batch_buffer(workload.block_bytes)
        self._raw = batch_buffer(workload.block_bytes)

    def scan(self) -> list[Call]:
        """The zero test of every block, the digest of every other."""
        calls: list[Call] = []
        for batch in self._load.batches:
            for index, block in enumerate(batch.blocks.tolist()):
                calls += self._look_at(batch.raw, index, block)
        return calls

    def seal(self) -> list[Call]:
        """Scan, compression and encryption."""
        calls: list[Call] = []
        for batch in self._load.batches:
            calls += self._seal_batch(batch)
        return calls

    def verify(self) -> list[Call]:
        """Decryption of every frame into one scratch block, and its tag."""
        calls: list[Call] = []
        for batch in self._load.batches:
            for frame in frames_of(self._load, batch):
                calls += self._decrypt(batch, frame)
        check(calls)
        return calls

    def open(self) -> list[Call]:
        """Decryption, decompression and digest of every block."""
        calls: list[Call] = []
        for batch in self._load.batches:
            calls += self._open_batch(batch)
        check(calls)
        return calls

    def apply(self, fd: int) -> list[Call]:
        """What open does, then one write for each run of data and one punch for each run of zeros."""
        calls: list[Call] = []
        for batch in self._load.batches:
            calls += self._open_batch(batch)
            calls += self._write_batch(fd, batch)
        check(calls)
        return calls

    def _look_at(self, raw: Bytes, index: int, block: int) -> list[Call]:
        size = self._load.block_bytes
        test = zero_test(raw, index * size, size)
        if self._verdict(raw, index) is Verdict.ZERO:
            return test
        return test + self._digests.mac(block, pointer(raw, index * size), size)

    def _verdict(self, raw: Bytes, index: int) -> Verdict:
        size = self._load.block_bytes
        return Verdict.DATA if raw[index * size : (index + 1) * size].any() else Verdict.ZERO

    def _seal_batch(self, batch: Batch) -> list[Call]:
        """Compress behind where the digest goes, then encrypt both in place: one frame behind the other, as we do."""
        calls: list[Call] = []
        size, at = self._load.block_bytes, 0
        for index, block in enumerate(batch.blocks.tolist()):
            calls += self._look_at(batch.raw, index, block)
            if self._verdict(batch.raw, index) is Verdict.ZERO:
                continue
            body = at + c.FRAME_HEADER_BYTES
            packed = pointer(self._sealed, body + DIGEST_BYTES)
            room = size - size // c.COMPRESS_GAIN - 1
            call, used = self._codec.compress(pointer(batch.raw, index * size), size, packed, room)
            length = DIGEST_BYTES + (used or size)
            tag = pointer(self._sealed, body + length)
            aad = bytes(c.STREAM_ID_BYTES + c.FRAME_HEADER_BYTES)
            calls += [call, *self._sealing.seal(block, aad, pointer(self._sealed, body), length, tag)]
            at = body + length + c.TAG_BYTES
        return calls

    def _decrypt(self, batch: Batch, frame: FrameAt, raw: Pointer | None = None) -> list[Call]:
        """Into the scratch block; with `raw`, all but the digest goes there at once."""
        scratch, length = pointer(self._scratch), frame.sealed_length
        parts = [(scratch, length)] if raw is None else [(scratch, DIGEST_BYTES), (raw, length - DIGEST_BYTES)]
        return self._opening.open(frame.seq, frame.aad, pointer(batch.sealed, frame.body), parts)

    def _open_batch(self, batch: Batch) -> list[Call]:
        calls: list[Call] = []
        at, size = 0, self._load.block_bytes
        for frame in frames_of(self._load, batch):
            if frame.type != c.TYPE_DATA:
                calls += self._decrypt(batch, frame)
                continue
            raw = pointer(self._raw, at)
            calls += self._open_block(batch, frame, raw)
            calls += self._digests.mac(frame.offset // size, raw, size)
            at += size
        return calls

    def _open_block(self, batch: Batch, frame: FrameAt, raw: Pointer) -> list[Call]:
        if frame.codec == c.CODEC_RAW:
            return self._decrypt(batch, frame, raw)
        packed, length = pointer(self._scratch, DIGEST_BYTES), frame.sealed_length - DIGEST_BYTES
        call = self._codec.decompress(packed, length, raw, self._load.block_bytes)
        return [*self._decrypt(batch, frame), call]

    def _write_batch(self, fd: int, batch: Batch) -> list[Call]:
        calls: list[Call] = []
        at, run = 0, (0, 0, 0)  # where in raw, where on disk, how long
        for frame in frames_of(self._load, batch):
            if frame.type == c.TYPE_ZERO:
                calls.append(punch(fd, frame.offset, frame.raw_length))
                continue
            if run[1] + run[2] != frame.offset or not run[2]:
                calls += self._write_run(fd, run)
                run = (at, frame.offset, 0)
            run = (run[0], run[1], run[2] + frame.raw_length)
            at += frame.raw_length
        return calls + self._write_run(fd, run)

    def _write_run(self, fd: int, run: tuple[int, int, int]) -> list[Call]:
        return [write(fd, pointer(self._raw, run[0]), run[2], run[1])] if run[2] else []
