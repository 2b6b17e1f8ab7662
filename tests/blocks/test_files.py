"""Disk files: what the kernel answers, and what it may answer elsewhere."""

import errno
import fcntl
import os
from pathlib import Path
from typing import NoReturn

import pytest

from dmcore.blocks import files
from tests.filesystems import xfs

__all__ = ["xfs"]

MIB = 1 << 20


def failing(code: int) -> object:
    def fail(*_: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """3 MiB: a MiB of data between two holes, and a short tail of data."""
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(3 * MIB)
        file.seek(MIB)
        file.write(b"d" * MIB)
        file.seek(3 * MIB)
        file.write(b"t" * 512)
    return path


def test_data_extents_skip_holes(sparse: Path) -> None:
    with sparse.open("rb") as file:
        assert files.data_extents(file.fileno(), 3 * MIB + 512).tolist() == [[MIB, MIB], [3 * MIB, 512]]
        assert files.data_extents(file.fileno(), MIB + 512).tolist() == [[MIB, 512]]
        assert files.data_extents(file.fileno(), MIB).tolist() == []


def test_data_extents_where_they_cannot_be_asked(sparse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "lseek", failing(errno.EINVAL))
    assert files.data_extents(0, 4096).tolist() == [[0, 4096]]
    monkeypatch.setattr(os, "lseek", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        files.data_extents(0, 4096)


def test_sparse_copy_keeps_holes(sparse: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with sparse.open("rb") as src, copy.open("wb") as dst:
        files.sparse_copy(src.fileno(), dst.fileno(), 3 * MIB + 512)
    assert copy.read_bytes() == sparse.read_bytes()
    assert copy.stat().st_blocks * 512 < 2 * MIB


def test_a_copy_of_a_file_that_shrank(sparse: Path, tmp_path: Path) -> None:
    with sparse.open("rb") as src, (tmp_path / "copy").open("wb") as dst, pytest.raises(OSError, match="ended"):
        files.copy_range(src.fileno(), dst.fileno(), 3 * MIB, 4096)


def test_reflinks_share_blocks(xfs: Path) -> None:
    assert files.can_reflink(xfs)
    src_path, dst_path = xfs / "reflink-src", xfs / "reflink-dst"
    src_path.write_bytes(b"r" * 4096)
    with src_path.open("rb") as src, dst_path.open("wb") as dst:
        assert files.try_reflink(src.fileno(), dst.fileno())
    assert dst_path.read_bytes() == b"r" * 4096


def test_reflinks_across_file_systems_cannot_be(xfs: Path, sparse: Path) -> None:
    with sparse.open("rb") as src, (xfs / "across").open("wb") as dst:
        assert not files.try_reflink(src.fileno(), dst.fileno())
        assert os.fstat(dst.fileno()).st_size == 0


def test_a_reflink_that_failed_is_an_error(sparse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "ioctl", failing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        files.try_reflink(0, 1)
    monkeypatch.setattr(fcntl, "ioctl", failing(errno.EOPNOTSUPP))
    assert not files.try_reflink(0, 1)


def test_read_full_crosses_short_reads(sparse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: real(fd, [views[0][:1000]], at))
    buffer = bytearray(4096)
    with sparse.open("rb") as file:
        files.read_full(file.fileno(), 2 * MIB - 2048, buffer)
    assert bytes(buffer) == b"d" * 2048 + bytes(2048)


def test_read_full_of_a_file_that_ends(sparse: Path) -> None:
    with sparse.open("rb") as file, pytest.raises(EOFError, match=f"at offset {3 * MIB + 512}"):
        files.read_full(file.fileno(), 3 * MIB, bytearray(1024))


def test_fsync_dir_says_when_there_is_none(tmp_path: Path) -> None:
    files.fsync_dir(tmp_path)
    with pytest.raises(FileNotFoundError):
        files.fsync_dir(tmp_path / "none")
