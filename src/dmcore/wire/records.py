"""Records: what a TLS connection's bytes are cut into (docs/protocol.md section 2). Does no I/O.

kind(1) reserved(3)=0 length(4) body(length)         integers are big-endian
kind 1  MESSAGE   json length(4) json payload
kind 2  BATCH     the sealed frames of one batch
"""

import struct
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from dmcore.blocks.constants import DIGEST_BYTES
from dmcore.seal.constants import FRAME_HEADER_BYTES, MAX_BATCH_DATA_BYTES, MAX_BATCH_FRAMES, TAG_BYTES
from dmcore.wire.errors import ProtocolError

HEADER = struct.Struct(">B3sI")
JSON_LENGTH = struct.Struct(">I")
RESERVED = bytes(3)

MAX_JSON_BYTES = 1 << 20
"""A `begin` of 1,024 disks with names as people give them."""
MAX_PAYLOAD_BYTES = 1 << 20
MAX_MESSAGE_BYTES = JSON_LENGTH.size + MAX_JSON_BYTES + MAX_PAYLOAD_BYTES
MIN_BATCH_BYTES = FRAME_HEADER_BYTES + TAG_BYTES
MAX_BATCH_BYTES = MAX_BATCH_DATA_BYTES + MAX_BATCH_FRAMES * (FRAME_HEADER_BYTES + DIGEST_BYTES + TAG_BYTES)
"""Every frame full and stored raw: the longest batch there is."""


class Kind(IntEnum):
    """What a record carries."""

    MESSAGE = 1
    BATCH = 2


LIMITS = {Kind.MESSAGE: (JSON_LENGTH.size, MAX_MESSAGE_BYTES), Kind.BATCH: (MIN_BATCH_BYTES, MAX_BATCH_BYTES)}
"""The least and most bytes that a record of each kind may have."""


class Record(NamedTuple):
    """One whole record. The body is its receiver's own."""

    kind: Kind
    body: memoryview


def pack_header(kind: Kind, length: int) -> bytes:
    """The header of a record whose body has this many bytes.

    Raises:
        ValueError: no such record exists. Callers check messages and batches before.
    """
    low, high = LIMITS[kind]
    if not low <= length <= high:
        raise ValueError(f"a {kind.name} of {length} bytes")
    return HEADER.pack(kind, RESERVED, length)


def parse_header(header: bytes | bytearray | memoryview) -> tuple[Kind, int]:
    """The kind and checked length of a peer's record.

    Raises:
        ProtocolError: an unknown kind, reserved bytes not zero, or a length out of the kind's limits.
    """
    number, reserved, length = HEADER.unpack(header)
    try:
        kind = Kind(number)
    except ValueError:
        raise ProtocolError(problem=f"a record of unknown kind {number}") from None
    if reserved != RESERVED:
        raise ProtocolError(problem="reserved bytes of a record are not zero")
    low, high = LIMITS[kind]
    if not low <= length <= high:
        raise ProtocolError(problem=f"a {kind.name} of {length} bytes, not {low} to {high}")
    return kind, length


def split_message(body: memoryview) -> tuple[memoryview, memoryview]:
    """The JSON and the payload of a MESSAGE's body.

    Raises:
        ProtocolError: the JSON or the payload is over its limit, or the JSON over the record's end.
    """
    (json_bytes,) = JSON_LENGTH.unpack_from(body)
    rest = body[JSON_LENGTH.size :]
    if json_bytes > min(len(rest), MAX_JSON_BYTES):
        raise ProtocolError(problem=f"JSON of {json_bytes} bytes in a message of {len(body)}")
    if len(rest) - json_bytes > MAX_PAYLOAD_BYTES:
        raise ProtocolError(problem=f"a payload of {len(rest) - json_bytes} bytes")
    return rest[:json_bytes], rest[json_bytes:]


class RecordReader:
    """Cuts incoming bytes into records. The reader says where the next bytes go, so a body is never copied.

    A body is allocated only when its header has passed, and a batch's only against a credit given before.
    """

    def __init__(self) -> None:
        self.batches_allowed = 0
        """How many more batches the peer may send; the owner raises it as it grants credit."""
        self._begin(None, memoryview(bytearray(HEADER.size)))

    def wanted(self) -> memoryview:
        """Where the next bytes belong; never empty."""
        return self._buffer[self._used :]

    def filled(self, count: int) -> Record | None:
        """Take note that `count` bytes were put into `wanted()`. Gives back the record that they complete.

        Raises:
            ProtocolError: a header is not allowed. The reader must not be used any more.
        """
        self._used += count
        if self._used < len(self._buffer):
            return None
        if self._kind is None:
            kind, length = parse_header(self._buffer)
            self._begin(kind, self._allocate(kind, length))
            return None
        record = Record(self._kind, self._buffer)
        self._begin(None, memoryview(bytearray(HEADER.size)))
        return record

    def _begin(self, kind: Kind | None, buffer: memoryview) -> None:
        self._kind, self._buffer, self._used = kind, buffer, 0

    def _allocate(self, kind: Kind, length: int) -> memoryview:
        if kind is Kind.MESSAGE:
            return memoryview(bytearray(length))
        if self.batches_allowed <= 0:
            raise ProtocolError(problem="a batch without credit")
        self.batches_allowed -= 1
        return np.empty(length, dtype=np.uint8).data  # a bytearray would be zeroed first
