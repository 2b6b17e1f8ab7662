"""What a Sealer makes of blocks, verdicts and digests, and what it refuses before a number is spent."""

from typing import Any

import numpy as np
import pytest

from dmcore.native.batches import BatchTotals, SealedBatch, Verdict
from dmcore.native.errors import SealFailed
from dmcore.native.sealing import FRAME_OVERHEAD_BYTES, Sealer, worst_case_bytes
from dmcore.seal import constants as c
from dmcore.seal.reference_frame import Frame, FrameChecks
from tests.seal.streams import (
    BLOCK,
    DIGEST_KEY,
    FRAME_KEY,
    MIB,
    STREAM_ID,
    content,
    extents,
    ids,
    opener,
    room,
    sealer,
    text,
)  # fmt: skip

ZEROS = bytes(BLOCK)


def frames(out: bytearray, batch: SealedBatch, number: int = 1, disk_bytes: int = 64 * BLOCK) -> list[Frame]:
    split = FrameChecks(BLOCK, disk_bytes, number).split(bytes(out[: batch.used]))
    return [frame for frame, _ in split]


def shape(frame: Frame) -> tuple[int, int, int]:
    """Type, first block, blocks."""
    return frame.type, frame.offset // BLOCK, -(-frame.raw_length // BLOCK)


def test_neighbouring_zero_blocks_become_one_run() -> None:
    out = room(6)
    raw = ZEROS * 2 + content(3) + ZEROS * 3
    batch = sealer().seal(1, ids(1, 2, 3, 4, 9, 8), raw, out)
    made = [shape(frame) for frame in frames(out, batch)]
    assert made == [
        (c.TYPE_ZERO, 1, 2),
        (c.TYPE_DATA, 3, 1),
        (c.TYPE_ZERO, 4, 1),
        (c.TYPE_ZERO, 9, 1),
        (c.TYPE_ZERO, 8, 1),
    ]
    assert batch.totals == BatchTotals(5, BLOCK, 5 * BLOCK, 16 + BLOCK)


def test_verdicts_decide_what_is_sent() -> None:
    out = room(4)
    raw = content(0) + content(1) + ZEROS + ZEROS
    verdicts = np.array([Verdict.SKIP, Verdict.DATA, Verdict.DATA, Verdict.ZERO], dtype=np.uint8)
    batch = sealer().seal(1, ids(0, 1, 2, 3), raw, out, verdicts=verdicts)
    made = [shape(frame) for frame in frames(out, batch)]
    assert made == [(c.TYPE_DATA, 1, 1), (c.TYPE_DATA, 2, 1), (c.TYPE_ZERO, 3, 1)]


def test_a_skipped_block_ends_a_run_of_zeros() -> None:
    out = room(3)
    verdicts = np.array([Verdict.ZERO, Verdict.SKIP, Verdict.ZERO], dtype=np.uint8)
    batch = sealer().seal(1, ids(0, 1, 2), ZEROS * 3, out, verdicts=verdicts)
    assert [shape(frame) for frame in frames(out, batch)] == [(c.TYPE_ZERO, 0, 1), (c.TYPE_ZERO, 2, 1)]


def test_a_zero_block_sent_as_data_has_the_zero_digest() -> None:
    out, plain = room(1), bytearray(BLOCK)
    verdicts = np.array([Verdict.DATA], dtype=np.uint8)
    batch = sealer().seal(1, ids(5), ZEROS, out, verdicts=verdicts)
    opened = opener().open(1, out[: batch.used], plain)
    assert opened.rows.tolist() == [[5 * BLOCK, BLOCK, 0, 0]]
    assert not opened.digests.any()


def test_given_digests_are_carried_as_they_are() -> None:
    out, plain = room(1), bytearray(BLOCK)
    digests = np.arange(16, dtype=np.uint8).reshape(1, 16)
    batch = sealer().seal(1, ids(5), content(5), out, digests=digests)
    opened = opener().open(1, out[: batch.used], plain)
    assert opened.digests.tolist() == digests.tolist()


def test_zero_runs_come_behind_the_blocks() -> None:
    out = room(1, zero_runs=2)
    runs = extents((8 * BLOCK, 4 * BLOCK), (40 * BLOCK, 24 * BLOCK))
    batch = sealer().seal(1, ids(0), content(0), out, zero_runs=runs)
    assert [shape(f) for f in frames(out, batch)] == [(c.TYPE_DATA, 0, 1), (c.TYPE_ZERO, 8, 4), (c.TYPE_ZERO, 40, 24)]


@pytest.mark.parametrize("codec", [c.CODEC_LZ4, c.CODEC_ZSTD])
def test_what_does_not_shrink_travels_raw(codec: int) -> None:
    out = room(2)
    batch = sealer(codec=codec).seal(1, ids(0, 1), content(0) + text(1), out)
    first, second = frames(out, batch)
    assert (first.codec, first.sealed_length) == (c.CODEC_RAW, 16 + BLOCK)
    assert second.codec == codec
    assert second.sealed_length < 16 + BLOCK - BLOCK // c.COMPRESS_GAIN


def test_worst_case_is_exact_for_incompressible_blocks() -> None:
    out = room(3, zero_runs=1)
    batch = sealer().seal(1, ids(0, 1, 2), b"".join(map(content, range(3))), out, zero_runs=extents((8 * BLOCK, BLOCK)))
    assert batch.used == len(out) == worst_case_bytes(3, BLOCK, 1)


def test_a_batch_of_the_most_frames() -> None:
    disk_bytes = 2 * (c.MAX_BATCH_FRAMES + 1) * BLOCK
    runs = extents(*((2 * n * BLOCK, BLOCK) for n in range(c.MAX_BATCH_FRAMES + 1)))
    out = bytearray(len(runs) * FRAME_OVERHEAD_BYTES)
    one = sealer(disk_bytes=disk_bytes)
    batch = one.seal(1, ids(), b"", out, zero_runs=runs[:-1])
    assert batch.totals.frames == c.MAX_BATCH_FRAMES == len(frames(out, batch, disk_bytes=disk_bytes))
    with pytest.raises(SealFailed, match="too many"):
        one.seal(2, ids(), b"", out, zero_runs=runs)


def test_a_batch_of_the_most_data() -> None:
    blocks = c.MAX_BATCH_DATA_BYTES // MIB
    one = sealer(disk_bytes=64 * MIB, block_bytes=MIB)
    raw = content(0, MIB) * (blocks + 1)
    out = bytearray(worst_case_bytes(blocks + 1, MIB))
    assert one.seal(1, ids(*range(blocks)), raw, out).totals.data_bytes == c.MAX_BATCH_DATA_BYTES
    with pytest.raises(SealFailed, match="too many"):
        one.seal(2, ids(*range(blocks + 1)), raw, out)


BAD_BATCHES: dict[str, tuple[str, dict[str, Any]]] = {
    "nothing": ("an empty batch", {"blocks": ids(), "raw": b""}),
    "OPEN's number": ("OPEN is batch 0", {"batch": 0}),
    "a negative block": ("block -1 is outside the disk", {"blocks": ids(-1)}),
    "a block behind the disk": ("block 64 is outside the disk", {"blocks": ids(64)}),
    "a block whose offset overflows": (f"block {1 << 52} is outside the disk", {"blocks": ids(1 << 52)}),
    "a short buffer": ("block 0 is outside the buffer", {"raw": bytes(BLOCK - 1)}),
    "a small output": ("does not hold the worst case", {"out": bytearray(BLOCK)}),
    "too few verdicts": ("as many verdicts", {"verdicts": np.zeros(0, dtype=np.uint8)}),
    "no verdict": ("verdict 3 of block 0", {"verdicts": np.array([3], dtype=np.uint8)}),
    "too few digests": ("as many digests", {"digests": np.zeros((0, 16), dtype=np.uint8)}),
    "short digests": ("as many digests", {"digests": np.zeros((1, 15), dtype=np.uint8)}),
    "runs of three": ("zero runs are", {"zero_runs": np.zeros((1, 3), dtype=np.int64), "out": bytearray(2 * BLOCK)}),
}


@pytest.mark.parametrize(("problem", "change"), BAD_BATCHES.values(), ids=BAD_BATCHES)
def test_bad_shapes_are_refused_and_nothing_is_spent(problem: str, change: dict[str, Any]) -> None:
    good: dict[str, Any] = {"batch": 1, "blocks": ids(0), "raw": content(0), "out": room(1)}
    one = sealer()
    with pytest.raises(SealFailed, match=problem):
        one.seal(**{**good, **change})
    assert one.seal(**good).totals.frames == 1


BAD_RUNS = {
    "negative offset": (-BLOCK, BLOCK),
    "negative length": (0, -BLOCK),
    "empty": (0, 0),
    "off the grid": (512, BLOCK),
    "not whole blocks": (0, BLOCK + 512),
    "over the end": (63 * BLOCK, 2 * BLOCK),
    "behind the end": (64 * BLOCK, BLOCK),
    "overflowing": (0, (1 << 63) - 1),
}


@pytest.mark.parametrize("run", BAD_RUNS.values(), ids=BAD_RUNS)
def test_a_bad_zero_run_fails_the_batch(run: tuple[int, int]) -> None:
    with pytest.raises(SealFailed, match="off the grid"):
        sealer().seal(1, ids(), b"", room(0, zero_runs=1), zero_runs=extents(run))


def test_a_batch_that_covers_more_than_the_disk_is_not_sealed() -> None:
    out = room(2)
    with pytest.raises(SealFailed):
        sealer(disk_bytes=BLOCK).seal(1, ids(0, 0), content(0) * 2, out)
    with pytest.raises(SealFailed):
        sealer(disk_bytes=BLOCK).seal(1, ids(0), content(0), out, zero_runs=extents((0, BLOCK)))


def test_all_skipped_is_an_empty_batch() -> None:
    with pytest.raises(SealFailed, match="no frames"):
        sealer().seal(1, ids(0), content(0), room(1), verdicts=np.zeros(1, dtype=np.uint8))


def test_a_number_is_spent_once() -> None:
    one, out = sealer(), room(1)
    one.seal(5, ids(0), content(0), out)
    for batch in (5, 4, 1):
        with pytest.raises(SealFailed, match="the batch number is spent"):
            one.seal(batch, ids(1), content(1), out)
    one.seal(6, ids(1), content(1), out)


def test_a_number_is_spent_by_a_failure_too() -> None:
    one, out = sealer(), room(1, zero_runs=1)
    with pytest.raises(SealFailed):
        one.seal(1, ids(0), content(0), out, zero_runs=extents((1, 1)))
    with pytest.raises(SealFailed, match="the batch number is spent"):
        one.seal(1, ids(0), content(0), out)


def test_numbers_end_before_they_wrap() -> None:
    last = (1 << 47) - 1
    sealer().seal(last, ids(0), content(0), room(1))
    with pytest.raises(SealFailed, match="spent"):
        sealer().seal(last + 1, ids(0), content(0), room(1))


BAD_CONTROLS: dict[str, tuple[str, tuple[int, int, bytes, bytearray]]] = {
    "a DATA frame": ("no control frame", (c.TYPE_DATA, 1, b"", bytearray(99))),
    "OPEN with a text": ("wrong length", (c.TYPE_OPEN, 0, b"x", bytearray(99))),
    "FINAL without": ("wrong length", (c.TYPE_FINAL, 1, b"", bytearray(99))),
    "a late OPEN": ("OPEN is batch 0", (c.TYPE_OPEN, 1, b"", bytearray(99))),
    "an early FINAL": ("OPEN is batch 0", (c.TYPE_FINAL, 0, bytes(32), bytearray(99))),
    "no room": ("too small", (c.TYPE_OPEN, 0, b"", bytearray(55))),
}


@pytest.mark.parametrize(("problem", "arguments"), BAD_CONTROLS.values(), ids=BAD_CONTROLS)
def test_bad_control_frames_are_refused(problem: str, arguments: tuple[int, int, bytes, bytearray]) -> None:
    with pytest.raises(SealFailed, match=problem):
        sealer().seal_control(*arguments)


def test_a_sealer_that_was_wiped_seals_no_more() -> None:
    one = sealer(codec=c.CODEC_ZSTD)
    one.wipe()
    one.wipe()
    with pytest.raises(SealFailed, match="wiped"):
        one.seal(1, ids(0), content(0), room(1))
    with pytest.raises(SealFailed, match="wiped"):
        one.seal_control(c.TYPE_OPEN, 0, b"", bytearray(99))


BAD_SEALERS: dict[str, tuple[str, dict[str, Any]]] = {
    "short key": ("32 bytes each", {"frame_key": bytes(31)}),
    "short stream id": ("32 bytes each", {"stream_id": bytes(31)}),
    "long digest key": ("32 bytes each", {"digest_key": bytes(33)}),
    "unknown codec": ("unknown codec 3", {"codec": 3}),
    "negative codec": ("unknown codec -1", {"codec": -1}),
    "small blocks": ("blocks of 2048 bytes", {"block_bytes": 2048}),
    "large blocks": ("blocks of 8388608 bytes", {"block_bytes": 8 * MIB}),
    "no disk": ("a disk of 0 bytes", {"disk_bytes": 0}),
}


@pytest.mark.parametrize(("problem", "change"), BAD_SEALERS.values(), ids=BAD_SEALERS)
def test_impossible_sealers_are_refused(problem: str, change: dict[str, Any]) -> None:
    good = {"frame_key": FRAME_KEY, "stream_id": STREAM_ID, "digest_key": DIGEST_KEY,
            "block_bytes": BLOCK, "disk_bytes": BLOCK, "codec": 0}  # fmt: skip
    with pytest.raises(SealFailed, match=problem):
        Sealer(**{**good, **change})
