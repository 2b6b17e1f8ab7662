"""Real file systems for tests: made in a file, mounted from a loop device, one per test process.

A folder of tests that uses a fixture imports it in its conftest.py.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

XFS_BYTES = 320 << 20
"""Hardly more than mkfs.xfs accepts (300 MiB). Sparse: what it takes is what the tests write."""
NEEDED = ("mkfs.xfs", "mount", "umount")


def why_not() -> str:
    """What keeps this machine from mounting file systems; empty if nothing does."""
    if os.geteuid():
        return "needs root to mount a loop device"
    if missing := [tool for tool in NEEDED if not shutil.which(tool)]:
        return f"needs {', '.join(missing)} (apt install xfsprogs mount)"
    if not Path("/dev/loop-control").exists():
        return "needs loop devices"
    return ""


@contextmanager
def mounted(what: str, options: list[str], at: Path) -> Iterator[Path]:
    """Mount, and unmount even if a test left a file open."""
    at.mkdir()
    done = subprocess.run(["mount", *options, what, str(at)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"NOT RUN: cannot mount here: {done.stderr.strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True, capture_output=True)


@pytest.fixture(scope="session")
def xfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An XFS with reflinks. Skips, and says why, where it cannot be had."""
    if reason := why_not():
        pytest.skip(f"NOT RUN on XFS with reflinks: {reason}")
    base = tmp_path_factory.mktemp("xfs")
    image = base / "xfs.img"
    with image.open("wb") as file:
        file.truncate(XFS_BYTES)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", str(image)], check=True, capture_output=True)
    with mounted(str(image), ["-o", "loop"], base / "mnt") as at:
        yield at


@pytest.fixture
def small_file_system(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, to fill."""
    if os.geteuid():
        pytest.skip("NOT RUN on a full file system: needs root to mount a tmpfs")
    with mounted("tmpfs", ["-t", "tmpfs", "-o", "size=1m"], tmp_path / "small") as at:
        yield at
