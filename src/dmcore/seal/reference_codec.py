"""Codecs and block digests of the sealed format in pure Python, as strict as a reader must be.

Part of the reference implementation (reference.py); docs/format.md sections 3 and 6.
"""

import lz4.block
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dmcore.blocks.constants import DIGEST_BYTES
from dmcore.seal import constants as c
from dmcore.seal.reference_frame import compressed_limit

ZERO_DIGEST = bytes(DIGEST_BYTES)
"""The digest of every block that is all zeros."""
ZSTD_START = b"\x28\xb5\x2f\xfd\x00"
"""A frame's magic and a descriptor byte that announces nothing."""


class CodecError(ValueError):
    """A compressed block is not one block of exactly the authenticated length."""


def block_digest(digest_key: bytes, block: int, raw: bytes) -> bytes:
    """AES-256-GMAC of a raw block under its disk's digest key; the nonce is the block's index (section 3)."""
    if raw == bytes(len(raw)):
        return ZERO_DIGEST
    return AESGCM(digest_key).encrypt(nonce(block), b"", raw)


def nonce(number: int) -> bytes:
    """Four zero bytes, then the number: a frame's seq, or a block's index for digests."""
    return number.to_bytes(c.NONCE_BYTES, "big")


def compress(codec: int, level: int, raw: bytes) -> tuple[int, bytes]:
    """The codec that was worth it, and its output (section 6)."""
    packed = raw
    if codec == c.CODEC_LZ4:
        packed = lz4.block.compress(raw, store_size=False)
    elif codec == c.CODEC_ZSTD:
        compressor = zstandard.ZstdCompressor(
            level=level, write_content_size=False, write_checksum=False, write_dict_id=False
        )
        packed = compressor.compress(raw)
    return (codec, packed) if len(packed) < compressed_limit(len(raw)) else (c.CODEC_RAW, raw)


def decompress(codec: int, packed: bytes, raw_length: int) -> bytes:
    """The block, if the codec's output is one block of exactly that length and nothing else.

    Raises:
        CodecError: it is not.
    """
    try:
        raw = _decompress(codec, packed, raw_length)
    except (lz4.block.LZ4BlockError, zstandard.ZstdError) as error:
        raise CodecError(str(error)) from None
    if len(raw) != raw_length:
        raise CodecError(f"{len(raw)} bytes, not {raw_length}")
    return raw


def _decompress(codec: int, packed: bytes, raw_length: int) -> bytes:
    if codec == c.CODEC_RAW:
        return packed
    if codec == c.CODEC_LZ4:
        return bytes(lz4.block.decompress(packed, uncompressed_size=raw_length))
    # A content size in the frame would override max_output_size: look at the descriptor before the library does.
    if not packed.startswith(ZSTD_START):
        raise CodecError("no ZSTD frame, or one that announces a content size, a checksum or a dictionary")
    return zstandard.ZstdDecompressor().decompress(packed, max_output_size=raw_length, allow_extra_data=False)
