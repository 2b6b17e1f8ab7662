"""The demo's disk: changed on a clone, the difference found and written; programs of the machine that fail are told."""

from pathlib import Path

import numpy as np
import pytest

from dmcore.lab import filesystem as fs
from dmcore.lab.errors import ToolFailed, ToolMissing
from dmcore.sources.tracking import start_tracking


def disk(path: Path, seed: int = 1, size: int = 3 << 20) -> Path:
    path.write_bytes(np.random.default_rng(seed).bytes(size))
    return path


def test_what_differs_is_written_and_nothing_else(tmp_path: Path) -> None:
    before, after = disk(tmp_path / "disk.img"), tmp_path / "clone.img"
    fs.copy_disk(before, after)
    start_tracking(before)
    with after.open("r+b") as file:
        for offset, length in ((0, 1), (4095, 2), (1 << 20, 9000), ((3 << 20) - 1, 1)):
            file.seek(offset)
            file.write(bytes(length))
    written = fs.write_differences(after, before)
    assert before.read_bytes() == after.read_bytes()
    assert written == (2 + 3 + 1) * 4096


def test_a_copy_has_the_same_bytes_and_is_made_once(tmp_path: Path) -> None:
    source = disk(tmp_path / "disk.img")
    fs.copy_disk(source, tmp_path / "copy.img")
    assert (tmp_path / "copy.img").read_bytes() == source.read_bytes()
    with pytest.raises(FileExistsError):
        fs.copy_disk(source, tmp_path / "copy.img")


def test_blocks_of_a_disk_of_unknown_content_change(tmp_path: Path) -> None:
    path = disk(tmp_path / "disk.img")
    before = path.read_bytes()
    assert not fs.is_ext(path)
    fs.change_blocks(path)
    assert len(path.read_bytes()) == len(before)
    assert path.read_bytes() != before


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ToolMissing, match="apt install e2fsprogs"):
        fs.run_tool("no-such-program", str(tmp_path))


def test_a_program_that_fails(tmp_path: Path) -> None:
    with pytest.raises(ToolFailed, match="e2fsck exited with"):
        fs.check_file_system(disk(tmp_path / "no-file-system.img"))
