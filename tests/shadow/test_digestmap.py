"""The digest map against a dictionary: batches with data, runs of zeros and frames that did not open, in any order."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmcore.blocks.constants import DIGEST_BYTES
from dmcore.blocks.grid import Grid
from dmcore.native.batches import Opened, OpenedBatch
from dmcore.native.patching import BlockIO
from dmcore.shadow import digestmap, storage
from dmcore.shadow.digestmap import DigestMap
from dmcore.shadow.errors import StateUnreadable
from dmcore.shadow.storage import Storage
from tests.shadow.faults import PageCache, SystemCalls, Trigger

BLOCK = 4096
GRID = Grid(20 * BLOCK + 512, BLOCK)
"""21 blocks, the last of them short."""
ZERO = bytes(DIGEST_BYTES)
UNKNOWN = b"\xff" * DIGEST_BYTES

Row = tuple[int, int, bytes, Opened]
"""First block, how many, digest, how it opened. More than one block, or no digest: a ZERO frame."""


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digestmap, "WINDOW_BLOCKS", 6)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    DigestMap.create(Storage(), tmp_path / "a.map", GRID)
    return tmp_path / "a.map"


@pytest.fixture
def held(path: Path) -> Iterator[DigestMap]:
    with closing(DigestMap(Storage(), path, GRID)) as digest_map:
        yield digest_map


def batch(rows: list[Row]) -> OpenedBatch:
    """What `Opener.open` gives for such frames."""
    out, digests, position = [], np.zeros((len(rows), DIGEST_BYTES), dtype=np.uint8), 0
    for number, (first, count, digest, opened) in enumerate(rows):
        offset = first * BLOCK
        length = min(count * BLOCK, GRID.disk_bytes - offset)
        out.append((offset, length, position if digest else -1, opened))
        if digest:
            position += BLOCK
            digests[number] = np.frombuffer(digest, dtype=np.uint8)
    return OpenedBatch(np.array(out, dtype=np.int64).reshape(-1, 4), digests)


opened = st.sampled_from([Opened.OK, Opened.OK, Opened.OK, *Opened])


@st.composite
def batches(draw: st.DrawFn) -> list[Row]:
    """Frames in ascending order, none over another's blocks."""
    rows: list[Row] = []
    at = draw(st.integers(0, 3))
    while at < GRID.blocks:
        if draw(st.booleans()):
            rows.append((at, 1, draw(st.binary(min_size=16, max_size=16)), draw(opened)))
            at += 1
        else:
            count = min(draw(st.integers(1, 9)), GRID.blocks - at)
            rows.append((at, count, b"", draw(opened)))
            at += count
        at += draw(st.integers(0, 4))
    return rows


def play(model: dict[int, bytes], rows: list[Row]) -> None:
    for first, count, digest, how in rows:
        for block in range(first, first + count):
            model[block] = UNKNOWN if how else digest or ZERO


@pytest.mark.usefixtures("small_windows")
class TestAgainstADictionary:
    @given(changes=st.lists(batches(), max_size=5), first=st.integers(0, 25), count=st.integers(0, 25))
    def test_what_is_written_is_read(self, changes: list[list[Row]], first: int, count: int) -> None:
        model: dict[int, bytes] = {}
        with tempfile.TemporaryDirectory() as folder:
            DigestMap.create(Storage(), Path(folder) / "a.map", GRID)
            with closing(DigestMap(Storage(), Path(folder) / "a.map", GRID)) as held:
                for rows in changes:
                    held.write(batch(rows))
                    play(model, rows)
                held.flush()
                expected = [model.get(block, ZERO) for block in range(first, min(first + count, GRID.blocks))]
                assert [row.tobytes() for row in held.read(first, count)] == expected
                unknown = [block for block in range(GRID.blocks) if model.get(block) == UNKNOWN]
                assert held.unknown().tolist() == [[block * BLOCK, GRID.length(block)] for block in unknown]

    @pytest.mark.parametrize(("first", "count"), [(0, 21), (5, 8), (20, 1), (3, 0)])
    def test_a_range_is_marked_unknown_whole(self, held: DigestMap, first: int, count: int) -> None:
        held.set_unknown(first * BLOCK, min(count * BLOCK, GRID.disk_bytes - first * BLOCK))
        assert [int(offset) // BLOCK for offset, _ in held.unknown()] == list(range(first, first + count))


def test_a_new_map_is_one_hole_of_zero_digests(held: DigestMap, path: Path) -> None:
    assert path.stat().st_blocks == 0
    assert held.read(0, GRID.blocks).shape == (21, DIGEST_BYTES)
    assert not held.read(0, GRID.blocks).any()
    assert held.unknown().shape == (0, 2)


def test_making_a_map_anew_forgets_the_old_one(held: DigestMap, path: Path) -> None:
    held.set_unknown(0, GRID.disk_bytes)
    DigestMap.create(Storage(), path, GRID)
    with closing(DigestMap(Storage(), path, GRID)) as again:
        assert not len(again.unknown())


def test_what_was_flushed_outlives_a_power_cut(path: Path) -> None:
    cache = PageCache(Trigger(None, lambda _: None))
    held = DigestMap(Storage(BlockIO(cache)), path, GRID)
    held.set_unknown(0, BLOCK)
    held.flush()
    held.set_unknown(BLOCK, BLOCK)
    held.close()
    held.close()
    cache.end(lambda _: True)
    with closing(DigestMap(Storage(), path, GRID)) as again:
        assert again.unknown().tolist() == [[0, BLOCK]]


def test_a_flush_that_fails_says_so(path: Path) -> None:
    def fail(_: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with (
        closing(DigestMap(Storage(BlockIO(SystemCalls(Trigger(1, fail)))), path, GRID)) as held,
        pytest.raises(OSError, match="Input/output"),
    ):
        held.flush()


def test_a_copy_is_left_alone_by_later_writes(held: DigestMap, path: Path) -> None:
    held.set_unknown(0, BLOCK)
    with closing(held.copy()) as copy:
        held.set_unknown(BLOCK, BLOCK)
        assert copy.unknown().tolist() == [[0, BLOCK]]
    assert len(held.unknown()) == 2
    assert [each.name for each in path.parent.iterdir()] == ["a.map"]


def test_a_copy_that_cannot_be_made_leaves_nothing(
    held: DigestMap, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage, "sparse_copy", fail)
    with pytest.raises(OSError, match="No space"):
        held.copy()
    assert [each.name for each in path.parent.iterdir()] == ["a.map"]


def test_a_missing_map_and_one_of_another_grid_are_refused(path: Path) -> None:
    with pytest.raises(StateUnreadable, match="no digest map: No such file"):
        DigestMap(Storage(), path.with_name("b.map"), GRID)
    with pytest.raises(StateUnreadable, match="336 bytes for 22 blocks"):
        DigestMap(Storage(), path, Grid(21 * BLOCK + 1, BLOCK))


@pytest.mark.parametrize("short", [0, 100])
def test_what_a_disk_has_grown_by_is_unknown_and_so_is_a_short_last_block(path: Path, short: int) -> None:
    before = Grid(5 * BLOCK - short, BLOCK)
    DigestMap.create(Storage(), path.with_name("b.map"), before)
    small = DigestMap(Storage(), path.with_name("b.map"), before)
    grown = Grid(8 * BLOCK - 1, BLOCK)
    unknown = [bool((row == 0xFF).all()) for row in small.expected(grown, 3, 100)]
    assert unknown == [False, bool(short), True, True, True]
    assert len(small.expected(grown, 6, 1)) == 1
    assert len(small.expected(grown, 8, 1)) == 0
    assert not small.expected(before, 0, 100).any()
    small.close()
