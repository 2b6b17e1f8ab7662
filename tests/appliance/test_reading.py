"""What is read of a disk, and what becomes of it: every changed block once, nothing that is not there."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import Buffer

from dmcore.appliance import reading
from dmcore.appliance.progress import DiskStats
from dmcore.appliance.queue import BufferPool, Loan
from dmcore.appliance.reading import (
    BATCH_BYTES,
    WINDOW_BLOCKS,
    ZERO_RUNS,
    DigestWindow,
    ReadBatch,
    Reader,
    batches_of,
    blocks_of,
    digest_windows,
    neighbours,
    zero_batches,
)
from dmcore.blocks import extents as ex
from dmcore.blocks.extents import Extents
from dmcore.blocks.grid import Grid
from dmcore.model.enums import Reason, Rung
from dmcore.model.ids import DiskId
from dmcore.native.batches import Verdict
from dmcore.native.digests import Scanner
from dmcore.sources.base import DiskInfo
from dmcore.sources.errors import SourceReadFailed

BLOCK = 4096
KEY = bytes(range(32))


@dataclass
class HoledDisk:
    """Bytes with holes. Reading a hole, or past the end, is a mistake."""

    content: bytearray
    data: Extents
    reads: list[tuple[int, int]] = field(default_factory=list)
    next_token: str | None = None

    @property
    def info(self) -> DiskInfo:
        return DiskInfo("a", "a", len(self.content))

    def allocated(self) -> Extents:
        return self.data

    def changed_since(self, token: str) -> Extents:
        raise AssertionError(token)

    def read_into(self, offset: int, buffer: Buffer) -> None:
        view = memoryview(buffer).cast("B")
        assert 0 <= offset <= len(self.content) - len(view)
        self.reads.append((offset, len(view)))
        view[:] = self.content[offset : offset + len(view)]


class Bench:
    """A reader of a holed disk, with few buffers, and what it yields put back together."""

    def __init__(self, content: bytes, data: Extents | None = None, block_bytes: int = BLOCK) -> None:
        self.grid = Grid(len(content), block_bytes)
        self.disk = HoledDisk(bytearray(content), ex.whole(len(content)) if data is None else data)
        self.stats = DiskStats(DiskId(UUID(int=1)), "vm", "a", len(content), Rung.SEED, Reason.NO_IMAGE)
        self.pool = BufferPool(1, BATCH_BYTES)
        self.reader = Reader(self.disk, self.grid, Loan(self.pool, threading.Event()), self.stats)

    def collect(self, batches: Iterator[ReadBatch]) -> dict[int, bytes]:
        """Block by block what would be sent. A block that comes twice is a mistake."""
        sent: dict[int, bytes] = {}
        for batch in batches:
            for block, content in self.contents(batch):
                assert block not in sent
                sent[block] = content
            if batch.raw is not None:
                assert batch.zero_runs is None
                self.reader.pool.give_back(batch.raw)
        assert self.pool.free == 1
        return sent

    def contents(self, batch: ReadBatch) -> Iterator[tuple[int, bytes]]:
        for block in blocks_of(ex.empty() if batch.zero_runs is None else batch.zero_runs, self.grid).tolist():
            yield block, bytes(self.grid.length(block))
        for at, block in enumerate(batch.blocks.tolist()):
            if batch.verdicts is None or batch.verdicts[at] != Verdict.SKIP:
                assert batch.raw is not None
                start = at * self.grid.block_bytes
                yield block, batch.raw[start : start + self.grid.length(block)].tobytes()

    def block(self, number: int) -> bytes:
        return bytes(self.disk.content[number * BLOCK : number * BLOCK + self.grid.length(number)])

    def digests(self, blocks: int | None = None) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
        """What the disk's blocks are now."""
        scanner = Scanner(KEY, block_bytes=self.grid.block_bytes, disk_bytes=self.grid.disk_bytes)
        raw = bytes(self.disk.content).ljust(self.grid.blocks * self.grid.block_bytes, b"\0")
        digests, _ = scanner.scan(np.arange(self.grid.blocks, dtype=np.int64), raw)
        return digests

    def compare(self, todo: Extents, digests: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> dict[int, bytes]:
        scanner = Scanner(KEY, block_bytes=self.grid.block_bytes, disk_bytes=self.grid.disk_bytes)
        windows: list[DigestWindow] = [
            (first, digests[first : first + count]) for first, count in digest_windows(todo, self.grid)
        ]
        return self.collect(self.reader.compared(todo, scanner, windows))


def of_blocks(grid: Grid, blocks: set[int]) -> Extents:
    return ex.from_pairs((block * grid.block_bytes, grid.length(block)) for block in blocks)


grids = st.builds(
    lambda blocks, tail, size: Grid((blocks - 1) * size + tail * 512, size),
    st.integers(1, 300), st.integers(1, 8), st.sampled_from([4096, 1 << 20]),
)  # fmt: skip


@st.composite
def grid_and_blocks(draw: st.DrawFn) -> tuple[Grid, set[int]]:
    grid = draw(grids)
    return grid, draw(st.sets(st.integers(0, grid.blocks - 1), max_size=60))


class TestNumbers:
    @given(grid_and_blocks())
    def test_blocks_of(self, case: tuple[Grid, set[int]]) -> None:
        grid, blocks = case
        found = blocks_of(of_blocks(grid, blocks), grid)
        assert found.tolist() == sorted(blocks)

    @given(grid_and_blocks())
    def test_batches_of(self, case: tuple[Grid, set[int]]) -> None:
        grid, blocks = case
        size = BATCH_BYTES // grid.block_bytes
        batches = [batch.tolist() for batch in batches_of(of_blocks(grid, blocks), grid)]
        assert [block for batch in batches for block in batch] == sorted(blocks)
        assert all(len(batch) == size for batch in batches[:-1])
        assert all(0 < len(batch) <= size for batch in batches)

    @given(st.lists(st.integers(0, 50), unique=True).map(sorted))
    def test_neighbours(self, blocks: list[int]) -> None:
        runs = neighbours(np.array(blocks, dtype=np.int64))
        assert [b for at, count in runs for b in range(blocks[at], blocks[at] + count)] == blocks
        assert all(blocks[at] - blocks[at - 1] > 1 for at, _ in runs[1:])  # as few as can be

    @given(grid_and_blocks(), st.integers(1, 40))
    def test_digest_windows(self, case: tuple[Grid, set[int]], window: int) -> None:
        grid, blocks = case
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reading, "WINDOW_BLOCKS", window)
            windows = digest_windows(of_blocks(grid, blocks), grid)
        wanted = sorted({block // window * window for block in blocks})
        assert windows == [(first, min(window, grid.blocks - first)) for first in wanted]

    @pytest.mark.parametrize("count", [0, 1, ZERO_RUNS, ZERO_RUNS + 1, 3 * ZERO_RUNS])
    def test_zero_batches(self, count: int) -> None:
        runs = np.array([(at * 3 * BLOCK, BLOCK) for at in range(count)], dtype=np.int64).reshape(-1, 2)
        batches = list(zero_batches(runs))
        assert all(batch.raw is None and not len(batch.blocks) for batch in batches)
        parts = [batch.zero_runs for batch in batches if batch.zero_runs is not None]
        assert all(0 < len(part) <= ZERO_RUNS for part in parts)
        assert np.concatenate([runs[:0], *parts]).tolist() == runs.tolist()

    @pytest.mark.parametrize("block_bytes", [4096, 65536])
    def test_scattered_blocks_stay_cheap(self, block_bytes: int) -> None:
        """A million changes of a block each: what a busy database leaves."""
        count = 1_000_000
        starts = np.arange(count, dtype=np.int64) * 3 * block_bytes
        scattered = np.stack([starts, np.full(count, block_bytes)], axis=1)
        began = time.process_time()
        batches = list(batches_of(scattered, Grid(count * 3 * block_bytes, block_bytes)))
        assert time.process_time() - began < 2
        assert sum(map(len, batches)) == count

    def test_a_huge_run_is_not_spelled_out_at_once(self) -> None:
        grid = Grid(1 << 46, 4096)
        first = next(batches_of(ex.whole(grid.disk_bytes), grid))
        assert first.tolist() == list(range(1024))


class TestChanged:
    @given(st.integers(1, 40), st.integers(1, 8), st.data())
    def test_every_changed_block_once(self, blocks: int, tail: int, data: st.DataObject) -> None:
        bench = Bench(np.random.default_rng(blocks).bytes((blocks - 1) * BLOCK + tail * 512))
        changed = data.draw(st.sets(st.integers(0, blocks - 1)))
        todo = of_blocks(bench.grid, changed)
        assert bench.collect(bench.reader.changed(todo)) == {block: bench.block(block) for block in changed}
        assert ex.from_pairs(bench.disk.reads).tolist() == todo.tolist()
        assert bench.stats.read_bytes == bench.stats.to_read_bytes == ex.total_bytes(todo)

    def test_neighbours_are_read_with_one_call(self) -> None:
        bench = Bench(bytes(20 * BLOCK + 512))
        bench.collect(bench.reader.changed(of_blocks(bench.grid, {1, 2, 3, 7, 19, 20})))
        assert bench.disk.reads == [(BLOCK, 3 * BLOCK), (7 * BLOCK, BLOCK), (19 * BLOCK, BLOCK + 512)]

    def test_a_try_adds_to_what_earlier_ones_have_read(self) -> None:
        bench = Bench(bytes(4 * BLOCK))
        bench.collect(bench.reader.changed(of_blocks(bench.grid, {0, 1, 2})))
        bench.collect(bench.reader.changed(of_blocks(bench.grid, {2, 3})))
        assert (bench.stats.read_bytes, bench.stats.to_read_bytes) == (5 * BLOCK, 5 * BLOCK)

    def test_an_error_of_the_disk_passes(self) -> None:
        bench = Bench(bytes(4 * BLOCK))
        error = SourceReadFailed(path="a", offset=0, length=1, problem="p")

        def fail(*_: object) -> None:
            raise error

        bench.disk.read_into = fail  # type: ignore[method-assign,assignment]
        with pytest.raises(SourceReadFailed) as caught:
            bench.collect(bench.reader.changed(ex.whole(4 * BLOCK)))
        assert caught.value is error


HOLES = ex.from_pairs([(5 * BLOCK + 100, BLOCK), (15 * BLOCK, 2 * BLOCK), (20 * BLOCK + 500, 12)])
"""Where the disk below has data: in blocks 5, 6, 15, 16 and the short last one, 20."""
HELD = {5, 6, 15, 16, 20}


def holed() -> Bench:
    content = bytearray(20 * BLOCK + 512)
    for offset, length in HOLES.tolist():
        content[offset : offset + length] = b"x" * length
    return Bench(bytes(content), HOLES)


class TestSeeded:
    def test_holes_go_as_runs_of_zeros(self) -> None:
        bench = holed()
        batches = list(bench.reader.seeded(ex.whole(bench.grid.disk_bytes)))
        runs = batches[0].zero_runs
        assert runs is not None
        assert runs.tolist() == [[0, 5 * BLOCK], [7 * BLOCK, 8 * BLOCK], [17 * BLOCK, 3 * BLOCK]]
        assert [batch.blocks.tolist() for batch in batches[1:]] == [sorted(HELD)]

    def test_covers_the_disk_once(self) -> None:
        bench = holed()
        sent = bench.collect(bench.reader.seeded(ex.whole(bench.grid.disk_bytes)))
        assert sent == {block: bench.block(block) for block in range(21)}
        assert {offset // BLOCK for offset, _ in bench.disk.reads} <= HELD
        assert bench.stats.read_bytes == 4 * BLOCK + 512

    def test_only_what_is_asked_for(self) -> None:
        bench = holed()
        sent = bench.collect(bench.reader.seeded(of_blocks(bench.grid, {4, 5, 19})))
        assert sent == {block: bench.block(block) for block in (4, 5, 19)}


class TestCompared:
    @given(st.data())
    def test_what_differs_and_nothing_else(self, data: st.DataObject) -> None:
        bench = holed()
        held = bench.digests()
        different = data.draw(st.sets(st.integers(0, 20)))
        for block in different:
            bench.disk.content[block * BLOCK] ^= 1
        bench.disk.data = ex.union(HOLES, of_blocks(bench.grid, different))
        todo = of_blocks(bench.grid, data.draw(st.sets(st.integers(0, 20))))
        window = data.draw(st.integers(1, 22))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reading, "WINDOW_BLOCKS", window)
            sent = bench.compare(todo, held)
        assert set(sent) == different & set(blocks_of(todo, bench.grid).tolist())
        assert sent == {block: bench.block(block) for block in sent}

    def test_a_hole_where_the_shadow_has_data_goes_as_zeros_without_reading(self) -> None:
        bench = holed()
        held = bench.digests()
        bench.disk.data = ex.from_pairs([(15 * BLOCK, BLOCK)])
        bench.disk.content[5 * BLOCK : 15 * BLOCK] = bytes(10 * BLOCK)
        bench.disk.content[16 * BLOCK :] = bytes(4 * BLOCK + 512)
        sent = bench.compare(ex.whole(bench.grid.disk_bytes), held)
        assert sent == {block: bench.block(block) for block in HELD - {15}}
        assert bench.disk.reads == [(15 * BLOCK, BLOCK)]

    def test_an_unknown_block_differs_from_everything(self) -> None:
        bench = holed()
        held = bench.digests()
        held[[0, 5, 20]] = 0xFF
        assert set(bench.compare(ex.whole(bench.grid.disk_bytes), held)) == {0, 5, 20}

    def test_digests_that_were_made_are_handed_on(self) -> None:
        """So that the sealer need not make them again."""
        bench = holed()
        held = bench.digests()
        held[5] ^= 1
        bench.disk.content[15 * BLOCK : 16 * BLOCK] = bytes(BLOCK)
        scanner = Scanner(KEY, block_bytes=BLOCK, disk_bytes=bench.grid.disk_bytes)
        (batch,) = bench.reader.compared(ex.whole(bench.grid.disk_bytes), scanner, [(0, held)])
        assert batch.verdicts is not None
        assert batch.digests is not None
        assert batch.blocks.tolist() == [5, 6, 15, 16, 20]
        assert batch.verdicts.tolist() == [Verdict.DATA, Verdict.SKIP, Verdict.ZERO, Verdict.SKIP, Verdict.SKIP]
        assert batch.digests.tolist() == bench.digests()[batch.blocks].tolist()

    def test_all_equal_yields_nothing_and_keeps_no_buffer(self) -> None:
        bench = holed()
        assert bench.compare(ex.whole(bench.grid.disk_bytes), bench.digests()) == {}
        assert bench.stats.read_bytes == bench.stats.to_read_bytes == 4 * BLOCK + 512

    def test_more_than_one_window(self) -> None:
        """Of the real size, on a disk that is all holes but for its end."""
        blocks = 2 * WINDOW_BLOCKS + 5
        content = np.zeros(blocks * BLOCK, dtype=np.uint8)
        bench = Bench(bytes(4096))
        bench.grid = bench.reader.grid = Grid(blocks * BLOCK, BLOCK)
        bench.disk.content = bytearray(content)
        bench.disk.data = ex.from_pairs([((blocks - 1) * BLOCK, BLOCK)])
        held = np.zeros((blocks, 16), dtype=np.uint8)
        held[[WINDOW_BLOCKS - 1, WINDOW_BLOCKS, blocks - 1]] = 7
        assert set(bench.compare(ex.whole(blocks * BLOCK), held)) == {WINDOW_BLOCKS - 1, WINDOW_BLOCKS, blocks - 1}
