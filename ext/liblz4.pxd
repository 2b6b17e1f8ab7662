# The LZ4 block interface (no frame format, no size prefix).

cdef extern from "lz4.h" nogil:
    int LZ4_compress_default(const char *src, char *dst, int src_size, int dst_capacity)
    int LZ4_decompress_safe(const char *src, char *dst, int compressed_size, int dst_capacity)
    const char *LZ4_versionString()
