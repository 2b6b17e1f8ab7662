"""Pairing tokens at the connector that made them: one use, one hour, kept only as the hash of their secret.

A token is a file. Using it is renaming that file, so of two appliances that race for one, one wins.
"""

import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from dmcore.api.labels import Site
from dmcore.connector.ca import Authority
from dmcore.host.address import Address
from dmcore.host.clock import Clock
from dmcore.host.errors import FileBroken
from dmcore.host.files import create_file, fsync_dir, make_dir, read_state
from dmcore.model.ids import NodeId
from dmcore.node.pairing_errors import TokenExpired, TokenUnknown, TokenUsed
from dmcore.node.pairing_token import PairingToken

LIFE = timedelta(hours=1)
SECRET_BYTES = 32


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    site: Site
    expires: datetime


class TokenStore:
    """One connector's tokens, usable and used. Safe for several processes at once."""

    def __init__(self, state_dir: Path, clock: Clock) -> None:
        self._open = make_dir(state_dir / "pairing-tokens")
        self._used = make_dir(self._open / "used")
        self._clock = clock

    def make(self, site: str) -> str:
        """A secret that lets one appliance of this site pair within an hour."""
        secret = secrets.token_urlsafe(SECRET_BYTES)
        record = _Record(site=site, expires=self._clock() + LIFE)
        create_file(self._open / _file(secret), record.model_dump_json().encode())
        return secret

    def use(self, secret: str) -> str:
        """Use a secret up, durably, and return the site it is for.

        Raises:
            TokenUnknown: not made here.
            TokenUsed: used before, or by another at this very moment.
            TokenExpired: its hour is over.
            FileBroken: its record cannot be read.
        """
        path = self._open / _file(secret)
        try:
            record = _Record.model_validate_json(read_state(path))
            if self._clock() >= record.expires:
                raise TokenExpired
            path.rename(self._used / path.name)
        except FileNotFoundError:
            raise (TokenUsed if (self._used / path.name).exists() else TokenUnknown) from None
        except ValueError as problem:
            raise FileBroken(path=str(path), problem="not a pairing token's record; make a new token") from problem
        fsync_dir(self._used)
        fsync_dir(self._open)
        return record.site


def make_token(
    store: TokenStore, authority: Authority, connector: NodeId, addresses: Sequence[Address], site: str
) -> str:
    """The text to hand to the operator of an appliance at `site`; `addresses` are the pairing endpoint's."""
    return PairingToken(
        connector=connector,
        authority_sha256=authority.fingerprint,
        addresses=tuple(addresses),
        site=site,
        secret=store.make(site),
    ).encode()


def _file(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest() + ".json"
