"""A log's salt, in a small file beside its segments: known whatever the segments hold (big-endian).

off  size  field
0     4  magic "DMLS"
4     2  version = 1
6     2  reserved = 0
8    16  salt
24    8  XXH3-64 of all before
"""

import os
import struct
from pathlib import Path

import xxhash

from dmcore.shadow.errors import StateUnreadable
from dmcore.shadow.records import SALT_BYTES
from dmcore.shadow.storage import Storage

SALT_FILE = "salt"
MAGIC = b"DMLS"
VERSION = 1
LAYOUT = struct.Struct(">4sHH16s")
CHECKSUM = struct.Struct(">Q")


def load_salt(storage: Storage, folder: Path) -> bytes | None:
    """A log's salt; None: nothing was ever appended to it.

    Raises:
        StateUnreadable: it is damaged, or of another version.
    """
    path = folder / SALT_FILE
    try:
        data = storage.read_file(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateUnreadable(path=str(path), problem=str(error)) from error
    fixed = data[: LAYOUT.size]
    if len(data) != LAYOUT.size + CHECKSUM.size or data[LAYOUT.size :] != _checksum(fixed):
        raise StateUnreadable(path=str(path), problem="it is damaged")
    magic, version, _, salt = LAYOUT.unpack(fixed)
    if (magic, version) != (MAGIC, VERSION):
        raise StateUnreadable(path=str(path), problem=f"it is of version {version}, not {VERSION}")
    return bytes(salt)


def make_salt(storage: Storage, folder: Path) -> bytes:
    """A new salt, durable before the first record is written. Raises OSError."""
    salt = os.urandom(SALT_BYTES)
    fixed = LAYOUT.pack(MAGIC, VERSION, 0, salt)
    storage.replace(folder / SALT_FILE, fixed + _checksum(fixed))
    return salt


def _checksum(fixed: bytes) -> bytes:
    return CHECKSUM.pack(xxhash.xxh3_64_intdigest(fixed))
