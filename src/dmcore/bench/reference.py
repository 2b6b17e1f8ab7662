"""One pass of each stage in pure Python: the reference of the sealed format, which the native core must be worth."""

import os
from collections.abc import Callable
from time import perf_counter

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dmcore.bench.libraries import punch
from dmcore.bench.workload import DEK, DIGEST_KEY, Workload, frames_of
from dmcore.seal import constants as c
from dmcore.seal.reference import OpenedFrame, ReferenceReader, ReferenceWriter
from dmcore.seal.reference_codec import block_digest, nonce

Pairs = list[list[int]]


def seconds_of(work: Callable[[], object]) -> Callable[[], float]:
    """A turn that does the work and says how long it took."""

    def turn() -> float:
        started = perf_counter()
        work()
        return perf_counter() - started

    return turn


class Reference:
    """Each method is one pass, and gives its seconds. Blocks are cut into `bytes` beforehand, outside the time."""

    def __init__(self, workload: Workload) -> None:
        self._load = workload
        size = workload.block_bytes
        self._blocks = [
            (block, batch.raw[index * size : (index + 1) * size].tobytes())
            for batch in workload.batches
            for index, block in enumerate(batch.blocks.tolist())
        ]
        self._zeros = bytes(size)
        self._sealed = [workload.open_frame.tobytes(), *(batch.sealed.tobytes() for batch in workload.batches)]

    def scan(self) -> float:
        """Zero test and digest of every block."""
        return seconds_of(lambda: [block_digest(DIGEST_KEY, block, raw) for block, raw in self._blocks])()

    def seal(self) -> float:
        """Zero test, digest, compression and encryption."""
        return seconds_of(self._seal)()

    def verify(self) -> float:
        """Authenticate every frame."""
        return seconds_of(self._verify)()

    def open(self) -> float:
        """Decrypt, decompress and check every block."""
        return seconds_of(self._open)()

    def apply(self, fd: int) -> float:
        """Open every batch and write its blocks to a file."""
        return seconds_of(lambda: self._apply(fd))()

    def _seal(self) -> None:
        header, _ = self._load.header.fresh(DEK)
        writer = ReferenceWriter(header, DEK, DIGEST_KEY, self._load.codec)
        writer.open()
        in_batch = c.MAX_BATCH_DATA_BYTES // self._load.block_bytes
        for index, (block, raw) in enumerate(self._blocks, start=1):
            if raw == self._zeros:
                writer.zero(block * len(raw), len(raw))
            else:
                writer.data(block, raw)
            if index % in_batch == 0:
                writer.batch()

    def _verify(self) -> None:
        aead = AESGCM(self._load.header.frame_key(DEK))
        for batch, sealed in zip(self._load.batches, self._sealed[1:], strict=True):
            for frame in frames_of(self._load, batch):
                body = sealed[frame.body : frame.body + frame.sealed_length + c.TAG_BYTES]
                aead.decrypt(nonce(frame.seq), body, frame.aad)

    def _open(self) -> list[OpenedFrame]:
        reader = ReferenceReader(self._load.header, DEK, DIGEST_KEY)
        last: list[OpenedFrame] = []
        for sealed in self._sealed:
            last = reader.read(sealed)
        return last

    def _apply(self, fd: int) -> None:
        reader = ReferenceReader(self._load.header, DEK, DIGEST_KEY)
        for sealed in self._sealed:
            for frame in reader.read(sealed):
                write_frame(fd, frame)


def write_frame(fd: int, frame: OpenedFrame) -> None:
    """One block written, or one run of zeros punched."""
    if frame.raw:
        os.pwrite(fd, frame.raw, frame.offset)
    else:
        function, arguments = punch(fd, frame.offset, frame.length)
        function(*arguments)


def merge(extents: Pairs) -> Pairs:
    """Sort and merge (offset, length) pairs."""
    merged: Pairs = []
    for offset, length in sorted(extents):
        if merged and offset <= merged[-1][0] + merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], offset + length - merged[-1][0])
        else:
            merged.append([offset, length])
    return merged


def subtract(extents: Pairs, taken: Pairs) -> Pairs:
    """What is in the one and not in the other; both sorted and merged."""
    left: Pairs = []
    at = 0
    for offset, length in extents:
        start, end = offset, offset + length
        while at < len(taken) and sum(taken[at]) <= start:
            at += 1
        look = at
        while look < len(taken) and taken[look][0] < end:
            if taken[look][0] > start:
                left.append([start, taken[look][0] - start])
            start = max(start, sum(taken[look]))
            look += 1
        if start < end:
            left.append([start, end - start])
    return left
