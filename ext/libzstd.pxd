# The stable part of libzstd's interface.

cdef extern from "zstd.h" nogil:
    ctypedef struct ZSTD_CCtx:
        pass
    ctypedef struct ZSTD_DCtx:
        pass
    ctypedef enum ZSTD_cParameter:
        ZSTD_c_compressionLevel
        ZSTD_c_contentSizeFlag
        ZSTD_c_checksumFlag
        ZSTD_c_dictIDFlag
    ZSTD_CCtx *ZSTD_createCCtx()
    size_t ZSTD_freeCCtx(ZSTD_CCtx *ctx)
    size_t ZSTD_CCtx_setParameter(ZSTD_CCtx *ctx, ZSTD_cParameter parameter, int value)
    size_t ZSTD_compress2(ZSTD_CCtx *ctx, void *dst, size_t dst_capacity, const void *src, size_t src_size)
    ZSTD_DCtx *ZSTD_createDCtx()
    size_t ZSTD_freeDCtx(ZSTD_DCtx *ctx)
    size_t ZSTD_decompressDCtx(ZSTD_DCtx *ctx, void *dst, size_t dst_capacity,
                               const void *src, size_t src_size)
    size_t ZSTD_findFrameCompressedSize(const void *src, size_t src_size)
    unsigned ZSTD_isError(size_t code)
    const char *ZSTD_versionString()
