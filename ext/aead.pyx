"""AES-256-GCM as the sealed format uses it, of any lengths: what the published vectors are run through."""

from libc.limits cimport INT_MAX
from gcm cimport gcm_begin, gcm_check, gcm_new, gcm_tag, gcm_update
from libcrypto cimport EVP_CIPHER_CTX, EVP_CIPHER_CTX_free, OPENSSL_cleanse

from dmcore.native.errors import SealFailed, TagMismatch


cdef EVP_CIPHER_CTX *context(bytes key, int encrypt) except NULL:
    if len(key) != 32:
        raise SealFailed(problem=f"a key of {len(key)} bytes")
    cdef EVP_CIPHER_CTX *ctx = gcm_new(key, encrypt)
    if ctx is NULL:
        raise SealFailed(problem="libcrypto has no AES-256-GCM")
    return ctx


cdef int check_lengths(bytes nonce, bytes aad, bytes text) except -1:
    if len(nonce) != 12:
        raise SealFailed(problem=f"a nonce of {len(nonce)} bytes")
    if len(aad) > INT_MAX or len(text) > INT_MAX - 16:
        raise SealFailed(problem="more than 2 GiB in one call")
    return 0


def encrypt(key: bytes, nonce: bytes, aad: bytes, plaintext: bytes) -> bytes:
    """Ciphertext and 16-byte tag."""
    check_lengths(nonce, aad, plaintext)
    cdef EVP_CIPHER_CTX *ctx = context(key, 1)
    cdef int length = <int>len(plaintext)
    cdef bytearray out = bytearray(length + 16)
    cdef int done
    try:
        done = (
            gcm_begin(ctx, nonce, aad, <int>len(aad), NULL, 0)
            and gcm_update(ctx, plaintext, length, out)
            and gcm_tag(ctx, <unsigned char *>out + length)
        )
    finally:
        EVP_CIPHER_CTX_free(ctx)
    if not done:
        raise SealFailed(problem="libcrypto failed")
    return bytes(out)


def decrypt(key: bytes, nonce: bytes, aad: bytes, sealed: bytes) -> bytes:
    """The plaintext of ciphertext and tag. Raises TagMismatch, and then keeps nothing that was decrypted."""
    check_lengths(nonce, aad, sealed)
    if len(sealed) < 16:
        raise TagMismatch(problem="shorter than a tag")
    cdef EVP_CIPHER_CTX *ctx = context(key, 0)
    cdef int length = <int>len(sealed) - 16
    cdef const unsigned char *cipher = sealed
    cdef bytearray out = bytearray(length)
    cdef int done
    try:
        done = (
            gcm_begin(ctx, nonce, aad, <int>len(aad), NULL, 0)
            and gcm_update(ctx, cipher, length, out)
            and gcm_check(ctx, cipher + length)
        )
    finally:
        EVP_CIPHER_CTX_free(ctx)
    if not done:
        OPENSSL_cleanse(<unsigned char *>out, length)
        raise TagMismatch(problem="the authentication tag is wrong")
    return bytes(out)
