"""The map of any point, from the newest one and what later cycles have overwritten."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmcore.blocks.grid import Grid
from dmcore.shadow.digestmap import DigestMap
from dmcore.shadow.old_digests import OldDigests, file_of
from dmcore.shadow.past_maps import past_map
from dmcore.shadow.storage import Storage
from tests.shadow.faults import open_files

BLOCK = 4096
BLOCKS = 12
GRID = Grid(BLOCKS * BLOCK, BLOCK)
STORAGE = Storage()


def run_cycle(digest_map: DigestMap, folder: Path, number: int, blocks: set[int]) -> None:
    """What redo does of a cycle: the old digests are kept, then the map is written."""
    rows = np.array([(block * BLOCK, BLOCK) for block in sorted(blocks)], dtype=np.int64).reshape(-1, 2)
    old = OldDigests(STORAGE, file_of(folder, number), digest_map)
    old.keep([rows])
    old.close()
    digests = np.full((len(rows), 16), number, dtype=np.uint8)
    if len(rows):
        digest_map.put(np.stack([rows[:, 0] // BLOCK, np.ones(len(rows), dtype=np.int64)], axis=1), digests)


@given(st.lists(st.sets(st.integers(0, BLOCKS - 1)), max_size=6))
def test_every_cycle_s_map_comes_back(tmp_path_factory: pytest.TempPathFactory, cycles: list[set[int]]) -> None:
    folder = tmp_path_factory.mktemp("old")
    DigestMap.create(STORAGE, folder / "a.map", GRID)
    newest = DigestMap(STORAGE, folder / "a.map", GRID)
    expected = {0: newest.read(0, BLOCKS)}
    for number, blocks in enumerate(cycles, start=1):
        run_cycle(newest, folder / "old", number, blocks)
        expected[number] = newest.read(0, BLOCKS)
    for number, digests in expected.items():
        held = past_map(STORAGE, newest, folder / "old", number, GRID, 1)
        assert np.array_equal(held.read(0, BLOCKS), digests)
        held.close()
    assert np.array_equal(newest.read(0, BLOCKS), expected[len(cycles)])
    newest.close()


def test_a_map_that_cannot_be_made_leaves_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    DigestMap.create(STORAGE, tmp_path / "a.map", GRID)
    newest = DigestMap(STORAGE, tmp_path / "a.map", GRID)
    run_cycle(newest, tmp_path / "old", 1, {3})
    before = open_files()

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(DigestMap, "put", fail)
    with pytest.raises(OSError, match="No space"):
        past_map(STORAGE, newest, tmp_path / "old", 0, GRID, 1)
    assert open_files() == before
    newest.close()
