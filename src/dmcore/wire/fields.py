"""The values that messages are made of. Whatever is not inside these limits is refused while parsing."""

from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints

from dmcore.blocks.constants import MAX_BLOCK_BYTES, MIN_BLOCK_BYTES, SECTOR_BYTES

MAX_DISKS = 1024
MAX_NAME_CHARS = 256
MAX_TOKEN_CHARS = 1024
MAX_WRAPPED_CHARS = 8192
MAX_ERROR_CHARS = 1000
MAX_PAGES = 1024
DIGEST_WINDOW_BLOCKS = 65_536
"""What one `digests` asks for at most: 1 MiB of digests."""

# Peers' text ends in terminals and logs: no control characters.
PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f]*$"


def _power_of_two(value: int) -> int:
    if value & (value - 1):
        raise ValueError("no power of two")
    return value


Count = Annotated[int, Field(ge=0, lt=1 << 63)]
Successor = Annotated[int, Field(ge=0, lt=1 << 32)]
DiskBytes = Annotated[int, Field(gt=0, lt=1 << 63, multiple_of=SECTOR_BYTES)]
BlockBytes = Annotated[int, Field(ge=MIN_BLOCK_BYTES, le=MAX_BLOCK_BYTES), AfterValidator(_power_of_two)]
DekVersion = Annotated[int, Field(ge=0, lt=1 << 32)]
Credit = Annotated[int, Field(ge=0, lt=1 << 16)]
PageCount = Annotated[int, Field(ge=0, le=MAX_PAGES)]
WireVersion = Annotated[int, Field(ge=1, lt=1 << 16)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME_CHARS, pattern=PRINTABLE)]
Token = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TOKEN_CHARS, pattern=PRINTABLE)]
Text = Annotated[str, StringConstraints(max_length=MAX_ERROR_CHARS, pattern=PRINTABLE)]
Ticket = Annotated[str, StringConstraints(min_length=1, max_length=8192, pattern=r"^[A-Za-z0-9._-]+$")]
Capability = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")]
Code = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")]
Correlation = Annotated[str, StringConstraints(max_length=64, pattern=r"^[A-Za-z0-9._-]*$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Wrapped = Annotated[str, StringConstraints(max_length=MAX_WRAPPED_CHARS, pattern=r"^[A-Za-z0-9+/]+={0,2}$")]
UtcTime = AwareDatetime
