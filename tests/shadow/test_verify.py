"""Verification finds exactly the blocks that differ: in data, in zeros, in holes, in the short last block."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dmcore.blocks import extents as ex
from dmcore.blocks.grid import Grid
from dmcore.model.ids import point_id
from dmcore.model.phase import Phase
from dmcore.seal.derive import digest_key
from dmcore.shadow import verify
from dmcore.shadow.errors import PointNotVerifiable, StateUnreadable
from dmcore.shadow.group import GroupShadow
from dmcore.shadow.verify import Verifier
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
    coverage_of,
    cycle_id,
    run_cycle,
    send_disk,
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


def test_only_the_newest_point_can_be_verified(committed: Committed) -> None:
    lab, shadow, disk = committed.lab, committed.shadow, committed.disk
    older = committed.point
    changed = disk.change(2)
    cycle = lab.plan(shadow, 2, {DISK_A: disk})
    shadow.begin(cycle)
    send_disk(shadow, cycle, DISK_A, disk, changed)
    for digest_map in shadow.maps_of(older).values():  # a cycle that is received has changed nothing yet
        digest_map.close()
    shadow.commit(cycle.id, cycle.epoch, {DISK_A: coverage_of(disk, changed)})
    with pytest.raises(PointNotVerifiable, match=str(older.id)):
        shadow.maps_of(older)
    while shadow.advance(lambda _: None) is not None:
        pass
    with pytest.raises(PointNotVerifiable):
        shadow.maps_of(older)
    committed.point = shadow.catalogue.get(point_id(cycle_id(2), GROUP))
    assert committed.damaged(committed.image()) == []


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
