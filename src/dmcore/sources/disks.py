"""Machines as folders, disks as raw files in them: finding them, opening none outside the root."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from dmcore.blocks.constants import SECTOR_BYTES
from dmcore.errors import SourceError
from dmcore.sources.base import DiskInfo, MachineInfo
from dmcore.sources.errors import SourceMissing, SourceUnfit

SUFFIXES = frozenset({".img", ".raw"})


def real_path(path: Path) -> Path:
    """The path without symbolic links; one that loops stays, and cannot be opened."""
    return Path(os.path.realpath(path))


def open_disk(path: Path, *, root: Path | None = None, flags: int = os.O_RDONLY) -> tuple[int, Path]:
    """Open a disk, and give its handle and its path without symbolic links.

    Raises:
        SourceMissing: it is not there.
        SourceUnfit: it lies outside the root, cannot be opened, or is no disk.
    """
    real = real_path(path)
    if root is not None and not real.is_relative_to(real_path(root)):
        raise SourceUnfit(path=str(path), problem=f"a symbolic link leads out of the source's root {root}")
    try:
        # NONBLOCK: opening a pipe must not wait for a writer. It means nothing to files and block devices.
        fd = os.open(real, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise SourceMissing(path=str(path)) from None
    except OSError as error:
        raise SourceUnfit(path=str(path), problem=f"cannot be opened: {error.strerror}") from error
    with close_on_error(fd):
        check_disk(fd, path)
    return fd, real


@contextlib.contextmanager
def close_on_error(fd: int) -> Iterator[None]:
    """Close a handle if what follows fails; else it stays open."""
    try:
        yield
    except BaseException:
        os.close(fd)
        raise


def check_disk(fd: int, path: Path) -> int:
    """The size of what was opened as a disk.

    Raises:
        SourceUnfit: no regular file or block device, empty, or no multiple of a sector.
    """
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        raise SourceUnfit(path=str(path), problem="neither a regular file nor a block device")
    disk_bytes = size_of(fd)
    if not disk_bytes:
        raise SourceUnfit(path=str(path), problem="empty")
    if disk_bytes % SECTOR_BYTES:
        problem = f"{disk_bytes} bytes are no multiple of {SECTOR_BYTES}; this is no raw disk image"
        raise SourceUnfit(path=str(path), problem=problem)
    return disk_bytes


def size_of(fd: int) -> int:
    """The size of a file or block device."""
    return os.lseek(fd, 0, os.SEEK_END)


def list_machines(root: Path) -> list[MachineInfo]:
    """All machines under a root, those that cannot be protected with the reason.

    Raises:
        SourceUnfit: the root cannot be read.
    """
    return [_machine(root, name) for name in _names(root) if (root / name).is_dir()]


def find_machine(root: Path, machine: str) -> MachineInfo:
    """One machine, looked for among those that are there: a name is never made part of a path unseen.

    Raises:
        SourceMissing: there is none of that name.
    """
    if machine not in _names(root) or not (root / machine).is_dir():
        raise SourceMissing(path=str(root / machine))
    return _machine(root, machine)


def find_disk(root: Path, machine: str, disk: str) -> Path:
    """The path of a machine's disk, its symbolic links resolved.

    Raises:
        SourceMissing: there is no such machine or disk.
    """
    if disk not in {found.identity for found in find_machine(root, machine).disks}:
        raise SourceMissing(path=str(root / machine / disk))
    return real_path(root / machine / disk)


def _machine(root: Path, name: str) -> MachineInfo:
    disks: list[DiskInfo] = []
    problems: list[str] = []
    try:
        paths = [root / name / disk for disk in _names(root / name) if Path(disk).suffix in SUFFIXES]
        for path in paths:
            try:
                disks.append(_disk(root, path))
            except SourceError as error:
                problems.append(str(error))
        if not paths:
            problems.append(f"{root / name}: no disks; they are files named *.img or *.raw")
    except SourceUnfit as error:
        problems.append(str(error))
    return MachineInfo(identity=name, label=name, disks=tuple(disks), problem="; ".join(problems))


def _disk(root: Path, path: Path) -> DiskInfo:
    fd, _ = open_disk(path, root=root)
    try:
        return DiskInfo(identity=path.name, label=path.name, disk_bytes=size_of(fd))
    finally:
        os.close(fd)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise SourceUnfit(path=str(folder), problem=f"cannot be listed: {error.strerror}") from error
