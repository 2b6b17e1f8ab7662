# The 40-byte frame header: packing, and every check that needs no key (docs/format.md sections 5 and 8).

from libc.stdint cimport int64_t, uint32_t, uint64_t
from gcm cimport put_be64

cdef extern from "format.h" nogil:
    int DM_FRAME_MAGIC
    int DM_FRAME_VERSION
    int DM_FRAME_HEADER_BYTES
    int DM_TYPE_OPEN
    int DM_TYPE_DATA
    int DM_TYPE_ZERO
    int DM_TYPE_FINAL
    int DM_CODEC_RAW
    int DM_CODEC_ZSTD
    int DM_TAG_BYTES
    int DM_DIGEST_BYTES
    int DM_FINAL_BYTES
    int DM_COMPRESS_GAIN
    int DM_SEQ_BATCH_SHIFT

cdef struct Frame:
    int type
    int codec
    uint64_t seq
    int64_t offset
    int64_t raw_length
    int64_t sealed_length    # without the tag


cdef inline void put_be32(unsigned char *at, uint32_t value) noexcept nogil:
    cdef int i
    for i in range(4):
        at[i] = <unsigned char>(value >> (24 - 8 * i))


cdef inline uint64_t get_be(const unsigned char *at, int size) noexcept nogil:
    cdef uint64_t value = 0
    cdef int i
    for i in range(size):
        value = (value << 8) | at[i]
    return value


cdef inline void frame_pack(unsigned char *h, const Frame *f) noexcept nogil:
    """magic(2) version(1) type(1) codec(1) flags(1) zero(2) seq(8) offset(8) raw(8) sealed(4) zero(4)"""
    h[0] = <unsigned char>(DM_FRAME_MAGIC >> 8)
    h[1] = <unsigned char>(DM_FRAME_MAGIC & 0xFF)
    h[2] = <unsigned char>DM_FRAME_VERSION
    h[3] = <unsigned char>f.type
    h[4] = <unsigned char>f.codec
    h[5] = h[6] = h[7] = 0
    put_be64(h + 8, f.seq)
    put_be64(h + 16, <uint64_t>f.offset)
    put_be64(h + 24, <uint64_t>f.raw_length)
    put_be32(h + 32, <uint32_t>f.sealed_length)
    put_be32(h + 36, 0)


cdef inline void frame_fields(const unsigned char *h, Frame *f) noexcept nogil:
    f.type, f.codec = h[3], h[4]
    f.seq = get_be(h + 8, 8)
    f.offset = <int64_t>get_be(h + 16, 8)
    f.raw_length = <int64_t>get_be(h + 24, 8)
    f.sealed_length = <int64_t>get_be(h + 32, 4)


cdef inline int64_t frame_bytes(const Frame *f) noexcept nogil:
    """The bytes a frame takes in its batch."""
    return DM_FRAME_HEADER_BYTES + f.sealed_length + DM_TAG_BYTES


cdef inline const char *frame_unpack(const unsigned char *h, Py_ssize_t left, Frame *f) noexcept nogil:
    """Read a frame's header from the bytes left; NULL, or what is wrong with its lengths, enums or flags."""
    if left < DM_FRAME_HEADER_BYTES + DM_TAG_BYTES:
        return "cut short"
    if get_be(h, 2) != <uint64_t>DM_FRAME_MAGIC:
        return "bad magic"
    if h[2] != DM_FRAME_VERSION:
        return "unknown version"
    if h[3] > DM_TYPE_FINAL:
        return "unknown type"
    if h[4] > DM_CODEC_ZSTD:
        return "unknown codec"
    if h[5] or h[6] or h[7] or get_be(h + 36, 4):
        return "flags or reserved bytes are not zero"
    if h[16] & 0x80 or h[24] & 0x80:
        return "offset or length of 2^63 or more"
    frame_fields(h, f)
    if frame_bytes(f) > left:
        return "cut short"
    return NULL


cdef inline const char *check_control(const Frame *f) noexcept nogil:
    if f.codec or f.offset or f.raw_length:
        return "OPEN or FINAL with a codec, an offset or a length"
    if f.sealed_length != (DM_FINAL_BYTES if f.type == DM_TYPE_FINAL else 0):
        return "OPEN or FINAL of a wrong sealed length"
    return NULL


cdef inline const char *check_sealed_length(const Frame *f) noexcept nogil:
    cdef int64_t limit
    if f.type == DM_TYPE_ZERO:
        if f.codec or f.sealed_length:
            return "ZERO with a codec or a payload"
        return NULL
    if f.codec == DM_CODEC_RAW:
        if f.sealed_length != DM_DIGEST_BYTES + f.raw_length:
            return "raw block of a wrong sealed length"
        return NULL
    limit = DM_DIGEST_BYTES + f.raw_length - f.raw_length // DM_COMPRESS_GAIN
    if not DM_DIGEST_BYTES < f.sealed_length < limit:
        return "compressed block of a wrong sealed length"
    return NULL


cdef inline const char *check_place(const Frame *f, int64_t block_bytes, int64_t disk_bytes) noexcept nogil:
    cdef int64_t room
    if f.offset < 0 or f.offset >= disk_bytes or f.offset % block_bytes:
        return "offset is off the grid or outside the disk"
    room = disk_bytes - f.offset
    if f.raw_length <= 0 or f.raw_length > room:
        return "length is zero or reaches outside the disk"
    if f.type == DM_TYPE_DATA and f.raw_length != (block_bytes if room > block_bytes else room):
        return "DATA is not one whole block"
    if f.raw_length % block_bytes and f.raw_length != room:
        return "ZERO does not end on the grid"
    return NULL


cdef inline const char *frame_check(const Frame *f, int64_t block_bytes, int64_t disk_bytes) noexcept nogil:
    """The lengths that belong to its type and codec, then its place on the disk: NULL, or what is wrong."""
    cdef const char *problem
    if f.type == DM_TYPE_OPEN or f.type == DM_TYPE_FINAL:
        return check_control(f)
    problem = check_sealed_length(f)
    if problem is not NULL:
        return problem
    return check_place(f, block_bytes, disk_bytes)
