import os
from pathlib import Path

import pytest

from dmcore.host.errors import FileBroken, FileExposed
from dmcore.host.files import create_file, make_dir, read_private, read_state, remove_scratch, replace_file
from dmcore.host.lock import LOCK_FILE, StateLock


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


class Killed(BaseException):
    """The process ends here."""


def half_made(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is left of a file whose maker was killed."""

    def die(handle: int) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", die)
        with pytest.raises(Killed):
            replace_file(path, b"new")
    (left,) = path.parent.glob(".*")
    return left


def test_what_a_killed_process_left_goes_with_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = make_dir(tmp_path / "state")
    replace_file(make_dir(state / "leases") / "f", b"old")
    half_made(state / "leases" / "f", monkeypatch)
    with StateLock(state):
        assert names(state / "leases") == ["f"]
        assert names(state) == ["leases", LOCK_FILE]


def test_what_a_living_process_makes_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = half_made(tmp_path / "f", monkeypatch)
    others = left.rename(left.with_name(left.name.replace(f".{os.getpid()}-", f".{os.getppid()}-")))
    remove_scratch(tmp_path)
    assert names(tmp_path) == [others.name]


def test_what_ends_up_under_its_name_meanwhile_is_no_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = half_made(tmp_path / "f", monkeypatch)
    monkeypatch.setattr(os, "walk", lambda _: [(str(tmp_path), [], [left.name])])
    left.unlink()
    remove_scratch(tmp_path)
    assert names(tmp_path) == []


def test_what_only_looks_like_it_stays(tmp_path: Path) -> None:
    for name in (".f", "f.1-0123456789abcdef", ".f.1-0123", ".dmcore-lock"):
        (tmp_path / name).touch()
    before = names(tmp_path)
    remove_scratch(tmp_path)
    assert names(tmp_path) == before
