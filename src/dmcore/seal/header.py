"""The stream header, 176 bytes (docs/format.md section 4)."""

import hmac
import os
import struct
from dataclasses import dataclass, replace
from uuid import UUID

from dmcore.blocks.constants import DEFAULT_BLOCK_BYTES, MAX_BLOCK_BYTES, MIN_BLOCK_BYTES
from dmcore.model.ids import NO_IMAGE, CycleId, DiskId, ImageId, PlanId
from dmcore.seal import derive
from dmcore.seal.constants import KEY_BYTES, STREAM_HEADER_BYTES
from dmcore.seal.errors import HeaderRefused, WrongKey

MAGIC = b"DMC1"
VERSION = 1
SUITE = 1
"""HKDF-SHA256, AES-256-GCM, 16-byte tag."""
SALT_BYTES = 32

# magic version suite dek_version flags plan disk cycle epoch attempt disk_bytes block_bytes reserved
# base_image salt commitment
LAYOUT = struct.Struct(">4sHHII16s16s16sQQQII16s32s32s")


@dataclass(frozen=True)
class StreamHeader:
    """Who sealed what for which shadow. `salt` and `commitment` are made by `fresh`."""

    dek_version: int
    plan: PlanId
    disk: DiskId
    cycle: CycleId
    epoch: int
    attempt: int
    """How many streams of this disk the connector has opened in this cycle, this one included."""
    disk_bytes: int
    block_bytes: int = DEFAULT_BLOCK_BYTES
    base_image: ImageId = NO_IMAGE
    salt: bytes = bytes(SALT_BYTES)
    commitment: bytes = bytes(KEY_BYTES)

    def pack(self) -> bytes:
        """The header's bytes."""
        return LAYOUT.pack(
            MAGIC, VERSION, SUITE, self.dek_version, 0, self.plan.bytes, self.disk.bytes, self.cycle.bytes,
            self.epoch, self.attempt, self.disk_bytes, self.block_bytes, 0, self.base_image.bytes,
            self.salt, self.commitment,
        )  # fmt: skip

    @classmethod
    def unpack(cls, packed: bytes) -> "StreamHeader":
        """Read a peer's header.

        Raises:
            HeaderRefused: its length, magic, version, suite, flags, reserved, disk or block size is bad.
        """
        if len(packed) != STREAM_HEADER_BYTES:
            raise HeaderRefused(problem=f"{len(packed)} bytes, not {STREAM_HEADER_BYTES}")
        magic, version, suite, dek, flags, plan, disk, cycle, *rest = LAYOUT.unpack(packed)
        epoch, attempt, size, block, reserved, base, salt, commitment = rest
        if (magic, version, suite) != (MAGIC, VERSION, SUITE):
            raise HeaderRefused(problem=f"magic {magic!r}, version {version}, suite {suite}")
        if flags or reserved:
            raise HeaderRefused(problem="flags or reserved bytes are not zero")
        if not MIN_BLOCK_BYTES <= block <= MAX_BLOCK_BYTES or block & (block - 1):
            raise HeaderRefused(problem=f"blocks of {block} bytes")
        if not 0 < size < 1 << 63:
            raise HeaderRefused(problem=f"a disk of {size} bytes")
        return cls(
            dek, PlanId(UUID(bytes=plan)), DiskId(UUID(bytes=disk)), CycleId(UUID(bytes=cycle)),
            epoch, attempt, size, block, ImageId(UUID(bytes=base)), salt, commitment,
        )  # fmt: skip

    def fresh(self, dek: bytes) -> "tuple[StreamHeader, bytes]":
        """This header with a new random salt and the commitment to its key, and the frame key."""
        return replace(self, salt=os.urandom(SALT_BYTES)).committed(dek)

    def committed(self, dek: bytes) -> "tuple[StreamHeader, bytes]":
        """This header, its salt as it is, with the commitment to its key, and the frame key."""
        keys = derive.stream_keys(dek, self.salt, replace(self, commitment=bytes(KEY_BYTES)).pack())
        return replace(self, commitment=keys.commitment), keys.frame_key

    def frame_key(self, dek: bytes) -> bytes:
        """The frame key, if this DEK is the one that the header was committed to.

        Raises:
            WrongKey: it is another one. Nothing has been decrypted.
        """
        committed, key = self.committed(dek)
        if not hmac.compare_digest(committed.commitment, self.commitment):
            raise WrongKey(disk=str(self.disk), dek_version=self.dek_version)
        return key

    @property
    def stream_id(self) -> bytes:
        """SHA-256 of the whole header under its label."""
        return derive.stream_id(self.pack())
