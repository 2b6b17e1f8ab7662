# cython: auto_pickle=False
"""Batches onto a device: the log's append and the shadow's patch, through one small table of C functions.

The table is the seam of the tests: `BlockIO()` makes the system's calls, `BlockIO(handler)` an object's.
"""

from cpython.buffer cimport PyBUF_READ
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.errno cimport EINTR, EINVAL, EIO, ENOSYS, EOPNOTSUPP, errno
from libc.stdint cimport INT64_MAX, int64_t
from posix.types cimport off_t

cimport cython
import os

from dmcore.native.batches import Patched, ZeroMode

cdef extern from "sys/uio.h" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t c_pwritev "pwritev"(int fd, const iovec *iov, int count, off_t offset)

cdef extern from "fcntl.h" nogil:
    int c_fallocate "fallocate"(int fd, int mode, off_t offset, off_t length)
    int FALLOC_FL_KEEP_SIZE
    int FALLOC_FL_PUNCH_HOLE
    int FALLOC_FL_ZERO_RANGE

cdef extern from *:
    """
    static const unsigned char dm_zeros[65536];     /* what is written where a device refuses to punch */
    """
    const unsigned char dm_zeros[65536]

cdef extern from "unistd.h" nogil:
    int c_fdatasync "fdatasync"(int fd)

cdef enum:
    MAX_IOVECS = 256            # neighbours joined into one write; the kernel takes 1,024
    ZEROS_BYTES = 65536
    PUNCH = 0
    RANGE = 1
    WRITE = 2

ctypedef ssize_t (*pwritev_call)(void *, int, const iovec *, int, off_t) noexcept nogil
ctypedef int (*fallocate_call)(void *, int, int, off_t, off_t) noexcept nogil
ctypedef int (*fdatasync_call)(void *, int) noexcept nogil

cdef struct Calls:
    pwritev_call pwritev        # bytes written, or -errno
    fallocate_call fallocate    # 0, or -errno
    fdatasync_call fdatasync    # 0, or -errno


cdef ssize_t system_pwritev(void *call, int fd, const iovec *iov, int count, off_t offset) noexcept nogil:
    cdef ssize_t done = c_pwritev(fd, iov, count, offset)
    return done if done >= 0 else -errno


cdef int system_fallocate(void *call, int fd, int mode, off_t offset, off_t length) noexcept nogil:
    return -errno if c_fallocate(fd, mode, offset, length) else 0


cdef int system_fdatasync(void *call, int fd) noexcept nogil:
    return -errno if c_fdatasync(fd) else 0


@cython.final
cdef class _Call:
    """One call of a BlockIO: its handler, and what that raised. So a BlockIO may be shared by threads."""

    cdef object handler
    cdef object raised

    cdef int failed(self, object error, tuple answered) noexcept:
        """The negative errno that the code above answers itself; anything else is kept for the caller."""
        if isinstance(error, OSError) and error.errno in answered:
            return -error.errno
        self.raised = error
        return -EIO


cdef ssize_t handler_pwritev(void *call, int fd, const iovec *iov, int count, off_t offset) noexcept with gil:
    try:
        views = [
            PyMemoryView_FromMemory(<char *>iov[i].iov_base, iov[i].iov_len, PyBUF_READ) for i in range(count)
        ]
        return (<_Call>call).handler.pwritev(fd, views, offset)
    except BaseException as error:
        return (<_Call>call).failed(error, (EINTR,))


cdef int handler_fallocate(void *call, int fd, int mode, off_t offset, off_t length) noexcept with gil:
    try:
        (<_Call>call).handler.fallocate(fd, mode, offset, length)
    except BaseException as error:
        return (<_Call>call).failed(error, (EINTR, EOPNOTSUPP, ENOSYS, EINVAL))
    return 0


cdef int handler_fdatasync(void *call, int fd) noexcept with gil:
    try:
        (<_Call>call).handler.fdatasync(fd)
    except BaseException as error:
        return (<_Call>call).failed(error, ())
    return 0


@cython.final
cdef class BlockIO:
    """The three calls that make data durable: the system's, or those of a test's handler."""

    cdef Calls calls
    cdef object handler

    def __cinit__(self, handler=None):
        self.handler = handler
        if handler is None:
            self.calls = Calls(system_pwritev, system_fallocate, system_fdatasync)
        else:
            self.calls = Calls(handler_pwritev, handler_fallocate, handler_fdatasync)

    def append(
        self, int fd, const unsigned char[::1] head not None, const unsigned char[::1] body not None,
        off_t offset,
    ):
        """Write head and body at offset with one pwritev, and what a short write left with more.

        Raises:
            OSError: a write failed; how much of it is on disk is unknown.
        """
        cdef iovec parts[2]
        cdef ssize_t done
        cdef _Call call = self.call()
        cdef int first = 0 if head.shape[0] else 1
        if not head.shape[0] and not body.shape[0]:
            raise ValueError("nothing to append")
        parts[0].iov_base, parts[0].iov_len = <void *>&head[0] if head.shape[0] else NULL, head.shape[0]
        parts[1].iov_base, parts[1].iov_len = <void *>&body[0] if body.shape[0] else NULL, body.shape[0]
        with nogil:
            done = self.write_all(<void *>call, fd, parts + first, 2 - first, offset)
        self.check(call, done)

    def sync(self, int fd):
        """fdatasync.

        Raises:
            OSError: the file's earlier writes are lost as far as anyone knows. Never call it again.
        """
        cdef int done
        cdef _Call call = self.call()
        with nogil:
            # Not repeated on any error: after a failed sync the kernel may call lost pages clean.
            done = self.calls.fdatasync(<void *>call, fd)
        self.check(call, done)

    def patch(
        self, int fd, const int64_t[:, ::1] rows not None, const unsigned char[::1] raw not None,
        zero_mode=ZeroMode.PUNCH_HOLE,
    ):
        """Write rows (offset, length, position in raw or -1 for zeros); what touches on disk is one write.

        A fourth column is `Opened`, and must say OK. Zeros go by punching, then ZERO_RANGE, then writing,
        beginning with `zero_mode`. The result names the mode that the device took, to begin with next time.

        Raises:
            ValueError: a row lies outside the disk or the buffer, or did not open. Nothing was written.
            OSError: a call failed; some rows may be on disk.
        """
        cdef Py_ssize_t i, n = rows.shape[0]
        cdef int mode = ZeroMode(zero_mode)
        cdef int64_t counts[3]
        cdef ssize_t done
        cdef _Call call = self.call()
        if n and rows.shape[1] < 3:
            raise ValueError("rows are (offset, length, position)")
        for i in range(n):
            if rows[i, 0] < 0 or rows[i, 1] <= 0 or rows[i, 1] > INT64_MAX - rows[i, 0]:
                raise ValueError(f"row {i} lies outside the disk")
            if rows[i, 2] >= 0 and rows[i, 1] > raw.shape[0] - rows[i, 2]:
                raise ValueError(f"row {i} lies outside the buffer")
            if rows.shape[1] > 3 and rows[i, 3]:
                raise ValueError(f"row {i} did not open")
        counts[0] = counts[1] = counts[2] = 0
        with nogil:
            done = self.run(<void *>call, fd, rows, raw, &mode, counts)
        self.check(call, done)
        return Patched(counts[0], counts[1], counts[2], ZeroMode(mode))

    cdef _Call call(self):
        cdef _Call call = _Call()
        call.handler = self.handler
        return call

    cdef int check(self, _Call call, ssize_t done) except -1:
        if call.raised is not None:
            raise call.raised
        if done < 0:
            raise OSError(-done, os.strerror(-done))
        return 0

    cdef ssize_t write_all(self, void *call, int fd, iovec *parts, int count, off_t offset) noexcept nogil:
        """0 when all is written, or -errno. A write that makes no progress is an error, not a loop."""
        cdef ssize_t done
        while count:
            done = self.calls.pwritev(call, fd, parts, count, offset)
            if done == -EINTR:
                continue
            if done <= 0:
                return done if done < 0 else -EIO
            offset += done
            while count and done >= <ssize_t>parts.iov_len:
                done -= parts.iov_len
                parts += 1
                count -= 1
            if count and done:
                parts.iov_base = <char *>parts.iov_base + done
                parts.iov_len -= done
        return 0

    cdef ssize_t run(
        self, void *call, int fd, const int64_t[:, ::1] rows, const unsigned char[::1] raw, int *mode,
        int64_t *counts,
    ) noexcept nogil:
        cdef Py_ssize_t i = 0, n = rows.shape[0]
        cdef ssize_t done
        while i < n:
            if rows[i, 2] < 0:
                done = self.zero(call, fd, rows[i, 0], rows[i, 1], mode)
                counts[1] += rows[i, 1]
                i += 1
            else:
                done = self.write_neighbours(call, fd, rows, raw, &i, counts)
            counts[2] += 1
            if done < 0:
                return done
        return 0

    cdef ssize_t write_neighbours(
        self, void *call, int fd, const int64_t[:, ::1] rows, const unsigned char[::1] raw, Py_ssize_t *at,
        int64_t *counts,
    ) noexcept nogil:
        """Write the data rows from *at on that touch on disk, and move *at behind them."""
        cdef iovec parts[MAX_IOVECS]
        cdef int count = 0
        cdef Py_ssize_t i = at[0]
        cdef int64_t offset = rows[i, 0], end = rows[i, 0]
        while i < rows.shape[0] and rows[i, 2] >= 0 and rows[i, 0] == end:
            if i > at[0] and rows[i, 2] == rows[i - 1, 2] + rows[i - 1, 1]:
                parts[count - 1].iov_len += rows[i, 1]
            elif count == MAX_IOVECS:
                break
            else:
                parts[count].iov_base, parts[count].iov_len = <void *>&raw[rows[i, 2]], rows[i, 1]
                count += 1
            end += rows[i, 1]
            i += 1
        at[0] = i
        counts[0] += end - offset
        return self.write_all(call, fd, parts, count, offset)

    cdef ssize_t zero(self, void *call, int fd, int64_t offset, int64_t length, int *mode) noexcept nogil:
        """One run of zeros, down the ladder. EINVAL (a run off the device's sectors) is not remembered."""
        cdef int done
        cdef int flags
        cdef int trying = mode[0]
        while trying < WRITE:
            flags = FALLOC_FL_PUNCH_HOLE if trying == PUNCH else FALLOC_FL_ZERO_RANGE
            done = self.calls.fallocate(call, fd, flags | FALLOC_FL_KEEP_SIZE, offset, length)
            if done == 0:
                return 0
            if done == -EINTR:
                continue
            if done != -EOPNOTSUPP and done != -ENOSYS and done != -EINVAL:
                return done
            if done != -EINVAL and mode[0] == trying:
                mode[0] = trying + 1
            trying += 1
        return self.write_zeros(call, fd, offset, length)

    cdef ssize_t write_zeros(self, void *call, int fd, int64_t offset, int64_t length) noexcept nogil:
        cdef iovec parts[MAX_IOVECS]
        cdef int count
        cdef int64_t piece
        cdef ssize_t done
        while length:
            count, piece = 0, 0
            while length and count < MAX_IOVECS:
                parts[count].iov_base = <void *>dm_zeros
                parts[count].iov_len = min(length, <int64_t>ZEROS_BYTES)
                piece += parts[count].iov_len
                length -= parts[count].iov_len
                count += 1
            done = self.write_all(call, fd, parts, count, offset)
            if done < 0:
                return done
            offset += piece
        return 0
