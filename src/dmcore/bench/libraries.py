"""What no implementation can avoid: the calls into liblz4, libzstd, libcrypto and libc, and nothing between them.

The calls of a stage are listed once, with their arguments; `replay.py` makes them from C and takes the time.
"""

import ctypes
from collections.abc import Sequence
from ctypes import c_char_p, c_size_t, c_void_p
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dmcore.bench.errors import LibraryCallFailed, LibraryDiffers
from dmcore.native import libraries as linked

GET_TAG, SET_TAG = 0x10, 0x11
"""EVP_CTRL_AEAD_GET_TAG and EVP_CTRL_AEAD_SET_TAG of openssl/evp.h."""
ZSTD_LEVEL, ZSTD_CONTENT_SIZE = 100, 200
"""ZSTD_c_compressionLevel and ZSTD_c_contentSizeFlag of zstd.h."""
PUNCH_HOLE_KEEP_SIZE = 3
"""FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE of linux/falloc.h."""
TAG_BYTES = 16

Bytes: TypeAlias = NDArray[np.uint8]
Call: TypeAlias = "tuple[Any, tuple[Any, ...]]"

lz4 = ctypes.CDLL("liblz4.so.1")
zstd = ctypes.CDLL("libzstd.so.1")
crypto = ctypes.CDLL("libcrypto.so.3")
libc = ctypes.CDLL(None, use_errno=True)

lz4.LZ4_versionString.restype = zstd.ZSTD_versionString.restype = crypto.OpenSSL_version.restype = c_char_p
zstd.ZSTD_createCCtx.restype = zstd.ZSTD_createDCtx.restype = c_void_p
zstd.ZSTD_compress2.restype = zstd.ZSTD_decompressDCtx.restype = c_size_t
crypto.EVP_CIPHER_CTX_new.restype = crypto.EVP_aes_256_gcm.restype = c_void_p
libc.pwrite.restype = ctypes.c_ssize_t


def check_versions() -> None:
    """Make sure that what is measured is what the extensions run.

    Raises:
        LibraryDiffers: it is not.
    """
    loaded = {
        "liblz4": lz4.LZ4_versionString().decode(),
        "libzstd": zstd.ZSTD_versionString().decode(),
        "libcrypto": crypto.OpenSSL_version(0).decode(),
    }
    for library, version in linked.versions().items():
        if loaded.get(library, version) != version:
            raise LibraryDiffers(library=library, loaded=loaded[library], linked=version)


def check(calls: Sequence[Call]) -> None:
    """Make every call once and look at what it returns: OpenSSL's must say 1, the others nothing negative.

    Raises:
        LibraryCallFailed: one did not.
    """
    for function, arguments in calls:
        returned = function(*arguments)
        if returned < 0 or (function.__name__.startswith("EVP_") and returned != 1):
            raise LibraryCallFailed(function=function.__name__, returned=returned)


class Pointer(c_void_p):
    """Where a byte of a buffer lies, and the buffer, which lives as long as a list of calls points into it."""

    buffer: Bytes

    def after(self, length: int) -> "Pointer":
        """So many bytes further on."""
        return pointer(self.buffer, (self.value or 0) - self.buffer.ctypes.data + length)


def pointer(buffer: Bytes, at: int = 0) -> Pointer:
    """Point at a byte of a buffer."""
    place = Pointer(buffer.ctypes.data + at)
    place.buffer = buffer
    return place


class Gcm:
    """AES-256-GCM under one key, by EVP calls that keep the key schedule."""

    def __init__(self, key: bytes, *, encrypt: bool) -> None:
        self._ctx = c_void_p(crypto.EVP_CIPHER_CTX_new())
        cipher = c_void_p(crypto.EVP_aes_256_gcm())
        if crypto.EVP_CipherInit_ex(self._ctx, cipher, None, key, None, int(encrypt)) != 1:
            raise LibraryCallFailed(function="EVP_CipherInit_ex", returned=0)
        self._length = pointer(np.zeros(4, dtype=np.uint8))
        self._none = pointer(np.zeros(TAG_BYTES, dtype=np.uint8))
        self._tag = np.zeros(TAG_BYTES, dtype=np.uint8)

    def mac(self, number: int, message: Pointer, length: int) -> list[Call]:
        """GMAC of a message: nonce from its number."""
        return [self._start(number), self._update(None, message, length), *self._finish(pointer(self._tag))]

    def seal(self, number: int, aad: bytes, text: Pointer, length: int, tag: Pointer) -> list[Call]:
        """Encrypt in place and write the tag."""
        return [self._start(number), self._aad(aad), self._update(text, text, length), *self._finish(tag)]

    def open(self, number: int, aad: bytes, text: Pointer, parts: Sequence[tuple[Pointer, int]]) -> list[Call]:
        """Decrypt into one place after another, each (where, how much), and check the tag behind the text."""
        calls = [self._start(number), self._aad(aad)]
        for out, length in parts:
            calls.append(self._update(out, text, length))
            text = text.after(length)
        return [
            *calls,
            (crypto.EVP_CIPHER_CTX_ctrl, (self._ctx, SET_TAG, TAG_BYTES, text)),
            (crypto.EVP_CipherFinal_ex, (self._ctx, self._none, self._length)),
        ]

    def _start(self, number: int) -> Call:
        nonce = number.to_bytes(12, "big")
        return crypto.EVP_CipherInit_ex, (self._ctx, None, None, None, nonce, -1)

    def _aad(self, aad: bytes) -> Call:
        return self._update(None, aad, len(aad))

    def _update(self, out: Pointer | None, text: Pointer | bytes, length: int) -> Call:
        return crypto.EVP_CipherUpdate, (self._ctx, out, self._length, text, length)

    def _finish(self, tag: Pointer) -> list[Call]:
        return [
            (crypto.EVP_CipherFinal_ex, (self._ctx, self._none, self._length)),
            (crypto.EVP_CIPHER_CTX_ctrl, (self._ctx, GET_TAG, TAG_BYTES, tag)),
        ]


class Compressor:
    """LZ4 blocks or ZSTD frames, level 1, without a content size."""

    def __init__(self, *, lz4_blocks: bool) -> None:
        self._lz4 = lz4_blocks
        self._in = c_void_p(zstd.ZSTD_createCCtx())
        self._out = c_void_p(zstd.ZSTD_createDCtx())
        zstd.ZSTD_CCtx_setParameter(self._in, ZSTD_LEVEL, 1)
        zstd.ZSTD_CCtx_setParameter(self._in, ZSTD_CONTENT_SIZE, 0)

    def compress(self, raw: Pointer, length: int, out: Pointer, room: int) -> tuple[Call, int]:
        """The call, and the length that it gives: 0 if the block does not fit the room."""
        if self._lz4:
            call: Call = lz4.LZ4_compress_default, (raw, out, length, room)
        else:
            sizes = c_size_t(room), c_size_t(length)
            call = zstd.ZSTD_compress2, (self._in, out, sizes[0], raw, sizes[1])
        used: int = call[0](*call[1])
        return call, used if 0 < used <= room else 0  # ZSTD's error codes are huge

    def decompress(self, packed: Pointer, length: int, out: Pointer, raw_length: int) -> Call:
        """The call that fills out."""
        if self._lz4:
            return lz4.LZ4_decompress_safe, (packed, out, length, raw_length)
        return zstd.ZSTD_decompressDCtx, (self._out, out, c_size_t(raw_length), packed, c_size_t(length))


def zero_test(raw: Bytes, at: int, length: int) -> list[Call]:
    """Libc's way: every byte equals its neighbour, and the first is zero (looked at when the list is made)."""
    if raw[at]:
        return []
    return [(libc.memcmp, (pointer(raw, at), pointer(raw, at + 1), c_size_t(length - 1)))]


def write(fd: int, raw: Pointer, length: int, offset: int) -> Call:
    """One run of data to a file."""
    return libc.pwrite, (fd, raw, c_size_t(length), ctypes.c_long(offset))


def punch(fd: int, offset: int, length: int) -> Call:
    """One run of zeros to a file."""
    return libc.fallocate, (fd, PUNCH_HOLE_KEEP_SIZE, ctypes.c_long(offset), ctypes.c_long(length))
