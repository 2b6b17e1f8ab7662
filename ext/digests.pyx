# cython: auto_pickle=False
"""Zero test and digest of every block of a batch."""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset
from gcm cimport block_digest, gcm_new, is_zero
from libcrypto cimport EVP_CIPHER_CTX, EVP_CIPHER_CTX_free

cimport cython
import numpy as np

cdef extern from "format.h" nogil:
    int DM_MAX_BLOCK_BYTES
    int DM_MIN_BLOCK_BYTES

from dmcore.native.errors import ExtentsInvalid, SealFailed
from dmcore.native.forks import wipe_at_fork


@cython.final
cdef class Scanner:
    """Digests of one disk's blocks. One thread at a time; wipe() ends it."""

    cdef EVP_CIPHER_CTX *ctx
    cdef int64_t block_bytes
    cdef int64_t disk_bytes
    cdef bint busy
    cdef bint wiped
    cdef object __weakref__

    def __cinit__(self, bytes digest_key not None, *, int64_t block_bytes, int64_t disk_bytes):
        if len(digest_key) != 32:
            raise SealFailed(problem=f"a digest key of {len(digest_key)} bytes")
        if not DM_MIN_BLOCK_BYTES <= block_bytes <= DM_MAX_BLOCK_BYTES or disk_bytes <= 0:
            raise SealFailed(problem=f"blocks of {block_bytes} bytes on a disk of {disk_bytes} bytes")
        self.ctx = gcm_new(digest_key, 1)
        if self.ctx is NULL:
            raise SealFailed(problem="libcrypto has no AES-256-GCM")
        self.block_bytes, self.disk_bytes = block_bytes, disk_bytes
        wipe_at_fork(self)

    def __dealloc__(self):
        self.release()

    def wipe(self):
        """Free and cleanse the key, at the end of a scan that another thread is in. Later scans fail."""
        self.wiped = True
        if not self.busy:
            self.release()

    def wipe_forked(self):
        """Free and cleanse the key at once: in a forked child no other thread can be using it."""
        self.busy = False
        self.wipe()

    cdef void release(self) noexcept:
        if self.ctx is not NULL:
            EVP_CIPHER_CTX_free(self.ctx)
            self.ctx = NULL

    def scan(self, const int64_t[::1] blocks not None, const unsigned char[::1] raw not None):
        """Digest raw blocks, the i-th of them at `raw[i * block_bytes:]`; the disk's last one may be short.

        Returns:
            (digests (n, 16) uint8, zero (n,) bool). A zero block's digest is 16 zero bytes.
        """
        cdef Py_ssize_t n = blocks.shape[0]
        digests = np.empty((n, 16), dtype=np.uint8)
        zero = np.empty(n, dtype=np.bool_)
        if n == 0:
            return digests, zero
        cdef int64_t last = blocks[n - 1]
        cdef unsigned char[:, ::1] out = digests
        cdef unsigned char[::1] flags = zero.view(np.uint8)
        self.check(blocks, raw.shape[0])
        cdef int done
        if self.wiped or self.busy:
            raise SealFailed(problem="the scanner is wiped, or in use by another thread")
        self.busy = True
        with nogil:
            done = self.run(blocks, raw, out, flags)
        self.busy = False
        if self.wiped:
            self.release()
        if not done:
            raise SealFailed(problem=f"libcrypto failed in a scan up to block {last}")
        return digests, zero

    cdef int check(self, const int64_t[::1] blocks, Py_ssize_t room) except -1:
        cdef Py_ssize_t i, n = blocks.shape[0]
        for i in range(n):
            if blocks[i] < 0 or blocks[i] > (self.disk_bytes - 1) // self.block_bytes:
                raise ExtentsInvalid(problem=f"block {blocks[i]} is outside the disk")
            if i * self.block_bytes + self.length(blocks[i]) > room:
                raise ExtentsInvalid(problem=f"block {blocks[i]} is outside the buffer")
        return 0

    cdef int64_t length(self, int64_t block) noexcept nogil:
        return min(self.block_bytes, self.disk_bytes - block * self.block_bytes)

    cdef int run(
        self, const int64_t[::1] blocks, const unsigned char[::1] raw, unsigned char[:, ::1] out,
        unsigned char[::1] flags,
    ) noexcept nogil:
        cdef Py_ssize_t i, n = blocks.shape[0]
        cdef const unsigned char *at
        for i in range(n):
            at = &raw[i * self.block_bytes]
            flags[i] = is_zero(at, self.length(blocks[i]))
            if flags[i]:
                memset(&out[i, 0], 0, 16)
            elif not block_digest(self.ctx, <uint64_t>blocks[i], at, <int>self.length(blocks[i]), &out[i, 0]):
                return 0
        return 1
