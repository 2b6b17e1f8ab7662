"""One record of the staging log: a 64-byte header and a body (docs/staging-log.md section 2; big-endian).

off  size  field
0     4  magic "DMLR"
4     1  version = 1
5     1  type: 1 STREAM, 2 BATCH
6     2  reserved = 0
8     8  body length
16     8  position of this record in the log, over all segments
24     8  durable_to: the log length known to be synced when this was written
32    16  salt of the log
48     8  XXH3-64 of the body
56     8  chain: XXH3-64 over (previous record's chain, bytes 0..55 of this header)
"""

import struct
from enum import IntEnum
from typing import NamedTuple

import xxhash
from typing_extensions import Buffer

from dmcore.seal import constants as c
from dmcore.seal.header import StreamHeader

MAGIC = b"DMLR"
VERSION = 1
HEADER = struct.Struct(">4sBBHQQQ16sQQ")
HEADER_BYTES = HEADER.size
CHAIN = struct.Struct(">Q")
SALT_BYTES = 16
MAX_BODY_BYTES = c.MAX_BATCH_DATA_BYTES + c.MAX_BATCH_FRAMES * (c.FRAME_HEADER_BYTES + c.TAG_BYTES + 16)
"""A batch of raw blocks, each in its own frame with its digest."""


class RecordType(IntEnum):
    """What a body is."""

    STREAM = 1
    BATCH = 2


class Record(NamedTuple):
    """A header as it was read."""

    type: RecordType
    body_bytes: int
    position: int
    durable_to: int
    salt: bytes
    body_hash: int
    chain: int

    @property
    def end(self) -> int:
        """Where the next record begins."""
        return self.position + HEADER_BYTES + self.body_bytes


def chain_of(previous: int, header: bytes) -> int:
    """The chained hash of a header, its own last 8 bytes left out."""
    return xxhash.xxh3_64_intdigest(CHAIN.pack(previous) + header[: HEADER_BYTES - CHAIN.size])


def body_hash(body: Buffer) -> int:
    """XXH3-64 of a body."""
    return xxhash.xxh3_64_intdigest(body)


def pack(
    kind: RecordType, body: Buffer, position: int, durable_to: int, salt: bytes, previous: int
) -> tuple[bytes, int]:
    """The header of a record to append, and its chain."""
    fields = (MAGIC, VERSION, kind, 0, memoryview(body).nbytes, position, durable_to, salt, body_hash(body))
    chain = chain_of(previous, HEADER.pack(*fields, 0))
    return HEADER.pack(*fields, chain), chain


def unpack(header: bytes) -> Record | None:
    """Read a header; None if it cannot be one."""
    if len(header) != HEADER_BYTES:
        return None
    magic, version, kind, reserved, body_bytes, position, durable_to, salt, digest, chain = HEADER.unpack(header)
    if (magic, version, reserved) != (MAGIC, VERSION, 0) or kind not in tuple(RecordType):
        return None
    if body_bytes > MAX_BODY_BYTES:
        return None
    return Record(RecordType(kind), body_bytes, position, durable_to, salt, digest, chain)


class StreamRecord(NamedTuple):
    """The body of a STREAM record: which stream the following batches belong to, and the wrapped keys to open it."""

    header: StreamHeader
    next_batch: int
    """The number of the first batch behind this record: not 0 where a segment repeats the record."""
    wrapped_keys: bytes

    def pack(self) -> bytes:
        """The body."""
        return self.header.pack() + CHAIN.pack(self.next_batch) + self.wrapped_keys

    @classmethod
    def unpack(cls, body: bytes) -> "StreamRecord":
        """Read a body. Raises HeaderRefused."""
        at = c.STREAM_HEADER_BYTES
        header = StreamHeader.unpack(body[:at])
        return cls(header, CHAIN.unpack(body[at : at + CHAIN.size])[0], body[at + CHAIN.size :])
