"""The recorder: sees every frame that is sealed, and fails if a (frame key, nonce) pair is ever used twice."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmcore.seal import constants as c
from dmcore.seal.header import StreamHeader
from dmcore.seal.stream import Codec, StreamWriter

MAGIC = c.FRAME_MAGIC.to_bytes(2, "big")


class NonceRecorder:
    """Every pair that any stream of a test has used, whether its batch succeeded, failed, or was never sent."""

    def __init__(self) -> None:
        self.frames = 0
        self._seen: set[tuple[bytes, int]] = set()

    def saw(self, frame_key: bytes, out: bytes | bytearray) -> None:
        """Take note of the frames at the start of a buffer that was all zeros before."""
        at = 0
        while out[at : at + 2] == MAGIC:
            seq = int.from_bytes(out[at + 8 : at + 16], "big")
            if (frame_key, seq) in self._seen:
                raise AssertionError(f"frame key and nonce {seq} met two plaintexts")
            self._seen.add((frame_key, seq))
            self.frames += 1
            at += c.FRAME_HEADER_BYTES + int.from_bytes(out[at + 32 : at + 36], "big") + c.TAG_BYTES

    def writer(self, header: StreamHeader, dek: bytes, digest_key: bytes, codec: Codec = Codec.LZ4) -> "RecordedWriter":
        """A StreamWriter whose frames this recorder sees."""
        return RecordedWriter(self, StreamWriter(header, dek, digest_key, codec), dek)


class RecordedWriter:
    """A StreamWriter's calls, with buffers of the recorder's own."""

    def __init__(self, recorder: NonceRecorder, writer: StreamWriter, dek: bytes) -> None:
        self.header = writer.header
        self._recorder, self._writer = recorder, writer
        self._frame_key = writer.header.frame_key(dek)

    def open(self) -> bytes:
        return self._recorded(99, self._writer.open)

    def final(self) -> bytes:
        return self._recorded(99, self._writer.final)

    def seal(self, blocks: NDArray[np.int64], raw: bytes, out_bytes: int, **options: Any) -> bytes:
        return self._recorded(out_bytes, lambda out: self._writer.seal(blocks, raw, out, **options).used)

    def _recorded(self, out_bytes: int, call: Any) -> bytes:
        out = bytearray(out_bytes)
        try:
            return bytes(out[: call(out)])
        finally:
            self._recorder.saw(self._frame_key, out)
