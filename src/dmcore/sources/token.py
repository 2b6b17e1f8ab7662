"""The tracking token of the `tracked` source: `<journal id, 32 hex>:<position>`."""

import re
from typing import NamedTuple

PATTERN = re.compile(r"([0-9a-f]{32}):([0-9]{1,18})")


class Token(NamedTuple):
    """A point in one journal: how many records it had ever had."""

    journal: bytes
    position: int

    def __str__(self) -> str:
        return f"{self.journal.hex()}:{self.position}"


def parse_token(text: str) -> Token | None:
    """Read one back; None if it is none."""
    match = PATTERN.fullmatch(text)
    return Token(bytes.fromhex(match[1]), int(match[2])) if match else None
