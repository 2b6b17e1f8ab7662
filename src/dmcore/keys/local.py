"""A KEK in a file that only its owner can read: 32 random bytes as lower-case hex and a newline.

What it wraps: `salt`(32) || AES-256-GCM ciphertext and tag. The encryption key is
`HKDF(KEK, salt, "dmcore/1 wrap")`, the associated data are purpose, plan, version and the KEK's fingerprint.
"""

import hashlib
import os
import re
import secrets
import stat
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from dmcore.keys.errors import KekExists, KekExposed, KekNotPinned, KekUnreadable, UnwrapFailed
from dmcore.keys.provider import KEY_BYTES, Purpose
from dmcore.model.ids import PlanId

LABEL_FINGERPRINT = b"dmcore/1 kek-fingerprint"
LABEL_WRAP = b"dmcore/1 wrap"
SALT_BYTES = 32
ZERO_NONCE = bytes(12)
"""Safe here: the random salt gives every wrapping a key of its own, which encrypts this one message only."""
KEK_TEXT = re.compile(rb"[0-9a-f]{64}\n")


class LocalKek:
    """A `KeyProvider` over a KEK file."""

    def __init__(self, path: Path, pinned_fingerprint: str) -> None:
        """Read the file once.

        Raises:
            KekUnreadable: no file, or no key in it.
            KekExposed: others than the owner have rights on it.
            KekNotPinned: it holds another key than the pinned one.
        """
        self._kek = _read(path)
        self.kek_fingerprint = _fingerprint(self._kek)
        if self.kek_fingerprint != pinned_fingerprint:
            raise KekNotPinned(path=str(path), found=self.kek_fingerprint, pinned=pinned_fingerprint)

    def wrap(self, purpose: Purpose, plan: PlanId, version: int, key: bytes) -> bytes:
        """The key, encrypted and bound to purpose, plan and version."""
        salt = secrets.token_bytes(SALT_BYTES)
        return salt + self._cipher(salt).encrypt(ZERO_NONCE, key, self._bound_to(purpose, plan, version))

    def unwrap(self, purpose: Purpose, plan: PlanId, version: int, wrapped: bytes) -> bytes:
        """The key that `wrap` was given.

        Raises:
            UnwrapFailed: damaged, or wrapped for another purpose, plan, version or KEK.
        """
        salt, sealed = wrapped[:SALT_BYTES], wrapped[SALT_BYTES:]
        try:
            return self._cipher(salt).decrypt(ZERO_NONCE, sealed, self._bound_to(purpose, plan, version))
        except InvalidTag as failure:
            raise UnwrapFailed(purpose=purpose, plan=str(plan), dek_version=version) from failure

    def _cipher(self, salt: bytes) -> AESGCM:
        return AESGCM(HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=LABEL_WRAP).derive(self._kek))

    def _bound_to(self, purpose: Purpose, plan: PlanId, version: int) -> bytes:
        name = purpose.encode()
        return bytes([len(name)]) + name + plan.bytes + version.to_bytes(4, "big") + bytes.fromhex(self.kek_fingerprint)


def create(path: Path) -> str:
    """Make a KEK file, atomically and durably, and return its fingerprint.

    Raises:
        KekExists: there is one already; it is left alone.
        KekUnreadable: the file cannot be made there.
    """
    kek = secrets.token_bytes(KEY_BYTES)
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        try:
            _write_durably(scratch, kek.hex().encode() + b"\n")
            os.link(scratch, path)  # unlike rename, never replaces a KEK that somebody else just made
        finally:
            scratch.unlink(missing_ok=True)
        _sync_directory(path.parent)
    except FileExistsError as exists:
        raise KekExists(path=str(path)) from exists
    except OSError as problem:
        raise KekUnreadable(path=str(path), problem=problem.strerror or str(problem)) from problem
    return _fingerprint(kek)


def fingerprint(path: Path) -> str:
    """The fingerprint of a KEK file: what a node's configuration pins.

    Raises:
        KekUnreadable: no file, or no key in it.
        KekExposed: others than the owner have rights on it.
    """
    return _fingerprint(_read(path))


def _fingerprint(kek: bytes) -> str:
    return hashlib.sha256(LABEL_FINGERPRINT + kek).hexdigest()


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(128)
    except OSError as problem:
        raise KekUnreadable(path=str(path), problem=problem.strerror or str(problem)) from problem
    if mode & 0o077:
        raise KekExposed(path=str(path), mode=f"{mode:04o}")
    if not KEK_TEXT.fullmatch(text):
        raise KekUnreadable(path=str(path), problem="not 64 lower-case hex digits and a newline")
    return bytes.fromhex(text.decode())


def _write_durably(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(handle, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
        file.write(data)
        file.flush()
        os.fsync(handle)


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
