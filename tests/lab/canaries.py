"""Things that must not cross a boundary, in every shape that they could cross it in."""

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

SLICE_BYTES = 16
"""Of random bytes: long enough that none is met by chance, short enough to be found in a fragment."""
MANY = 500
"""More shapes than this are looked up window by window rather than searched one by one."""


@dataclass(frozen=True)
class Canary:
    """A secret and what to look for."""

    name: str
    shapes: frozenset[bytes]


def of_number(name: str, number: int) -> Canary:
    """A number: as text in decimal and hexadecimal, as eight or six bytes of either order, and those in base64."""
    shapes = {str(number).encode(), f"{number:x}".encode(), f"{number:X}".encode()}
    for width in (8, 6):
        for packed in (number.to_bytes(width, "big"), number.to_bytes(width, "little")):
            shapes |= {packed, packed.hex().encode()}
    for packed in (number.to_bytes(8, "big"), number.to_bytes(8, "little")):
        shapes |= set(in_base64(packed))
    return Canary(name, frozenset(shapes | set(in_base64(str(number).encode()))))


def of_bytes(name: str, data: bytes) -> Canary:
    """Bytes: any aligned slice of them, raw, hexadecimal or base64."""
    shapes: set[bytes] = set()
    for piece in slices(data):
        shapes |= {piece, piece.hex().encode(), piece.hex().upper().encode(), *in_base64(piece)}
    return Canary(name, frozenset(shapes))


def of_text(name: str, text: str) -> Canary:
    """A text, also as JSON escapes it, in hexadecimal and in base64."""
    raw = text.encode()
    return Canary(name, frozenset({raw, raw.hex().encode(), *in_base64(raw)}))


def slices(data: bytes) -> Iterator[bytes]:
    """Whole slices from the start of the data."""
    for start in range(0, len(data) - SLICE_BYTES + 1, SLICE_BYTES):
        yield data[start : start + SLICE_BYTES]


def in_base64(data: bytes) -> Iterator[bytes]:
    """How these bytes look inside a longer base64 text, at each of the three places where they can begin.

    The first and last characters depend on the neighbours, and are left out. Both alphabets.
    """
    for shift in range(3):
        padded = bytes(shift) + data + bytes(-(shift + len(data)) % 3)
        first = -(-shift * 8 // 6)
        last = (shift + len(data)) * 8 // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(padded)[first:last]


def found(haystacks: Iterable[tuple[str, bytes]], canaries: Iterable[Canary]) -> list[str]:
    """Which canary was met where."""
    by_length: dict[int, dict[bytes, str]] = {}
    for canary in canaries:
        for shape in canary.shapes:
            by_length.setdefault(len(shape), {})[shape] = canary.name
    return [
        f"{shapes[shape]} in {where} as {shape!r}"
        for where, data in haystacks
        for length, shapes in by_length.items()
        for shape in met(data, shapes, length)
    ]


def met(data: bytes, shapes: dict[bytes, str], length: int) -> set[bytes]:
    """Those of these shapes, all of one length, that are in the data. Many are looked for in one pass."""
    if len(shapes) < MANY:
        return {shape for shape in shapes if shape in data}
    return {window for start in range(len(data)) if (window := data[start : start + length]) in shapes}
