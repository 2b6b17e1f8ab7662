"""The durable calls: what is there after each was stopped at any step, and that nothing is left open."""

import errno
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dmcore.shadow.storage import Storage
from tests.shadow.faults import PowerCut, SteppedStorage, Trigger, cut, open_files


def content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def stops(tmp_path: Path, work: Callable[[Storage, Path], object], before: bytes | None = None) -> list[bytes | None]:
    """What the file holds after the work was cut at each step in turn; at last, after all of it."""
    found = []
    for at in itertools.count(1):
        path = tmp_path / f"{at}" / "file"
        path.parent.mkdir()
        if before is not None:
            path.write_bytes(before)
        trigger = Trigger(at, cut)
        files = open_files()
        storage = SteppedStorage(trigger)
        try:
            work(storage, path)
        except PowerCut:
            storage.cache.end(lambda _: True)
            assert open_files() == files
            found.append(content(path))
            continue
        return [*found, content(path)]
    raise AssertionError


def test_replacing_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    found = stops(tmp_path, lambda storage, path: storage.replace(path, b"new"), b"old")
    assert found == [b"old", b"old", b"old", b"new", b"new"]


def test_replacing_something_that_is_not_there(tmp_path: Path) -> None:
    found = stops(tmp_path, lambda storage, path: storage.replace(path, b"new"))
    assert found == [None, None, None, b"new", b"new"]


def test_replacing_forgets_what_an_earlier_try_left(tmp_path: Path) -> None:
    (tmp_path / "file.new").write_bytes(b"longer than what comes")
    Storage().replace(tmp_path / "file", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"new")]


def test_a_sparse_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    found = stops(tmp_path, lambda storage, path: storage.create_sparse(path, 9000), b"old")
    assert found == [b"old", b"old", bytes(9000), bytes(9000)]
    assert (tmp_path / f"{len(found)}" / "file").stat().st_blocks == 0


def test_cutting_a_file(tmp_path: Path) -> None:
    found = stops(tmp_path, lambda storage, path: storage.truncate(path, 3), b"longer")
    assert (found[0], found[-1]) == (b"longer", b"lon")


def test_removing_a_file(tmp_path: Path) -> None:
    found = stops(tmp_path, lambda storage, path: storage.unlink(path), b"old")
    assert (found[0], found[-1]) == (b"old", None)
    Storage().unlink(tmp_path / "none")


def test_removing_a_tree(tmp_path: Path) -> None:
    Storage().make_dir(tmp_path / "a" / "b")
    (tmp_path / "a" / "b" / "file").write_bytes(b"x")
    Storage().remove_tree(tmp_path / "a")
    Storage().remove_tree(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_new_file_is_never_one_that_is_there(tmp_path: Path) -> None:
    os.close(Storage().create(tmp_path / "file"))
    with pytest.raises(FileExistsError):
        Storage().create(tmp_path / "file")


def test_a_new_file_whose_directory_cannot_be_synced_is_not_left_open(tmp_path: Path) -> None:
    def fail(_: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    storage, files = SteppedStorage(Trigger(2, fail)), open_files()
    with pytest.raises(OSError, match="Input/output"):
        storage.create(tmp_path / "file")
    assert open_files() == files


def test_directories_are_made_with_their_parents(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b" / "c"
    Storage().make_dir(folder)
    Storage().make_dir(folder)
    assert folder.is_dir()
    assert folder.stat().st_mode & 0o777 == 0o700


class Synced(Storage):
    """Which directories were synced."""

    def __init__(self) -> None:
        super().__init__()
        self.directories: list[Path] = []

    def sync_dir(self, path: Path) -> None:
        super().sync_dir(path)
        self.directories.append(path)


def test_a_directory_that_a_killed_process_made_is_synced_by_the_next(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    storage = Synced()
    storage.make_dir(tmp_path / "a" / "b")
    assert tmp_path in storage.directories
    assert tmp_path / "a" in storage.directories
    storage.directories.clear()
    storage.make_dir(tmp_path / "a" / "b")
    assert storage.directories == [tmp_path / "a"]


def test_used_bytes_count_what_is_allocated(tmp_path: Path) -> None:
    assert Storage().used_bytes(tmp_path / "none") == 0
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "full").write_bytes(b"x" * 100_000)
    (tmp_path / "hole").touch()
    os.truncate(tmp_path / "hole", 1 << 30)
    Storage().sync_file(tmp_path / "a" / "full")
    assert 100_000 <= Storage().used_bytes(tmp_path) < 1 << 20


def test_files_that_vanish_while_they_are_counted_take_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "walk", lambda path: iter([(str(path), [], ["gone"])]))
    assert Storage().used_bytes(tmp_path) == 0


def test_free_bytes_are_the_file_systems(tmp_path: Path) -> None:
    room = os.statvfs(tmp_path)
    assert 0 < Storage().free_bytes(tmp_path) <= room.f_blocks * room.f_frsize
