"""The frame of the sealed format in pure Python: its 40-byte header, and the checks that need no key.

Part of the reference implementation (reference.py). The checks are in the order of docs/format.md section 8, and say
the same words as the native core's.
"""

import struct
from dataclasses import dataclass

from dmcore.blocks.constants import DIGEST_BYTES
from dmcore.native.errors import FrameRefused
from dmcore.seal import constants as c

LAYOUT = struct.Struct(">HBBBBHQQQII")
"""magic version type codec flags reserved seq offset raw-length sealed-length reserved (section 5)."""


@dataclass(frozen=True)
class Frame:
    """What a frame header says."""

    type: int
    codec: int
    seq: int
    offset: int
    raw_length: int
    sealed_length: int
    """Of the ciphertext, without the tag."""

    def pack(self) -> bytes:
        """The header's bytes."""
        return LAYOUT.pack(
            c.FRAME_MAGIC, c.FRAME_VERSION, self.type, self.codec, 0, 0,
            self.seq, self.offset, self.raw_length, self.sealed_length, 0,
        )  # fmt: skip

    @property
    def frame_bytes(self) -> int:
        """Header, ciphertext and tag."""
        return c.FRAME_HEADER_BYTES + self.sealed_length + c.TAG_BYTES

    @property
    def covers(self) -> bool:
        """Whether it says something about blocks of the disk."""
        return self.type in {c.TYPE_DATA, c.TYPE_ZERO}


def compressed_limit(raw_length: int) -> int:
    """The first length that is not worth a codec (section 6)."""
    return raw_length - raw_length // c.COMPRESS_GAIN


class FrameChecks:
    """Takes one batch apart, checking every header on the way. Nothing is decrypted here."""

    def __init__(self, block_bytes: int, disk_bytes: int, batch: int) -> None:
        self.block_bytes = block_bytes
        self.disk_bytes = disk_bytes
        self.batch = batch
        self._data_bytes = 0
        self._covered_bytes = 0

    def split(self, data: bytes) -> list[tuple[Frame, bytes]]:
        """The batch's frames, each with its ciphertext and tag.

        Raises:
            FrameRefused: the first check that failed.
        """
        frames: list[tuple[Frame, bytes]] = []
        view = memoryview(data)
        while view:
            offset = 0
            try:
                frame = self._unpack(view)
                offset = frame.offset
                _require(frame.frame_bytes <= len(view), "cut short")
                self._check(frame, len(frames), len(data))
            except ValueError as problem:
                raise FrameRefused(str(problem), batch=self.batch, index=len(frames), offset=offset) from None
            frames.append((frame, bytes(view[c.FRAME_HEADER_BYTES : frame.frame_bytes])))
            view = view[frame.frame_bytes :]
        if not frames:
            raise FrameRefused("an empty batch", batch=self.batch)
        return frames

    def _unpack(self, data: memoryview) -> Frame:
        """Lengths, enums, flags, reserved bytes."""
        _require(len(data) >= c.FRAME_HEADER_BYTES + c.TAG_BYTES, "cut short")
        magic, version, kind, codec, flags, zero, seq, offset, raw, sealed, also_zero = LAYOUT.unpack_from(data)
        _require(magic == c.FRAME_MAGIC, "bad magic")
        _require(version == c.FRAME_VERSION, "unknown version")
        _require(kind <= c.TYPE_FINAL, "unknown type")
        _require(codec <= c.CODEC_ZSTD, "unknown codec")
        _require(flags == zero == also_zero == 0, "flags or reserved bytes are not zero")
        _require(offset < 1 << 63 and raw < 1 << 63, "offset or length of 2^63 or more")
        return Frame(kind, codec, seq, offset, raw, sealed)

    def _check(self, frame: Frame, index: int, batch_bytes: int) -> None:
        self._check_caps(frame, index)
        self._check_lengths(frame)
        if frame.covers:
            self._check_place(frame)
        self._check_turn(frame, index, batch_bytes)
        self._data_bytes += frame.raw_length * (frame.type == c.TYPE_DATA)
        self._covered_bytes += frame.raw_length

    def _check_caps(self, frame: Frame, index: int) -> None:
        _require(index < c.MAX_BATCH_FRAMES, "more frames than a batch may hold")
        if frame.type == c.TYPE_DATA:
            _require(frame.raw_length <= self.block_bytes, "DATA is larger than a block")
            room = c.MAX_BATCH_DATA_BYTES - self._data_bytes
            _require(frame.raw_length <= room, "more data than a batch may hold")
        room = self.disk_bytes - self._covered_bytes
        _require(frame.raw_length <= room, "the batch covers more than the disk")

    def _check_lengths(self, frame: Frame) -> None:
        if not frame.covers:
            empty = frame.codec == frame.offset == frame.raw_length == 0
            _require(empty, "OPEN or FINAL with a codec, an offset or a length")
            length = c.FINAL_BYTES if frame.type == c.TYPE_FINAL else 0
            _require(frame.sealed_length == length, "OPEN or FINAL of a wrong sealed length")
        elif frame.type == c.TYPE_ZERO:
            _require(frame.codec == frame.sealed_length == 0, "ZERO with a codec or a payload")
        elif frame.codec == c.CODEC_RAW:
            _require(frame.sealed_length == DIGEST_BYTES + frame.raw_length, "raw block of a wrong sealed length")
        else:
            packed = frame.sealed_length - DIGEST_BYTES
            _require(0 < packed < compressed_limit(frame.raw_length), "compressed block of a wrong sealed length")

    def _check_place(self, frame: Frame) -> None:
        room = self.disk_bytes - frame.offset
        on_grid = frame.offset % self.block_bytes == 0 and room > 0
        _require(on_grid, "offset is off the grid or outside the disk")
        _require(0 < frame.raw_length <= room, "length is zero or reaches outside the disk")
        if frame.type == c.TYPE_DATA:
            _require(frame.raw_length == min(self.block_bytes, room), "DATA is not one whole block")
        ends_on_grid = frame.raw_length % self.block_bytes == 0 or frame.raw_length == room
        _require(ends_on_grid, "ZERO does not end on the grid")

    def _check_turn(self, frame: Frame, index: int, batch_bytes: int) -> None:
        is_open = frame.type == c.TYPE_OPEN
        _require(is_open == (self.batch == 0), "OPEN belongs to batch 0, and nothing else does")
        alone = index == 0 and frame.frame_bytes == batch_bytes
        _require(frame.covers or alone, "OPEN or FINAL beside other frames")
        expected = (self.batch << c.SEQ_BATCH_SHIFT) + index
        _require(frame.seq == expected, "not the expected sequence number")


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise ValueError(problem)
