"""Verification finds exactly the blocks that differ: in data, in zeros, in holes, in the short last block."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmcore.blocks import extents as ex
from dmcore.blocks.grid import Grid
from dmcore.model.ids import point_id
from dmcore.model.phase import Phase
from dmcore.seal.derive import digest_key
from dmcore.shadow import verify
from dmcore.shadow.errors import StateUnreadable
from dmcore.shadow.group import GroupShadow
from dmcore.shadow.verify import Sample, Verifier
from dmcore.targets.base import Readable
from dmcore.targets.volume import FolderImage
from tests.shadow.faults import open_files
from tests.shadow.group_lab import (
    BLOCK,
    DISK_A,
    DISK_B,
    GROUP,
    KEYS,
    DiskContent,
    GroupLab,
    content,
    run_cycle,
)

SIZE = 40 * BLOCK + 512
GRID = Grid(SIZE, BLOCK)
KEY = digest_key(KEYS.digest_root, DISK_A)


class Committed:
    """A seeded disk: its first half is data, the rest zeros; the last block, short, is data too."""

    def __init__(self, root: Path) -> None:
        self.lab = GroupLab(root)
        self.shadow = self.lab.open()
        self.disk = content(1, SIZE)
        self.disk.data[-512:] = b"\x07" * 512
        cycle = self.lab.plan(self.shadow, 1, {DISK_A: self.disk})
        assert run_cycle(self.shadow, cycle, {DISK_A: (self.disk, ex.whole(SIZE))}) is Phase.RECLAIMED
        self.point = self.shadow.catalogue.get(point_id(cycle.id, GROUP))

    def image(self) -> Readable:
        assert self.lab.target is not None
        return self.lab.target.open_snapshot(self.point.disks[0].snapshot)

    def damaged(self, image: Readable) -> list[list[int]]:
        digest_map = self.shadow.maps_of(self.point)[DISK_A]
        checked: list[int] = []
        try:
            found = Verifier(image, digest_map, KEY).run(checked.append)
        finally:
            image.close()
            digest_map.close()
        assert sum(checked) == SIZE
        extents: list[list[int]] = found.tolist()
        return extents

    def close(self) -> None:
        self.shadow.close()
        self.lab.close()


@pytest.fixture
def committed(tmp_path: Path) -> Iterator[Committed]:
    held = Committed(tmp_path)
    yield held
    held.close()


@pytest.fixture(params=[3, 2048], ids=["small-windows", "one-window"])
def windows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "MAX_BATCH_DATA_BYTES", request.param * BLOCK)


def spoiled(committed: Committed, tmp_path: Path, offsets: list[int]) -> Readable:
    """The snapshot with one byte of each of these offsets changed; holes elsewhere stay holes."""
    path = tmp_path / "spoiled.img"
    with path.open("wb") as file:
        file.truncate(SIZE)
        for block in range(GRID.blocks):
            piece = bytearray(committed.disk.data[block * BLOCK : block * BLOCK + GRID.length(block)])
            for offset in offsets:
                if offset // BLOCK == block:
                    piece[offset % BLOCK] ^= 0x80
            if any(piece):
                os.pwrite(file.fileno(), piece, block * BLOCK)
    return FolderImage(path)


@pytest.mark.usefixtures("windows")
class TestVerifier:
    def test_a_point_is_what_was_committed(self, committed: Committed) -> None:
        assert committed.damaged(committed.image()) == []

    @pytest.mark.parametrize(
        ("offsets", "found"),
        [
            ([0], [[0, BLOCK]]),
            ([5 * BLOCK + 17, 6 * BLOCK - 1], [[5 * BLOCK, BLOCK]]),
            ([2 * BLOCK, 3 * BLOCK, 9 * BLOCK], [[2 * BLOCK, 2 * BLOCK], [9 * BLOCK, BLOCK]]),
            ([30 * BLOCK + 1], [[30 * BLOCK, BLOCK]]),
            ([SIZE - 1], [[40 * BLOCK, 512]]),
        ],
        ids=["first", "one-block-twice", "neighbours", "data-in-a-hole", "short-last"],
    )
    def test_damage_is_found_exactly(
        self, committed: Committed, tmp_path: Path, offsets: list[int], found: list[list[int]]
    ) -> None:
        assert committed.damaged(spoiled(committed, tmp_path, offsets)) == found

    def test_a_hole_where_data_was_is_damage(self, committed: Committed, tmp_path: Path) -> None:
        path = tmp_path / "hole.img"
        path.touch()
        os.truncate(path, SIZE)
        data = [block for block in range(GRID.blocks) if any(committed.disk.data[block * BLOCK : (block + 1) * BLOCK])]
        assert committed.damaged(FolderImage(path)) == ex.from_pairs((b * BLOCK, GRID.length(b)) for b in data).tolist()


@pytest.mark.usefixtures("windows")
class TestSample:
    @pytest.mark.parametrize("percent", [0.001, 2.5, 33.3, 100.0])
    def test_a_sample_finds_damage_in_the_blocks_that_it_has(
        self, committed: Committed, tmp_path: Path, percent: float
    ) -> None:
        sample = Sample(percent, b"job")
        chosen = np.concatenate(list(sample.of(GRID, b"disk")))
        offsets = [5 * BLOCK, 6 * BLOCK, 30 * BLOCK, SIZE - 1]
        damaged = {offset // BLOCK for offset in offsets} & set(chosen.tolist())
        digest_map = committed.shadow.maps_of(committed.point)[DISK_A]
        image = spoiled(committed, tmp_path, offsets)
        checked: list[int] = []
        found = Verifier(image, digest_map, KEY).run(checked.append, sample.of(GRID, b"disk"))
        assert sum(checked) == sum(GRID.length(int(block)) for block in chosen)
        assert {offset // BLOCK for offset, _ in ex.split(found, BLOCK).tolist()} == damaged
        image.close()
        digest_map.close()


@given(st.floats(0.0001, 100), st.integers(1, 400_000), st.binary(min_size=1, max_size=8))
def test_a_sample_is_so_large_all_over_the_disk_and_always_the_same(percent: float, blocks: int, seed: bytes) -> None:
    grid, sample = Grid(blocks * BLOCK, BLOCK), Sample(percent, seed)
    chosen = np.concatenate(list(sample.of(grid, b"disk")))
    wanted = min(math.ceil(blocks * percent / 100), blocks)
    assert len(chosen) == wanted
    assert np.array_equal(np.unique(chosen), chosen)
    assert 0 <= chosen[0] <= chosen[-1] < blocks
    assert np.array_equal(np.concatenate(list(Sample(percent, seed).of(grid, b"disk"))), chosen)
    gaps = np.diff(np.concatenate([[0], chosen, [blocks]]))
    assert gaps.max() <= 2 * blocks / wanted + 2
    assert sample.bytes_of(grid.disk_bytes) >= (wanted - 1) * BLOCK


def test_another_job_or_disk_has_another_sample() -> None:
    grid = Grid(100_000 * BLOCK, BLOCK)
    chosen = [
        np.concatenate(list(Sample(1.0, seed).of(grid, disk)))
        for seed, disk in [(b"a", b"x"), (b"b", b"x"), (b"a", b"y")]
    ]
    assert all(len(np.intersect1d(chosen[0], other)) < 100 for other in chosen[1:])


def test_a_map_that_is_missing_leaves_no_copy_open(lab_of_two: tuple[GroupShadow, Path]) -> None:
    shadow, root = lab_of_two
    (root / "state" / "maps" / f"{DISK_B}.map").unlink()
    files = open_files()
    with pytest.raises(StateUnreadable, match="no digest map"):
        shadow.maps_of(shadow.catalogue.all()[0])
    assert open_files() == files


@pytest.fixture
def lab_of_two(tmp_path: Path) -> Iterator[tuple[GroupShadow, Path]]:
    lab = GroupLab(tmp_path)
    shadow = lab.open()
    disks = {DISK_A: content(1, SIZE), DISK_B: DiskContent(bytearray(np.arange(BLOCK, dtype=np.uint8).tobytes()))}
    cycle = lab.plan(shadow, 1, disks)
    run_cycle(shadow, cycle, {disk: (held, ex.whole(len(held.data))) for disk, held in disks.items()})
    yield shadow, tmp_path
    shadow.close()
    lab.close()
