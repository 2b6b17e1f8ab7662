# cython: auto_pickle=False
"""Check, authenticate and open sealed batches (docs/format.md section 8).

`verify` comes before a batch is logged: nothing is kept or returned for a frame before its tag passed.
`open` comes at redo: a frame that does not open is one row's verdict, so that its neighbours can be applied.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset
from codec cimport decompress
from frame cimport (
    DM_CODEC_RAW, DM_DIGEST_BYTES, DM_FINAL_BYTES, DM_FRAME_HEADER_BYTES, DM_SEQ_BATCH_SHIFT, DM_TYPE_DATA,
    DM_TYPE_FINAL, DM_TYPE_OPEN, DM_TYPE_ZERO, Frame, frame_bytes, frame_check, frame_fields, frame_unpack,
)
from gcm cimport block_digest, gcm_begin, gcm_check, gcm_new, gcm_update, is_zero, nonce_of
from libcrypto cimport EVP_CIPHER_CTX, EVP_CIPHER_CTX_free, OPENSSL_cleanse
from libzstd cimport ZSTD_DCtx, ZSTD_createDCtx, ZSTD_freeDCtx

cdef extern from "format.h" nogil:
    int DM_MAX_BATCH_DATA_BYTES
    int DM_MAX_BATCH_FRAMES
    int DM_MAX_BLOCK_BYTES
    int DM_MIN_BLOCK_BYTES

cimport cython
import numpy as np

from dmcore.native.batches import BatchTotals, OpenedBatch, VerifiedBatch
from dmcore.native.errors import FrameRefused, SealFailed, TagMismatch
from dmcore.native.forks import wipe_at_fork

cdef enum:
    OK = 0
    BAD_TAG = 1
    BAD_CODEC = 2
    BAD_DIGEST = 3
    BROKEN = 4          # a library failed, which says nothing about the frame


@cython.final
cdef class Opener:
    """The frame key and digest key of one stream, for reading. One thread at a time; wipe() ends it."""

    cdef EVP_CIPHER_CTX *frames
    cdef EVP_CIPHER_CTX *digests
    cdef ZSTD_DCtx *zstd
    cdef unsigned char *scratch     # one block's decrypted plaintext: digest, then codec output
    cdef Py_ssize_t scratch_bytes
    cdef unsigned char stream_id[32]
    cdef int64_t block_bytes
    cdef int64_t disk_bytes
    cdef bint busy
    cdef bint wiped
    cdef object __weakref__

    def __cinit__(
        self, bytes frame_key not None, bytes stream_id not None, bytes digest_key not None, *,
        int64_t block_bytes, int64_t disk_bytes,
    ):
        if len(frame_key) != 32 or len(digest_key) != 32 or len(stream_id) != 32:
            raise SealFailed(problem="keys and stream id are 32 bytes each")
        if not DM_MIN_BLOCK_BYTES <= block_bytes <= DM_MAX_BLOCK_BYTES or disk_bytes <= 0:
            raise SealFailed(problem=f"blocks of {block_bytes} bytes on a disk of {disk_bytes} bytes")
        self.frames, self.digests = gcm_new(frame_key, 0), gcm_new(digest_key, 1)
        self.zstd = ZSTD_createDCtx()
        self.scratch_bytes = DM_DIGEST_BYTES + block_bytes
        self.scratch = <unsigned char *>malloc(self.scratch_bytes)
        if self.frames is NULL or self.digests is NULL or self.zstd is NULL or self.scratch is NULL:
            raise MemoryError("contexts to open a stream")
        memcpy(self.stream_id, <const unsigned char *>stream_id, 32)
        self.block_bytes, self.disk_bytes = block_bytes, disk_bytes
        wipe_at_fork(self)

    def __dealloc__(self):
        self.release()

    def wipe(self):
        """Free and cleanse keys and scratch; if a call is under way in another thread, at its end."""
        self.wiped = True
        if not self.busy:
            self.release()

    def wipe_forked(self):
        """Free and cleanse the keys at once: in a forked child no other thread can be using them."""
        self.busy = False
        self.wipe()

    cdef void release(self) noexcept:
        if self.frames is not NULL:
            EVP_CIPHER_CTX_free(self.frames)
        if self.digests is not NULL:
            EVP_CIPHER_CTX_free(self.digests)
        if self.zstd is not NULL:
            ZSTD_freeDCtx(self.zstd)
        if self.scratch is not NULL:
            OPENSSL_cleanse(self.scratch, self.scratch_bytes)
            free(self.scratch)
        self.frames = self.digests = NULL
        self.zstd = NULL
        self.scratch = NULL

    def verify(self, int64_t batch, const unsigned char[::1] data not None):
        """Authenticate a batch that must carry this number, without keeping its plaintext.

        Raises:
            FrameRefused: a check of docs/format.md section 8 failed; TagMismatch if it was the tag.
        """
        rows = np.empty((DM_MAX_BATCH_FRAMES, 4), dtype=np.int64)
        cdef unsigned char final[32]
        cdef int64_t[:, ::1] table = rows
        totals = self.layout(batch, data, table)
        cdef Py_ssize_t n = totals.frames
        cdef Py_ssize_t bad
        self.begin(batch)
        with nogil:
            bad = self.verify_tags(data, n, final)
        self.finish()
        if bad >= 0:
            raise TagMismatch(
                problem="the authentication tag is wrong", batch=batch, index=bad, offset=int(rows[bad, 0]))
        covering = n if totals.data_bytes or totals.zero_bytes else 0
        plaintext = <bytes>final[:DM_FINAL_BYTES] if data[3] == DM_TYPE_FINAL else None
        return VerifiedBatch(totals, rows[:covering, :2].copy(), plaintext)

    def open(self, int64_t batch, const unsigned char[::1] data not None, unsigned char[::1] out not None):
        """Open a batch into `out`, DATA one after another in the order of frames.

        `out` needs room for the batch's raw data (at most 8 MiB). A row whose verdict is not OK has zeros at
        its position, which must not be written anywhere. An OPEN or FINAL batch has no rows.

        Raises:
            FrameRefused: the batch's headers are not those of a batch of this number.
        """
        rows = np.empty((DM_MAX_BATCH_FRAMES, 4), dtype=np.int64)
        cdef int64_t[:, ::1] table = rows
        totals = self.layout(batch, data, table)
        cdef Py_ssize_t n = totals.frames if totals.data_bytes or totals.zero_bytes else 0
        if out.shape[0] < totals.data_bytes:
            raise FrameRefused(problem=f"{totals.data_bytes} bytes of data for a smaller buffer", batch=batch)
        digests = np.zeros((n, DM_DIGEST_BYTES), dtype=np.uint8)
        cdef unsigned char[:, ::1] sums = digests
        cdef int broken = 0
        if n:
            self.begin(batch)
            with nogil:
                broken = self.open_all(data, n, out, table, sums)
            self.finish()
        if broken:
            raise SealFailed(problem="libcrypto failed", batch=batch)
        return OpenedBatch(rows[:n].copy(), digests)

    cdef int begin(self, int64_t batch) except -1:
        if self.wiped or self.busy:
            raise SealFailed(problem="the opener is wiped, or in use by another thread", batch=batch)
        self.busy = True
        return 0

    cdef int finish(self) except -1:
        self.busy = False
        if self.wiped:
            self.release()
        return 0

    cdef object layout(self, int64_t batch, const unsigned char[::1] data, int64_t[:, ::1] rows):
        """Every check that needs no key, over the whole batch. Fills rows: offset, length, position, OK."""
        cdef Py_ssize_t at = 0, end = data.shape[0]
        cdef int64_t n = 0, data_bytes = 0, zero_bytes = 0, sealed_bytes = 0
        cdef Frame f
        cdef const char *problem
        while at < end:
            memset(&f, 0, sizeof(f))
            problem = frame_unpack(&data[at], end - at, &f)
            if problem is NULL:
                problem = self.check_caps(&f, n, data_bytes, zero_bytes)
            if problem is NULL:
                problem = frame_check(&f, self.block_bytes, self.disk_bytes)
            if problem is NULL:
                problem = check_turn(&f, batch, n, end)
            if problem is not NULL:
                raise FrameRefused(problem=problem.decode(), batch=batch, index=n, offset=f.offset)
            rows[n, 0], rows[n, 1], rows[n, 3] = f.offset, f.raw_length, OK
            rows[n, 2] = data_bytes if f.type == DM_TYPE_DATA else -1
            if f.type == DM_TYPE_DATA:
                data_bytes += f.raw_length
            elif f.type == DM_TYPE_ZERO:
                zero_bytes += f.raw_length
            sealed_bytes += f.sealed_length
            at += frame_bytes(&f)
            n += 1
        if n == 0:
            raise FrameRefused(problem="an empty batch", batch=batch)
        return BatchTotals(n, data_bytes, zero_bytes, sealed_bytes)

    cdef const char *check_caps(
        self, const Frame *f, int64_t index, int64_t data_bytes, int64_t zero_bytes,
    ) noexcept nogil:
        if index >= DM_MAX_BATCH_FRAMES:
            return "more frames than a batch may hold"
        if f.type == DM_TYPE_DATA and f.raw_length > self.block_bytes:
            return "DATA is larger than a block"
        if f.type == DM_TYPE_DATA and data_bytes + f.raw_length > DM_MAX_BATCH_DATA_BYTES:
            return "more data than a batch may hold"
        if f.raw_length > self.disk_bytes - data_bytes - zero_bytes:
            return "the batch covers more than the disk"
        return NULL

    cdef int start(self, const unsigned char *h, Frame *f) noexcept nogil:
        """Set up decryption of a frame whose header has been checked."""
        cdef unsigned char nonce[12]
        frame_fields(h, f)
        nonce_of(nonce, f.seq)
        return gcm_begin(self.frames, nonce, self.stream_id, 32, h, DM_FRAME_HEADER_BYTES)

    cdef Py_ssize_t verify_tags(
        self, const unsigned char[::1] data, Py_ssize_t n, unsigned char *final,
    ) noexcept nogil:
        """-1, or the index of the first frame whose tag is wrong."""
        cdef Py_ssize_t i
        cdef Frame f
        cdef const unsigned char *h = &data[0]
        for i in range(n):
            if not (
                self.start(h, &f)
                and gcm_update(self.frames, h + DM_FRAME_HEADER_BYTES, <int>f.sealed_length, self.scratch)
                and gcm_check(self.frames, h + DM_FRAME_HEADER_BYTES + f.sealed_length)
            ):
                OPENSSL_cleanse(self.scratch, self.scratch_bytes)
                return i
            if f.type == DM_TYPE_FINAL:
                memcpy(final, self.scratch, DM_FINAL_BYTES)
            h += frame_bytes(&f)
        return -1

    cdef int open_all(
        self, const unsigned char[::1] data, Py_ssize_t n, unsigned char[::1] out, int64_t[:, ::1] rows,
        unsigned char[:, ::1] sums,
    ) noexcept nogil:
        cdef Py_ssize_t i
        cdef Frame f
        cdef const unsigned char *h = &data[0]
        for i in range(n):
            if not self.start(h, &f):
                return 1
            if f.type == DM_TYPE_DATA:
                rows[i, 3] = self.open_data(h + DM_FRAME_HEADER_BYTES, &f, &out[rows[i, 2]], &sums[i, 0])
            elif not gcm_check(self.frames, h + DM_FRAME_HEADER_BYTES):
                rows[i, 3] = BAD_TAG
            if rows[i, 3] == BROKEN:
                return 1
            if rows[i, 3] != OK and f.type == DM_TYPE_DATA:
                OPENSSL_cleanse(&out[rows[i, 2]], f.raw_length)
            h += frame_bytes(&f)
        return 0

    cdef int open_data(
        self, const unsigned char *body, const Frame *f, unsigned char *raw, unsigned char *digest,
    ) noexcept nogil:
        """Decrypt, check the tag, decompress to the exact length, check the digest."""
        cdef int sealed = <int>f.sealed_length, packed = sealed - DM_DIGEST_BYTES
        cdef unsigned char *text = self.scratch + DM_DIGEST_BYTES
        cdef unsigned char made[16]
        cdef int direct = f.codec == DM_CODEC_RAW
        if not (
            gcm_update(self.frames, body, DM_DIGEST_BYTES, self.scratch)
            and gcm_update(self.frames, body + DM_DIGEST_BYTES, packed, raw if direct else text)
        ):
            return BROKEN
        if not gcm_check(self.frames, body + sealed):
            return BAD_TAG
        if not direct and not decompress(f.codec, self.zstd, text, packed, raw, <int>f.raw_length):
            return BAD_CODEC
        if not self.digest_of(f, raw, made):
            return BROKEN
        memcpy(digest, self.scratch, DM_DIGEST_BYTES)
        return OK if memcmp(made, digest, DM_DIGEST_BYTES) == 0 else BAD_DIGEST

    cdef int digest_of(self, const Frame *f, const unsigned char *raw, unsigned char *made) noexcept nogil:
        if is_zero(raw, f.raw_length):
            memset(made, 0, DM_DIGEST_BYTES)
            return 1
        cdef int64_t block = f.offset // self.block_bytes
        return block_digest(self.digests, <uint64_t>block, raw, <int>f.raw_length, made)


cdef const char *check_turn(
    const Frame *f, int64_t batch, int64_t index, Py_ssize_t batch_bytes,
) noexcept nogil:
    if (f.type == DM_TYPE_OPEN) != (batch == 0):
        return "OPEN belongs to batch 0, and nothing else does"
    if (f.type == DM_TYPE_OPEN or f.type == DM_TYPE_FINAL) and (index or frame_bytes(f) != batch_bytes):
        return "OPEN or FINAL beside other frames"
    if f.seq != (<uint64_t>batch << DM_SEQ_BATCH_SHIFT) + <uint64_t>index:
        return "not the expected sequence number"
    return NULL
