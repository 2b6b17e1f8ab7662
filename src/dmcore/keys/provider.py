"""A plan's keys: minted at the connector, kept and sent only wrapped, opened under the pinned KEK."""

import base64
import binascii
import secrets
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Protocol

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, StringConstraints

from dmcore.keys.errors import WrongKek
from dmcore.model.ids import PlanId

KEY_BYTES = 32
MAX_WRAPPED_BYTES = 4096
"""Bounds what a peer may send as one wrapped key; AWS KMS answers with less than 300 bytes."""
MAX_VERSION = (1 << 32) - 1
"""A DEK version is four bytes of a stream header."""


class Purpose(StrEnum):
    """What a wrapped key is for; authenticated with it, so that one cannot pose as the other."""

    DEK = "dek"
    DIGEST_ROOT = "digest-root"


class KeyProvider(Protocol):
    """Wraps and unwraps 32-byte keys under the one KEK that the node pins. Threads may share it."""

    @property
    def kek_fingerprint(self) -> str:
        """What names the KEK: the same on every node that holds it, and telling nothing about it."""
        ...

    def wrap(self, purpose: Purpose, plan: PlanId, version: int, key: bytes) -> bytes:
        """The key, encrypted and bound to purpose, plan and version."""
        ...

    def unwrap(self, purpose: Purpose, plan: PlanId, version: int, wrapped: bytes) -> bytes:
        """The key that `wrap` was given.

        Raises:
            UnwrapFailed: damaged, or wrapped for another purpose, plan, version or KEK.
        """
        ...


def _decoded(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as problem:
        raise ValueError(f"not base64: {problem}") from problem


def _encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()


Wrapped = Annotated[
    bytes,
    BeforeValidator(_decoded),
    PlainSerializer(_encoded, return_type=str, when_used="json"),
    Field(min_length=1, max_length=MAX_WRAPPED_BYTES),
]


class WrappedKeys(BaseModel):
    """One version of a plan's keys as they are stored and sent. In JSON the bytes are base64."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan: PlanId
    dek_version: Annotated[int, Field(ge=1, le=MAX_VERSION)]
    kek_fingerprint: Annotated[str, StringConstraints(min_length=1, max_length=2048)]
    dek: Wrapped
    digest_root: Wrapped


@dataclass(frozen=True)
class PlanKeys:
    """One version of a plan's keys in clear. Lives in memory only; its repr shows no key."""

    dek_version: int
    dek: bytes = field(repr=False)
    digest_root: bytes = field(repr=False)


def mint(provider: KeyProvider, plan: PlanId, version: int, digest_root: bytes | None = None) -> WrappedKeys:
    """A version's new random DEK, wrapped: the caller stores it before it uses it.

    A plan has one digest root for all its versions, as the digests that its shadows are kept by are made under it: a
    plan's first version mints it (None), every later one is given the first one's, in clear, and wraps it anew.
    """
    root = secrets.token_bytes(KEY_BYTES) if digest_root is None else digest_root
    return WrappedKeys(
        plan=plan,
        dek_version=version,
        kek_fingerprint=provider.kek_fingerprint,
        dek=provider.wrap(Purpose.DEK, plan, version, secrets.token_bytes(KEY_BYTES)),
        digest_root=provider.wrap(Purpose.DIGEST_ROOT, plan, version, root),
    )


def unwrap_all(provider: KeyProvider, wrapped: WrappedKeys) -> PlanKeys:
    """The keys in clear.

    Raises:
        WrongKek: wrapped under another KEK than the pinned one; nothing was decrypted.
        UnwrapFailed: damaged, or of another plan or version.
    """
    if wrapped.kek_fingerprint != provider.kek_fingerprint:
        raise WrongKek(
            plan=str(wrapped.plan),
            dek_version=wrapped.dek_version,
            found=wrapped.kek_fingerprint,
            pinned=provider.kek_fingerprint,
        )
    return PlanKeys(
        wrapped.dek_version,
        provider.unwrap(Purpose.DEK, wrapped.plan, wrapped.dek_version, wrapped.dek),
        provider.unwrap(Purpose.DIGEST_ROOT, wrapped.plan, wrapped.dek_version, wrapped.digest_root),
    )
