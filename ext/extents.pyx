"""Sets of byte ranges as (n, 2) int64 arrays of (offset, length).

Unless a function says otherwise its inputs may be in any order and may overlap, and its result is sorted,
neighbours merged and empty ranges dropped. Input that already is, is given back as it is: linear, no copy.
"""

from libc.stdint cimport INT64_MAX, int64_t

import numpy as np

from dmcore.native.errors import ExtentsInvalid


cdef const int64_t[:, ::1] view(object extents) except *:
    if not isinstance(extents, np.ndarray) or extents.dtype != np.int64 or extents.shape[1:] != (2,):
        raise ExtentsInvalid(problem="not an int64 array of shape (n, 2)")
    return np.ascontiguousarray(extents)


cdef int tidy(const int64_t[:, ::1] e) except -1 nogil:
    """1 if sorted, merged and without empty ranges; 0 if not. Raises on negative or overflowing numbers."""
    cdef Py_ssize_t i
    cdef int result = 1
    for i in range(e.shape[0]):
        if e[i, 0] < 0 or e[i, 1] < 0 or e[i, 1] > INT64_MAX - e[i, 0]:
            with gil:
                raise ExtentsInvalid(problem=f"extent {i} is ({e[i, 0]}, {e[i, 1]})")
        if e[i, 1] == 0 or (i and e[i, 0] <= e[i - 1, 0] + e[i - 1, 1]):
            result = 0
    return result


cdef Py_ssize_t merge(const int64_t[:, ::1] e, int64_t[:, ::1] out) noexcept nogil:
    """Merge sorted ranges into out, which may be the same memory. Returns how many are left."""
    cdef Py_ssize_t i, n = 0
    cdef int64_t start, end
    for i in range(e.shape[0]):
        start, end = e[i, 0], e[i, 0] + e[i, 1]
        if start == end:
            continue
        if n and start <= out[n - 1, 0] + out[n - 1, 1]:
            out[n - 1, 1] = max(out[n - 1, 1], end - out[n - 1, 0])
        else:
            out[n, 0], out[n, 1] = start, end - start
            n += 1
    return n


def normalize(extents):
    """Sort and merge."""
    cdef const int64_t[:, ::1] e = view(extents)
    if tidy(e):
        return extents
    ordered = np.ascontiguousarray(extents[np.argsort(extents[:, 0], kind="stable")])
    cdef int64_t[:, ::1] o = ordered
    cdef Py_ssize_t n
    with nogil:
        n = merge(o, o)
    return ordered[:n].copy()


def align(extents, block_bytes: int, disk_bytes: int):
    """Widen to whole blocks of the grid, clipped to the disk's end. What lies past the end is dropped."""
    cdef int64_t block = block_bytes, disk = disk_bytes
    if block <= 0 or disk <= 0 or disk > INT64_MAX - block:
        raise ExtentsInvalid(problem=f"a grid of {block_bytes} bytes on a disk of {disk_bytes} bytes")
    tidied = normalize(extents)
    cdef const int64_t[:, ::1] e = view(tidied)
    if aligned(e, block, disk):
        return tidied
    out = np.empty_like(tidied)
    cdef int64_t[:, ::1] o = out
    cdef Py_ssize_t n
    with nogil:
        widen(e, o, block, disk)
        n = merge(o, o)
    return out[:n].copy()


cdef int aligned(const int64_t[:, ::1] e, int64_t block, int64_t disk) noexcept nogil:
    cdef Py_ssize_t i
    cdef int64_t end
    for i in range(e.shape[0]):
        end = e[i, 0] + e[i, 1]
        if e[i, 0] % block or end > disk or (end % block and end != disk):
            return 0
    return 1


cdef void widen(const int64_t[:, ::1] e, int64_t[:, ::1] o, int64_t block, int64_t disk) noexcept nogil:
    cdef Py_ssize_t i
    cdef int64_t start, end
    for i in range(e.shape[0]):
        start = disk if e[i, 0] >= disk else e[i, 0] - e[i, 0] % block
        end = min(e[i, 0] + e[i, 1], disk)
        end = min(end + (block - end % block) % block, disk)
        o[i, 0], o[i, 1] = start, max(end - start, 0)


def union(a, b):
    """What is in either."""
    a, b = normalize(a), normalize(b)
    if not len(a) or not len(b):
        return b if not len(a) else a
    return normalize(np.concatenate((a, b)))


def subtract(a, b):
    """What is in a and not in b."""
    a, b = normalize(a), normalize(b)
    if not len(a) or not len(b):
        return a
    cdef const int64_t[:, ::1] x = view(a)
    cdef const int64_t[:, ::1] y = view(b)
    out = np.empty((x.shape[0] + y.shape[0], 2), dtype=np.int64)
    cdef int64_t[:, ::1] o = out
    cdef Py_ssize_t n
    with nogil:
        n = difference(x, y, o)
    return out[:n].copy()


cdef Py_ssize_t difference(
    const int64_t[:, ::1] x, const int64_t[:, ::1] y, int64_t[:, ::1] o,
) noexcept nogil:
    cdef Py_ssize_t i, j = 0, n = 0
    cdef int64_t at, end
    for i in range(x.shape[0]):
        at, end = x[i, 0], x[i, 0] + x[i, 1]
        while j < y.shape[0] and y[j, 0] + y[j, 1] <= at:
            j += 1
        while j < y.shape[0] and y[j, 0] < end:
            if y[j, 0] > at:
                o[n, 0], o[n, 1] = at, y[j, 0] - at
                n += 1
            at = y[j, 0] + y[j, 1]
            if at >= end:
                break
            j += 1
        if at < end:
            o[n, 0], o[n, 1] = at, end - at
            n += 1
    return n


def intersect(a, b):
    """What is in both."""
    a, b = normalize(a), normalize(b)
    cdef const int64_t[:, ::1] x = view(a)
    cdef const int64_t[:, ::1] y = view(b)
    out = np.empty((x.shape[0] + y.shape[0], 2), dtype=np.int64)
    cdef int64_t[:, ::1] o = out
    cdef Py_ssize_t n
    with nogil:
        n = overlap(x, y, o)
    return out[:n].copy()


cdef Py_ssize_t overlap(const int64_t[:, ::1] x, const int64_t[:, ::1] y, int64_t[:, ::1] o) noexcept nogil:
    cdef Py_ssize_t i = 0, j = 0, n = 0
    cdef int64_t start, end, x_end, y_end
    while i < x.shape[0] and j < y.shape[0]:
        x_end, y_end = x[i, 0] + x[i, 1], y[j, 0] + y[j, 1]
        start, end = max(x[i, 0], y[j, 0]), min(x_end, y_end)
        if start < end:
            o[n, 0], o[n, 1] = start, end - start
            n += 1
        if x_end < y_end:
            i += 1
        else:
            j += 1
    return n


def split(extents, max_bytes: int):
    """Cut into pieces of at most so many bytes. The pieces touch: the result is sorted, but not merged."""
    cdef int64_t most = max_bytes
    if most <= 0:
        raise ExtentsInvalid(problem=f"pieces of {max_bytes} bytes")
    tidied = normalize(extents)
    cdef const int64_t[:, ::1] e = view(tidied)
    cdef Py_ssize_t i, n = 0, pieces = 0
    cdef int64_t at, end
    for i in range(e.shape[0]):
        pieces += (e[i, 1] - 1) // most + 1
    if pieces == e.shape[0]:
        return tidied
    out = np.empty((pieces, 2), dtype=np.int64)
    cdef int64_t[:, ::1] o = out
    with nogil:
        for i in range(e.shape[0]):
            at, end = e[i, 0], e[i, 0] + e[i, 1]
            while at < end:
                o[n, 0], o[n, 1] = at, min(most, end - at)
                at += o[n, 1]
                n += 1
    return out


def total_bytes(extents) -> int:
    """The sum of the lengths, as they stand (no merging)."""
    cdef const int64_t[:, ::1] e = view(extents)
    cdef Py_ssize_t i
    cdef int64_t total = 0
    tidy(e)
    for i in range(e.shape[0]):
        if e[i, 1] > INT64_MAX - total:
            raise ExtentsInvalid(problem="more than 2^63 bytes in all")
        total += e[i, 1]
    return total
