"""How a source without snapshots knows that nobody wrote a disk while it was read.

A regular file: its inode, size, mtime and ctime, through the open handle and by its name, are the same at
the end as at the start. The kernel's clock for these ticks (up to 10 ms); reading begins a tick after the
start's look, so no write that a read could have missed keeps the old time. A block device: the kernel's
counters of what was written and discarded (its page cache is flushed before each look). What this cannot
see: writes through a memory map that was dirty already, and writes to a device through another that
overlaps it. Such disks need a file system with reflinks, or to be idle.
"""

import os
import stat
from pathlib import Path
from typing import TypeAlias

from dmcore.sources.errors import SourceReadFailed

Fingerprint: TypeAlias = tuple[int, ...]

TICK_S = 0.02
"""Twice the coarsest tick of a kernel (100 Hz)."""


def fingerprint(fd: int, path: Path) -> Fingerprint:
    """What changes when an open disk is written, or another is put in its place.

    Raises:
        SourceReadFailed: it is gone, or its kernel does not say.
    """
    try:
        opened = os.fstat(fd)
        if stat.S_ISBLK(opened.st_mode):
            return _device_writes(fd, opened.st_rdev)
        named = path.stat()
    except OSError as error:
        raise SourceReadFailed(path=str(path), offset=0, length=0, problem=str(error)) from error
    times = (opened.st_mtime_ns, opened.st_ctime_ns)
    return (opened.st_dev, opened.st_ino, opened.st_size, *times, named.st_dev, named.st_ino)


def _device_writes(fd: int, device: int) -> Fingerprint:
    """The kernel's block/stat.rst: sectors written and discarded. Not its count of writes, which a flush may raise."""
    os.fsync(fd)
    counters = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    fields = counters.read_text(encoding="ascii").split()
    return (device, os.lseek(fd, 0, os.SEEK_END), int(fields[6]), int(fields[13]))
