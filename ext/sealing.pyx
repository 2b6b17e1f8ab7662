# cython: auto_pickle=False
"""Compress and encrypt a batch into a caller-owned buffer (docs/format.md sections 5 to 7).

One Sealer is one stream's key: one thread at a time, a batch number once. No I/O, no module state.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memset
from codec cimport compress
from frame cimport (
    DM_CODEC_RAW, DM_DIGEST_BYTES, DM_FINAL_BYTES, DM_FRAME_HEADER_BYTES, DM_SEQ_BATCH_SHIFT, DM_TAG_BYTES,
    DM_TYPE_DATA, DM_TYPE_FINAL, DM_TYPE_OPEN, DM_TYPE_ZERO, Frame, frame_check, frame_pack,
)
from gcm cimport block_digest, gcm_begin, gcm_new, gcm_tag, gcm_update, is_zero, nonce_of
from libcrypto cimport EVP_CIPHER_CTX, EVP_CIPHER_CTX_free
from libzstd cimport (
    ZSTD_CCtx, ZSTD_CCtx_setParameter, ZSTD_c_checksumFlag, ZSTD_c_compressionLevel, ZSTD_c_contentSizeFlag,
    ZSTD_c_dictIDFlag, ZSTD_createCCtx, ZSTD_freeCCtx, ZSTD_isError,
)

cimport cython

cdef extern from "format.h" nogil:
    int DM_CODEC_ZSTD
    int DM_MAX_BATCH_DATA_BYTES
    int DM_MAX_BATCH_FRAMES
    int DM_MAX_BLOCK_BYTES
    int DM_MIN_BLOCK_BYTES

from dmcore.native.batches import BatchTotals, SealedBatch
from dmcore.native.errors import SealFailed
from dmcore.native.forks import wipe_at_fork

FRAME_OVERHEAD_BYTES = DM_FRAME_HEADER_BYTES + DM_TAG_BYTES

cdef enum:
    SKIP = 0
    DATA = 1
    ZERO = 2


def worst_case_bytes(blocks: int, block_bytes: int, zero_runs: int = 0) -> int:
    """The room that a batch of so many blocks and zero runs needs at most."""
    return blocks * (FRAME_OVERHEAD_BYTES + DM_DIGEST_BYTES + block_bytes) + zero_runs * FRAME_OVERHEAD_BYTES


@cython.final
cdef class Sealer:
    """The frame key and digest key of one stream."""

    cdef EVP_CIPHER_CTX *frames
    cdef EVP_CIPHER_CTX *digests
    cdef ZSTD_CCtx *zstd
    cdef unsigned char stream_id[32]
    cdef int64_t block_bytes
    cdef int64_t disk_bytes
    cdef int codec
    cdef int64_t spent          # the highest batch number that sealing has started on
    cdef bint busy
    cdef bint wiped
    cdef object __weakref__
    # of the batch under way
    cdef unsigned char *out
    cdef Py_ssize_t room
    cdef Py_ssize_t used
    cdef uint64_t seq
    cdef int64_t frame_count
    cdef int64_t data_bytes
    cdef int64_t zero_bytes
    cdef int64_t sealed_bytes

    def __cinit__(
        self, bytes frame_key not None, bytes stream_id not None, bytes digest_key not None, *,
        int64_t block_bytes, int64_t disk_bytes, int codec, int level=1,
    ):
        if len(frame_key) != 32 or len(digest_key) != 32 or len(stream_id) != 32:
            raise SealFailed(problem="keys and stream id are 32 bytes each")
        if codec < 0 or codec > DM_CODEC_ZSTD:
            raise SealFailed(problem=f"unknown codec {codec}")
        if not DM_MIN_BLOCK_BYTES <= block_bytes <= DM_MAX_BLOCK_BYTES or disk_bytes <= 0:
            raise SealFailed(problem=f"blocks of {block_bytes} bytes on a disk of {disk_bytes} bytes")
        self.frames, self.digests = gcm_new(frame_key, 1), gcm_new(digest_key, 1)
        if self.frames is NULL or self.digests is NULL:
            raise SealFailed(problem="libcrypto has no AES-256-GCM")
        memcpy(self.stream_id, <const unsigned char *>stream_id, 32)
        self.block_bytes, self.disk_bytes, self.codec, self.spent = block_bytes, disk_bytes, codec, -1
        if codec == DM_CODEC_ZSTD:
            self.open_zstd(level)
        wipe_at_fork(self)

    def __dealloc__(self):
        self.release()

    def wipe(self):
        """Free and cleanse the keys, at the end of a call that another thread is in. Later calls fail."""
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
            ZSTD_freeCCtx(self.zstd)
        self.frames = self.digests = NULL
        self.zstd = NULL

    cdef int open_zstd(self, int level) except -1:
        self.zstd = ZSTD_createCCtx()
        if self.zstd is NULL:
            raise MemoryError("a ZSTD context")
        for parameter, value in (
            (ZSTD_c_compressionLevel, level), (ZSTD_c_contentSizeFlag, 0), (ZSTD_c_checksumFlag, 0),
            (ZSTD_c_dictIDFlag, 0),
        ):
            if ZSTD_isError(ZSTD_CCtx_setParameter(self.zstd, parameter, value)):
                raise SealFailed(problem=f"ZSTD refuses level {level}")
        return 0

    def seal_control(
        self, int frame_type, int64_t batch, bytes plaintext not None, unsigned char[::1] out not None,
    ):
        """Seal the one frame of an OPEN or FINAL batch. Returns the bytes used of `out`."""
        if frame_type not in (DM_TYPE_OPEN, DM_TYPE_FINAL):
            raise SealFailed(problem=f"frame type {frame_type} is no control frame", batch=batch)
        if len(plaintext) != (DM_FINAL_BYTES if frame_type == DM_TYPE_FINAL else 0):
            raise SealFailed(problem="a control frame of a wrong length", batch=batch)
        if (frame_type == DM_TYPE_OPEN) != (batch == 0):
            raise SealFailed(problem="OPEN is batch 0, and nothing else is", batch=batch)
        if out.shape[0] < DM_FRAME_HEADER_BYTES + len(plaintext) + DM_TAG_BYTES:
            raise SealFailed(problem="the output buffer is too small", batch=batch)
        self.begin(batch, out)
        cdef Frame f = Frame(frame_type, 0, self.seq, 0, 0, len(plaintext))
        cdef const unsigned char *text = plaintext
        cdef int done = self.frame(&f, NULL, text, <int>len(plaintext))
        self.finish()
        if not done:
            raise SealFailed(problem="libcrypto failed", batch=batch)
        return self.used

    def seal(
        self, int64_t batch, const int64_t[::1] blocks not None, const unsigned char[::1] raw not None,
        unsigned char[::1] out not None, *, const unsigned char[::1] verdicts=None,
        const unsigned char[:, ::1] digests=None, const int64_t[:, ::1] zero_runs=None,
    ):
        """Seal raw blocks (the i-th at `raw[i * block_bytes:]`), then the zero runs, into `out`.

        Without verdicts every block is sent: as DATA, or as part of a ZERO run if it is all zeros. Without
        digests they are made in the same pass. Neighbouring zero blocks become one run.

        Raises:
            SealFailed: bad shapes (nothing was spent), or a library failed (the stream must end).
        """
        if batch == 0:
            raise SealFailed(problem="OPEN is batch 0, and nothing else is", batch=batch)
        self.check_batch(blocks, raw.shape[0], out.shape[0], verdicts, digests, zero_runs)
        self.begin(batch, out)
        cdef int done
        with nogil:
            done = self.run(blocks, raw, verdicts, digests)
            if done and zero_runs is not None:
                done = self.zero_runs(zero_runs)
        self.finish()
        if not done or not self.frame_count:
            raise SealFailed(problem="no frames, too many, off the grid, or libcrypto failed", batch=batch)
        totals = BatchTotals(self.frame_count, self.data_bytes, self.zero_bytes, self.sealed_bytes)
        return SealedBatch(self.used, totals)

    cdef int begin(self, int64_t batch, unsigned char[::1] out) except -1:
        if self.wiped or self.busy:
            raise SealFailed(problem="the sealer is wiped, or in use by another thread", batch=batch)
        if batch <= self.spent or batch >= <int64_t>1 << (63 - DM_SEQ_BATCH_SHIFT):
            raise SealFailed(problem="the batch number is spent", batch=batch)
        self.busy, self.spent = True, batch
        self.out, self.room, self.used = &out[0], out.shape[0], 0
        self.seq = <uint64_t>batch << DM_SEQ_BATCH_SHIFT
        self.frame_count = self.data_bytes = self.zero_bytes = self.sealed_bytes = 0
        return 0

    cdef int finish(self) except -1:
        self.busy = False
        if self.wiped:
            self.release()
        return 0

    cdef int check_batch(
        self, const int64_t[::1] blocks, Py_ssize_t raw_room, Py_ssize_t out_room,
        const unsigned char[::1] verdicts, const unsigned char[:, ::1] digests,
        const int64_t[:, ::1] zero_runs,
    ) except -1:
        cdef Py_ssize_t i, n = blocks.shape[0]
        cdef Py_ssize_t runs = 0 if zero_runs is None else zero_runs.shape[0]
        if n + runs == 0:
            raise SealFailed(problem="an empty batch")
        if verdicts is not None and verdicts.shape[0] != n:
            raise SealFailed(problem="as many verdicts as blocks")
        if digests is not None and (digests.shape[0] != n or digests.shape[1] != DM_DIGEST_BYTES):
            raise SealFailed(problem="as many digests as blocks, 16 bytes each")
        if runs and zero_runs.shape[1] != 2:
            raise SealFailed(problem="zero runs are (offset, length)")
        if out_room < worst_case_bytes(n, self.block_bytes, runs):
            raise SealFailed(problem="the output buffer does not hold the worst case")
        for i in range(n):
            if blocks[i] < 0 or blocks[i] > (self.disk_bytes - 1) // self.block_bytes:
                raise SealFailed(problem=f"block {blocks[i]} is outside the disk")
            if i * self.block_bytes + self.length(blocks[i]) > raw_room:
                raise SealFailed(problem=f"block {blocks[i]} is outside the buffer")
            if verdicts is not None and verdicts[i] > ZERO:
                raise SealFailed(problem=f"verdict {verdicts[i]} of block {blocks[i]} is none")
        return 0

    cdef int64_t length(self, int64_t block) noexcept nogil:
        return min(self.block_bytes, self.disk_bytes - block * self.block_bytes)

    cdef int run(
        self, const int64_t[::1] blocks, const unsigned char[::1] raw, const unsigned char[::1] verdicts,
        const unsigned char[:, ::1] digests,
    ) noexcept nogil:
        cdef Py_ssize_t i, n = blocks.shape[0]
        cdef int64_t run_start = 0, run_bytes = 0, length
        cdef const unsigned char *at
        cdef const unsigned char *known = NULL
        cdef int verdict
        for i in range(n):
            at, length = &raw[i * self.block_bytes], self.length(blocks[i])
            if verdicts is None:
                verdict = ZERO if is_zero(at, length) else DATA
            else:
                verdict = verdicts[i]
            if run_bytes and (verdict != ZERO or blocks[i] * self.block_bytes != run_start + run_bytes):
                if not self.zero(run_start, run_bytes):
                    return 0
                run_bytes = 0
            if verdict == ZERO:
                if not run_bytes:
                    run_start = blocks[i] * self.block_bytes
                run_bytes += length
            elif verdict == DATA:
                if digests is not None:
                    known = &digests[i, 0]
                if not self.data(blocks[i], at, <int>length, known):
                    return 0
        return self.zero(run_start, run_bytes) if run_bytes else 1

    cdef int zero_runs(self, const int64_t[:, ::1] runs) noexcept nogil:
        cdef Py_ssize_t i
        for i in range(runs.shape[0]):
            if not self.zero(runs[i, 0], runs[i, 1]):
                return 0
        return 1

    cdef int zero(self, int64_t offset, int64_t length) noexcept nogil:
        cdef Frame f
        f.type, f.codec, f.seq, f.offset, f.raw_length, f.sealed_length = (
            DM_TYPE_ZERO, DM_CODEC_RAW, self.seq, offset, length, 0)
        return self.frame(&f, NULL, NULL, 0)

    cdef int data(
        self, int64_t block, const unsigned char *raw, int length, const unsigned char *known,
    ) noexcept nogil:
        cdef unsigned char made[16]
        cdef Frame f
        cdef int packed
        cdef unsigned char *body = self.out + self.used + DM_FRAME_HEADER_BYTES
        if self.data_bytes + length > DM_MAX_BATCH_DATA_BYTES:
            return 0
        if known is NULL:
            if is_zero(raw, length):
                memset(made, 0, DM_DIGEST_BYTES)
            elif not block_digest(self.digests, <uint64_t>block, raw, length, made):
                return 0
            known = made
        packed = compress(self.codec, self.zstd, raw, length, body + DM_DIGEST_BYTES)
        f.type, f.codec, f.seq, f.offset, f.raw_length, f.sealed_length = (
            DM_TYPE_DATA, self.codec if packed else DM_CODEC_RAW, self.seq, block * self.block_bytes, length,
            DM_DIGEST_BYTES + (packed if packed else length))
        if packed:
            return self.frame(&f, known, body + DM_DIGEST_BYTES, packed)
        return self.frame(&f, known, raw, length)

    cdef int frame(
        self, Frame *f, const unsigned char *digest, const unsigned char *text, int length,
    ) noexcept nogil:
        """Header, encryption of `digest || text` (text may lie in place) and tag at the end of the batch."""
        cdef unsigned char *h = self.out + self.used
        cdef unsigned char *body = h + DM_FRAME_HEADER_BYTES
        cdef unsigned char nonce[12]
        cdef int prefix = DM_DIGEST_BYTES if digest is not NULL else 0
        if self.frame_count >= DM_MAX_BATCH_FRAMES:
            return 0
        if frame_check(f, self.block_bytes, self.disk_bytes) is not NULL:
            return 0
        if f.raw_length > self.disk_bytes - self.data_bytes - self.zero_bytes:
            return 0            # a block twice: no receiver accepts it
        frame_pack(h, f)
        nonce_of(nonce, f.seq)
        if not (
            gcm_begin(self.frames, nonce, self.stream_id, 32, h, DM_FRAME_HEADER_BYTES)
            and gcm_update(self.frames, digest, prefix, body)
            and gcm_update(self.frames, text, length, body + prefix)
            and gcm_tag(self.frames, body + prefix + length)
        ):
            return 0
        self.used += DM_FRAME_HEADER_BYTES + prefix + length + DM_TAG_BYTES
        self.seq += 1
        self.frame_count += 1
        self.sealed_bytes += f.sealed_length
        if f.type == DM_TYPE_ZERO:
            self.zero_bytes += f.raw_length
        else:
            self.data_bytes += f.raw_length
        return 1
