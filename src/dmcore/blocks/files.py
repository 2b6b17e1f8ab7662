"""Disk files: reflinks, sparse copies, holes, full reads, durable names. OSErrors pass as they are."""

import errno
import fcntl
import os
import tempfile
from pathlib import Path

import numpy as np
from typing_extensions import Buffer

from dmcore.blocks import extents as ex
from dmcore.blocks.extents import Extents

FICLONE = 0x40049409
"""_IOW(0x94, 9, int) of linux/fs.h."""
PROBE_BYTES = 4096
COPY_PIECE_BYTES = 64 << 20
"""One copy_file_range call: long enough to cost nothing, short enough to be interrupted by a signal."""

CANNOT_REFLINK = frozenset({errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS, errno.EXDEV, errno.EINVAL})
"""What FICLONE answers where it cannot work at all: another file system, no reflinks, a block device."""


def try_reflink(src_fd: int, dst_fd: int) -> bool:
    """Make dst share all of src's blocks, its size too; False where that cannot be done, dst unchanged.

    Raises:
        OSError: it could have worked, and failed (no space, an I/O error).
    """
    try:
        fcntl.ioctl(dst_fd, FICLONE, src_fd)
    except OSError as error:
        if error.errno in CANNOT_REFLINK:
            return False
        raise
    return True


def can_reflink(directory: Path) -> bool:
    """Whether files in this directory can be reflinked, by trying it on two nameless ones.

    Raises:
        OSError: no file can be made here.
    """
    with tempfile.TemporaryFile(dir=directory) as src, tempfile.TemporaryFile(dir=directory) as dst:
        src.write(bytes(PROBE_BYTES))
        src.flush()
        return try_reflink(src.fileno(), dst.fileno())


def data_extents(fd: int, disk_bytes: int) -> Extents:
    """Where the file has data rather than holes, up to disk_bytes; all of it where that cannot be asked."""
    found: list[tuple[int, int]] = []
    end = 0
    while end < disk_bytes:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
            end = min(os.lseek(fd, start, os.SEEK_HOLE), disk_bytes)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            if error.errno == errno.EINVAL:
                return ex.whole(disk_bytes)
            raise
        if start < end:
            found.append((start, end - start))
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def sparse_copy(src_fd: int, dst_fd: int, disk_bytes: int) -> None:
    """Copy the data of src into the empty dst, of the same file system, leaving holes as holes.

    Raises:
        OSError: copying failed, or src ended before disk_bytes.
    """
    os.ftruncate(dst_fd, disk_bytes)
    for offset, length in data_extents(src_fd, disk_bytes).tolist():
        copy_range(src_fd, dst_fd, offset, length)


def copy_range(src_fd: int, dst_fd: int, offset: int, length: int, *, to: int | None = None) -> None:
    """Copy one range inside a file system, to the same offset unless another is named.

    Raises:
        OSError: copying failed, or src ended inside the range.
    """
    end, shift = offset + length, 0 if to is None else to - offset
    while offset < end:
        piece = min(end - offset, COPY_PIECE_BYTES)
        done = os.copy_file_range(src_fd, dst_fd, piece, offset, offset + shift)
        if not done:
            raise OSError(errno.EIO, f"the file ended at offset {offset} while it was copied")
        offset += done


def read_full(fd: int, offset: int, buffer: Buffer) -> None:
    """Fill the whole buffer from offset.

    Raises:
        EOFError: the file ended first.
        OSError: reading failed.
    """
    left = memoryview(buffer).cast("B")
    while left:
        done = os.preadv(fd, [left], offset)
        if not done:
            raise EOFError(f"the file ended at offset {offset}")
        left = left[done:]
        offset += done


def fsync_dir(path: Path) -> None:
    """Make the names in a directory durable.

    Raises:
        OSError: they may not be.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
