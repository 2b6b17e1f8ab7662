"""Keys of the sealed format from keys and random salts (docs/format.md sections 3 and 4)."""

import hashlib
import hmac
from typing import NamedTuple

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from dmcore.model.ids import DiskId
from dmcore.seal.constants import KEY_BYTES

LABEL_FRAME_KEY = b"dmcore/1 frame-key"
LABEL_COMMITMENT = b"dmcore/1 key-commit"
LABEL_STREAM_ID = b"dmcore/1 stream-id"
LABEL_DIGEST = b"dmcore/1 digest"


class StreamKeys(NamedTuple):
    """What one stream's header and a DEK give."""

    frame_key: bytes
    commitment: bytes


def hkdf_extract(salt: bytes, key: bytes) -> bytes:
    """RFC 5869 section 2.2, SHA-256."""
    return hmac.digest(salt, key, "sha256")


def hkdf_expand(prk: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 section 2.3, SHA-256."""
    return HKDFExpand(algorithm=SHA256(), length=length, info=info).derive(prk)


def labelled(prk: bytes, label: bytes, context: bytes) -> bytes:
    """One 32-byte key for one purpose: info is the label's length in one byte, the label, the context."""
    return hkdf_expand(prk, bytes([len(label)]) + label + context, KEY_BYTES)


def stream_keys(dek: bytes, salt: bytes, header_without_commitment: bytes) -> StreamKeys:
    """A stream's frame key and the commitment to it, from its header with the commitment's bytes zeroed."""
    prk = hkdf_extract(salt, dek)
    context = hashlib.sha256(header_without_commitment).digest()
    return StreamKeys(labelled(prk, LABEL_FRAME_KEY, context), labelled(prk, LABEL_COMMITMENT, context))


def stream_id(header: bytes) -> bytes:
    """What every frame of a stream authenticates beside its own header."""
    return hashlib.sha256(LABEL_STREAM_ID + header).digest()


def digest_key(digest_root: bytes, disk: DiskId) -> bytes:
    """The key of one disk's block digests, from the plan's digest root."""
    return labelled(digest_root, LABEL_DIGEST, disk.bytes)
