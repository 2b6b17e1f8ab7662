"""What the native calls give back about a batch. One word for each field, in stubs, logs and tests."""

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Verdict(IntEnum):
    """What becomes of a block that was read."""

    SKIP = 0
    DATA = 1
    ZERO = 2


class Opened(IntEnum):
    """How a frame opened. Anything but OK makes its block unknown."""

    OK = 0
    BAD_TAG = 1
    BAD_CODEC = 2
    BAD_DIGEST = 3


class ZeroMode(IntEnum):
    """How a device takes runs of zeros; only ever goes up, as the device refuses."""

    PUNCH_HOLE = 0
    ZERO_RANGE = 1
    WRITE = 2


class BatchTotals(NamedTuple):
    """What a batch counts towards its stream's FINAL."""

    frames: int
    data_bytes: int
    """Raw bytes, DATA frames only."""
    zero_bytes: int
    sealed_bytes: int
    """The sum of the frames' sealed lengths: no headers, no tags."""


class SealedBatch(NamedTuple):
    """A batch in the caller's buffer."""

    used: int
    """How many bytes of the buffer it takes."""
    totals: BatchTotals


class VerifiedBatch(NamedTuple):
    """An authenticated batch, its plaintext not kept."""

    totals: BatchTotals
    extents: NDArray[np.int64]
    """What its DATA and ZERO frames cover, in their order: not sorted, not merged."""
    final: bytes | None
    """FINAL's plaintext, if this is the last batch."""


class OpenedBatch(NamedTuple):
    """A batch as it is patched."""

    rows: NDArray[np.int64]
    """(n, 4): offset, length, position in the caller's buffer or -1 for zeros, `Opened`."""
    digests: NDArray[np.uint8]
    """(n, 16): of each DATA row; zeros elsewhere."""


class Patched(NamedTuple):
    """What one patch call did."""

    written_bytes: int
    zeroed_bytes: int
    calls: int
    zero_mode: ZeroMode
    """What to begin with next time."""
