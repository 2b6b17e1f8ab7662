"""Where a node listens: a host and a TCP port, written `host:port` or `[v6]:port`."""

import re
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import BeforeValidator, PlainSerializer

_TEXT = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]{2,45})\]|(?P<host>[A-Za-z0-9.-]{1,253})):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True)
class Address:
    """A host name or IP address and a port. Port 0 to listen on: any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The address that is written there, or a ValueError."""
        match = _TEXT.fullmatch(text)
        if not match or int(match["port"]) > 65535:
            raise ValueError(f"{text!r} is not host:port")
        return cls(match["v6"] or match["host"], int(match["port"]))


def _parsed(value: object) -> object:
    return Address.parse(value) if isinstance(value, str) else value


AddressText = Annotated[Address, BeforeValidator(_parsed), PlainSerializer(str, return_type=str, when_used="json")]
"""An `Address` in a pydantic model: text in files and messages."""
