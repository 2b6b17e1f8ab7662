# AES-256-GCM and GMAC over one EVP context that keeps its key schedule. No allocation after gcm_new.
# A context belongs to one thread. Lengths are int because EVP's are: callers check before they narrow.

from libcrypto cimport (
    EVP_CIPHER_CTX, EVP_CIPHER_CTX_ctrl, EVP_CIPHER_CTX_free, EVP_CIPHER_CTX_new, EVP_CipherFinal_ex,
    EVP_CipherInit_ex, EVP_CipherUpdate, EVP_CTRL_AEAD_GET_TAG, EVP_CTRL_AEAD_SET_TAG, EVP_aes_256_gcm,
)
from libc.stdint cimport uint64_t

cdef extern from *:
    """
    /* A word of any buffer: it may lie at any address and alias any type. */
    typedef uint64_t __attribute__((aligned(1), may_alias)) dm_word;
    """
    ctypedef uint64_t dm_word


cdef inline void put_be64(unsigned char *at, uint64_t value) noexcept nogil:
    cdef int i
    for i in range(8):
        at[i] = <unsigned char>(value >> (56 - 8 * i))


cdef inline void nonce_of(unsigned char *nonce, uint64_t number) noexcept nogil:
    """Deterministic 96-bit nonce: 32 zero bits, then a number that never repeats under its key."""
    nonce[0] = nonce[1] = nonce[2] = nonce[3] = 0
    put_be64(nonce + 4, number)


cdef inline EVP_CIPHER_CTX *gcm_new(const unsigned char *key, int encrypt) noexcept nogil:
    """A context with its key set, or NULL. EVP_CIPHER_CTX_free cleanses the key schedule."""
    cdef EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new()
    if ctx is NULL:
        return NULL
    if EVP_CipherInit_ex(ctx, EVP_aes_256_gcm(), NULL, key, NULL, encrypt) != 1:
        EVP_CIPHER_CTX_free(ctx)
        return NULL
    return ctx


cdef inline int gcm_begin(
    EVP_CIPHER_CTX *ctx, const unsigned char *nonce, const unsigned char *aad, int aad_len,
    const unsigned char *more_aad, int more_len,
) noexcept nogil:
    """Set the nonce and authenticate `aad || more_aad`. Returns 1, or 0 if the library failed."""
    cdef int n = 0
    if EVP_CipherInit_ex(ctx, NULL, NULL, NULL, nonce, -1) != 1:
        return 0
    if aad_len and EVP_CipherUpdate(ctx, NULL, &n, aad, aad_len) != 1:
        return 0
    if more_len and EVP_CipherUpdate(ctx, NULL, &n, more_aad, more_len) != 1:
        return 0
    return 1


cdef inline int gcm_update(
    EVP_CIPHER_CTX *ctx, const unsigned char *src, int length, unsigned char *dst,
) noexcept nogil:
    """Encrypt or decrypt the next bytes; src and dst may be the same. 1, or 0 if the library failed."""
    cdef int n = 0
    if length == 0:
        return 1
    return EVP_CipherUpdate(ctx, dst, &n, src, length) == 1 and n == length


cdef inline int gcm_tag(EVP_CIPHER_CTX *ctx, unsigned char *tag) noexcept nogil:
    """Finish encrypting: writes the 16-byte tag. Returns 1, or 0 if the library failed."""
    cdef int n = 0
    cdef unsigned char none[16]
    if EVP_CipherFinal_ex(ctx, none, &n) != 1:
        return 0
    return EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, 16, tag) == 1


cdef inline int gcm_check(EVP_CIPHER_CTX *ctx, const unsigned char *tag) noexcept nogil:
    """Finish decrypting: 1 if the tag is right, else 0 and nothing that was decrypted may be used."""
    cdef int n = 0
    cdef unsigned char none[16]
    if EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, 16, <void *>tag) != 1:
        return 0
    return EVP_CipherFinal_ex(ctx, none, &n) == 1


cdef inline int is_zero(const unsigned char *raw, Py_ssize_t length) noexcept nogil:
    """Whether every byte is zero. Looks at 64 bytes at a time, which compilers turn into vector code."""
    cdef const dm_word *words = <const dm_word *>raw
    cdef Py_ssize_t i, _, strides = length // 64
    cdef uint64_t seen
    for _ in range(strides):
        seen = (words[0] | words[1] | words[2] | words[3]) | (words[4] | words[5] | words[6] | words[7])
        if seen:
            return 0
        words += 8
    for i in range(strides * 64, length):
        if raw[i]:
            return 0
    return 1


cdef inline int block_digest(
    EVP_CIPHER_CTX *ctx, uint64_t block, const unsigned char *raw, int length, unsigned char *digest,
) noexcept nogil:
    """GMAC of a raw block under the disk's digest key (docs/format.md section 3), if it is not all zeros."""
    cdef unsigned char nonce[12]
    nonce_of(nonce, block)
    return gcm_begin(ctx, nonce, raw, length, NULL, 0) and gcm_tag(ctx, digest)
