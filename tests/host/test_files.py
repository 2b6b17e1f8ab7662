import os
from pathlib import Path

import pytest

from dmcore.host.errors import FileBroken, FileExposed
from dmcore.host.files import create_file, make_dir, read_private, read_state, replace_file


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_replaced_as_a_whole(tmp_path: Path) -> None:
    replace_file(tmp_path / "f", b"one", mode=0o644)
    replace_file(tmp_path / "f", b"two")
    assert read_state(tmp_path / "f") == b"two"
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600
    assert names(tmp_path) == ["f"]


def test_synced_before_it_gets_its_name_and_the_name_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[bool, bool]] = []

    def record(handle: int) -> None:
        synced.append((Path(f"/proc/self/fd/{handle}").is_dir(), (tmp_path / "f").exists()))

    monkeypatch.setattr(os, "fsync", record)
    replace_file(tmp_path / "f", b"x")
    assert synced == [(False, False), (True, True)]


def test_failure_leaves_the_old_one_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(handle: int) -> None:
        raise OSError(28, "No space left on device")

    replace_file(tmp_path / "f", b"old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        replace_file(tmp_path / "f", b"new")
    assert read_state(tmp_path / "f") == b"old"
    assert names(tmp_path) == ["f"]


def test_cannot_take_its_name(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    with pytest.raises(IsADirectoryError):
        replace_file(tmp_path / "f", b"x")
    assert names(tmp_path) == ["f"]


def test_made_by_one_only(tmp_path: Path) -> None:
    create_file(tmp_path / "f", b"first")
    with pytest.raises(FileExistsError):
        create_file(tmp_path / "f", b"second")
    assert read_state(tmp_path / "f") == b"first"
    assert names(tmp_path) == ["f"]


def test_private_means_private(tmp_path: Path) -> None:
    replace_file(tmp_path / "key", b"k", mode=0o600)
    assert read_private(tmp_path / "key") == b"k"
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(FileExposed, match=r"0644.*chmod 600"):
        read_private(tmp_path / "key")


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_state(tmp_path / "absent")


def test_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileBroken, match="directory"):
        read_state(tmp_path)


def test_larger_than_any_state(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(FileBroken, match="longer than"):
        read_state(tmp_path / "f")


def test_directories_are_the_owners(tmp_path: Path) -> None:
    assert make_dir(make_dir(tmp_path / "c" / "d")).stat().st_mode & 0o777 == 0o700
