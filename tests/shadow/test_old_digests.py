"""What a cycle overwrites of a map is kept once, synced before the map is written, whatever crash comes between."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmcore.blocks.grid import Grid
from dmcore.shadow import old_digests
from dmcore.shadow.digestmap import DigestMap
from dmcore.shadow.old_digests import HEADER_BYTES, OldDigests, file_of, forget, numbers, records
from dmcore.shadow.storage import Storage
from tests.shadow.faults import PowerCut, SteppedStorage, Trigger, cut

BLOCK = 4096
GRID = Grid(40 * BLOCK - 100, BLOCK)
Rows = np.ndarray[tuple[int, int], np.dtype[np.int64]]


def rows(*blocks: tuple[int, int]) -> Rows:
    """Rows as redo has them: offset, length, place."""
    found = [(first * BLOCK, min(count * BLOCK, GRID.disk_bytes - first * BLOCK), 0) for first, count in blocks]
    return np.array(found, dtype=np.int64).reshape(-1, 3)


def digest(block: int) -> bytes:
    return bytes([block + 1]) * 16


@pytest.fixture
def digest_map(tmp_path: Path) -> DigestMap:
    DigestMap.create(Storage(), tmp_path / "a.map", GRID)
    with (tmp_path / "a.map").open("r+b") as file:
        file.write(b"".join(map(digest, range(GRID.blocks))))
    return DigestMap(Storage(), tmp_path / "a.map", GRID)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return file_of(tmp_path / "old", 7)


def kept(path: Path) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for runs, digests in records(Storage(), path):
        blocks = [block for first, count in runs.tolist() for block in range(first, first + count)]
        for block, each in zip(blocks, digests, strict=True):
            assert block not in found
            found[block] = each.tobytes()
    return found


def test_a_block_is_kept_once_as_the_cycle_found_it(digest_map: DigestMap, path: Path) -> None:
    old = OldDigests(Storage(), path, digest_map)
    old.keep([rows((3, 1), (5, 2)), rows((39, 1))])
    digest_map.set_unknown(3 * BLOCK, BLOCK)
    old.keep([rows((2, 3))])
    old.close()
    again = OldDigests(Storage(), path, digest_map)
    digest_map.set_unknown(0, GRID.disk_bytes)
    again.keep([rows((0, 7))])
    again.close()
    again.close()
    expected = {block: digest(block) for block in (2, 3, 4, 5, 6, 39)}
    assert kept(path) == expected | {0: b"\xff" * 16, 1: b"\xff" * 16}
    digest_map.close()


@given(st.lists(st.lists(st.tuples(st.integers(0, 39), st.integers(1, 5)), max_size=4), max_size=6))
def test_any_rounds_against_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[list[tuple[int, int]]]
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("old")
    DigestMap.create(Storage(), folder / "a.map", GRID)
    digest_map = DigestMap(Storage(), folder / "a.map", GRID)
    expected: dict[int, bytes] = {}
    for each in rounds:
        runs = [(first, min(count, 40 - first)) for first, count in each]
        blocks = {block for first, count in runs for block in range(first, first + count)}
        expected = dict.fromkeys(blocks, bytes(16)) | expected
        old = OldDigests(Storage(), file_of(folder, 1), digest_map)
        old.keep([rows(*runs)])
        old.close()
        for block in blocks:
            digest_map.set_unknown(block * BLOCK, 1)
    assert kept(file_of(folder, 1)) == expected
    digest_map.close()


def test_a_large_run_is_kept_in_parts(digest_map: DigestMap, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(old_digests, "WINDOW_BLOCKS", 7)
    old = OldDigests(Storage(), path, digest_map)
    old.keep([rows((0, 40))])
    old.close()
    assert len(list(records(Storage(), path))) >= 6
    assert kept(path) == {block: digest(block) for block in range(40)}
    digest_map.close()


def test_a_torn_tail_was_never_relied_on(digest_map: DigestMap, path: Path) -> None:
    old = OldDigests(Storage(), path, digest_map)
    old.keep([rows((1, 1))])
    whole = path.stat().st_size
    old.keep([rows((2, 2))])
    old.close()
    content = path.read_bytes()
    for damaged in [content[: whole + 3], content[:-1], content[:whole] + b"\0" * 200, _flipped(content, whole + 9)]:
        path.write_bytes(damaged)
        assert kept(path) == {1: digest(1)}
        again = OldDigests(Storage(), path, digest_map)
        assert path.stat().st_size == whole
        again.keep([rows((1, 3))])
        again.close()
        assert kept(path) == {block: digest(block) for block in (1, 2, 3)}
    digest_map.close()


def _flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("at", range(HEADER_BYTES + 16))
def test_every_byte_of_a_record_counts(digest_map: DigestMap, path: Path, at: int) -> None:
    old = OldDigests(Storage(), path, digest_map)
    old.keep([rows((1, 1))])
    old.close()
    path.write_bytes(_flipped(path.read_bytes(), at))
    assert kept(path) == {}
    digest_map.close()


def test_nothing_is_kept_before_it_is_synced(digest_map: DigestMap, path: Path) -> None:
    """Whoever writes the map waits for `keep` to return: a stop at each of its calls leaves the map as it was."""
    Storage().make_dir(path.parent)
    trigger = Trigger(None, cut)
    storage = SteppedStorage(trigger)
    OldDigests(storage, path, digest_map).keep([rows((4, 2))])
    steps = len(trigger.steps)
    assert trigger.steps[-1] == "fdatasync"
    for at in range(1, steps + 1):
        path.unlink(missing_ok=True)
        stopping = SteppedStorage(Trigger(at, cut))
        with pytest.raises(PowerCut):
            OldDigests(stopping, path, digest_map).keep([rows((4, 2))])
        stopping.cache.end(lambda _: True)
        OldDigests(Storage(), path, digest_map).keep([rows((4, 2))])
        assert kept(path) == {4: digest(4), 5: digest(5)}
    digest_map.close()


def test_what_cannot_be_kept_is_an_error(digest_map: DigestMap, path: Path) -> None:
    def fail(what: str) -> None:
        if what == "fdatasync":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    storage = SteppedStorage(Trigger(1, fail))
    with pytest.raises(OSError, match="Input/output"):
        OldDigests(storage, path, digest_map).keep([rows((4, 2))])
    digest_map.close()


def test_what_no_point_needs_is_forgotten(tmp_path: Path) -> None:
    for number in (3, 4, 9):
        file_of(tmp_path, number).write_bytes(b"")
    assert numbers(Storage(), tmp_path) == [3, 4, 9]
    forget(Storage(), tmp_path, [3, 8])
    assert numbers(Storage(), tmp_path) == [4, 9]
    forget(Storage(), tmp_path, [])
    assert numbers(Storage(), tmp_path) == []
    assert list(records(Storage(), file_of(tmp_path, 3))) == []
