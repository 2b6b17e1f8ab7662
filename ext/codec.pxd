# LZ4 blocks and ZSTD frames into caller-owned buffers, with the strictness of docs/format.md section 6.

from liblz4 cimport LZ4_compress_default, LZ4_decompress_safe
from libzstd cimport (
    ZSTD_CCtx, ZSTD_compress2, ZSTD_DCtx, ZSTD_decompressDCtx, ZSTD_findFrameCompressedSize, ZSTD_isError,
)

cdef extern from "format.h" nogil:
    int DM_CODEC_RAW
    int DM_CODEC_LZ4
    int DM_CODEC_ZSTD
    int DM_COMPRESS_GAIN


cdef inline int compressed_limit(int raw) noexcept nogil:
    """The first length that is not worth a codec: a compressed block is shorter than this."""
    return raw - raw // DM_COMPRESS_GAIN


cdef inline int compress(
    int codec, ZSTD_CCtx *zstd, const unsigned char *raw, int length, unsigned char *dst,
) noexcept nogil:
    """Compress a block into dst (room: compressed_limit). Returns the bytes used, or 0: send it raw."""
    cdef size_t used
    cdef int room = compressed_limit(length) - 1
    if room <= 0:
        return 0
    if codec == DM_CODEC_LZ4:
        return LZ4_compress_default(<const char *>raw, <char *>dst, length, room)
    if codec == DM_CODEC_ZSTD:
        used = ZSTD_compress2(zstd, dst, room, raw, length)
        return 0 if ZSTD_isError(used) else <int>used
    return 0


cdef inline int plain_zstd_frame(const unsigned char *src, int length) noexcept nogil:
    """One frame of descriptor byte 0 (no content size, checksum or dictionary), nothing behind it."""
    if length < 6:
        return 0
    if src[0] != 0x28 or src[1] != 0xB5 or src[2] != 0x2F or src[3] != 0xFD or src[4] != 0:
        return 0
    return ZSTD_findFrameCompressedSize(src, length) == <size_t>length


cdef inline int decompress(
    int codec, ZSTD_DCtx *zstd, const unsigned char *src, int length, unsigned char *raw, int raw_length,
) noexcept nogil:
    """Fill raw exactly. Returns 1, or 0 if the input is not one block of exactly that length."""
    if codec == DM_CODEC_LZ4:
        return LZ4_decompress_safe(<const char *>src, <char *>raw, length, raw_length) == raw_length
    if codec == DM_CODEC_ZSTD and plain_zstd_frame(src, length):
        return ZSTD_decompressDCtx(zstd, raw, raw_length, src, length) == <size_t>raw_length
    return 0
