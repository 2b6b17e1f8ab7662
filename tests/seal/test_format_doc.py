"""docs/format.md is true: its tables, its limits, and its example, which both implementations read and make."""

import hashlib
import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from dmcore.blocks import constants as grid
from dmcore.native.aead import decrypt, encrypt
from dmcore.native.batches import Opened
from dmcore.native.digests import Scanner
from dmcore.native.errors import FrameRefused, TagMismatch
from dmcore.seal import constants, derive, header, reference_frame
from dmcore.seal.errors import HeaderRefused, StreamEnded, TotalsDiffer, WrongKey
from dmcore.seal.header import StreamHeader
from dmcore.seal.reference import ReferenceReader, ReferenceWriter
from dmcore.seal.reference_codec import block_digest
from dmcore.seal.reference_frame import FrameChecks
from dmcore.seal.stream import FINAL, StreamReader
from tests.seal.streams import Forger, ids

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/format.md").read_text()
BLOCK = 4096
TITLES = {3: "Block digest", 4: "Stream header and keys", 5: "Frame header", 6: "DATA and codecs",
          7: "OPEN, ZERO and FINAL", 8: "What a receiver checks"}  # fmt: skip


def section(number: int) -> str:
    return TEXT.split(f"\n## {number}. ")[1].split("\n## ")[0]


def table(number: int, columns: str) -> list[list[str]]:
    """The rows of the section's table that has these columns."""
    body = section(number).split(f"| {columns} |\n")[1].split("\n", 1)[1]
    rows = body.split("\n\n")[0].splitlines()
    return [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


@pytest.mark.parametrize(("number", "title"), TITLES.items(), ids=str)
def test_sections_are_where_the_code_says(number: int, title: str) -> None:
    assert section(number).startswith(f"{title}\n")


def check_layout(rows: list[list[str]], layout: struct.Struct) -> None:
    at = 0
    for offset, size, *_ in rows:
        assert int(offset) == at
        at += int(size)
    assert at == layout.size
    codes = re.findall(r"\d*[a-zA-Z]", layout.format.lstrip(">"))
    flat = [n for code in codes for n in ([code] if code.endswith("s") else [code[-1]] * int(code[:-1] or 1))]
    assert [int(size) for _, size, *_ in rows] == [struct.calcsize(f">{code}") for code in flat]


def test_the_stream_header() -> None:
    rows = table(4, "offset | size | field | value | a reader that finds another")
    check_layout(rows, header.LAYOUT)
    assert header.LAYOUT.size == constants.STREAM_HEADER_BYTES
    assert rows[0][3] == f"`{header.MAGIC.decode()}`"
    assert [rows[1][3], rows[2][3][0]] == [str(header.VERSION), str(header.SUITE)]


def test_the_frame_header() -> None:
    rows = table(5, "offset | size | field | value")
    check_layout(rows, reference_frame.LAYOUT)
    values = {row[2]: row[3] for row in rows}
    assert int(values["magic"].strip("`"), 16) == constants.FRAME_MAGIC
    assert int(values["version"]) == constants.FRAME_VERSION
    for field, prefix in (("type", "TYPE_"), ("codec", "CODEC_")):
        named = dict(part.split()[:2][::-1] for part in values[field].split(","))
        expected = {k[len(prefix) :]: str(v) for k, v in vars(constants).items() if k.startswith(prefix)}
        assert {name.upper(): number for name, number in named.items()} == expected


def test_finals_plaintext() -> None:
    check_layout(table(7, "offset | size | field"), FINAL)
    assert FINAL.size == constants.FINAL_BYTES


def test_the_limits() -> None:
    rows = table(10, "constant | value | of")
    known = {**vars(grid), **vars(constants)}
    assert {name.strip("`"): int(value) for name, value, _ in rows} == {
        name.strip("`"): known[name.strip("`")] for name, _, _ in rows
    }
    limits = {name for name in vars(constants) if name.startswith("MAX_")}
    assert limits <= {name.strip("`") for name, _, _ in rows}


def test_the_labels() -> None:
    rows = table(2, "label | gives | prk | context")
    labels = {row[0].strip("`").encode() for row in rows} | {b"dmcore/1 stream-id"}
    assert labels == {value for name, value in vars(derive).items() if name.startswith("LABEL_")}
    assert '"dmcore/1 stream-id"' in section(4)


def sources(folder: str, *names: str) -> str:
    return "".join((ROOT / folder / name).read_text() for name in names)


def test_the_problems_are_those_of_both_implementations() -> None:
    named = {row[1].strip("`") for row in table(8, "step | problem that is named")}
    native = sources("ext", "frame.pxd", "opening.pyx")
    reference = sources("src/dmcore/seal", "reference_frame.py", "reference.py")
    for problem in named:
        assert f'"{problem}"' in native
        assert f'"{problem}"' in reference
    assert set(re.findall(r'return "([^"]+)"', native)) <= named
    assert set(re.findall(r'_require\(.*, "([^"]+)"\)', reference)) <= named


def test_the_error_codes() -> None:
    codes = set(re.findall(r"`((?:stream|frame)\.[a-z-]+)`", section(8)))
    classes = (HeaderRefused, WrongKey, TotalsDiffer, StreamEnded, FrameRefused, TagMismatch)
    assert codes == {cls.code for cls in classes}


# The worked example


def example() -> tuple[dict[str, bytes], list[dict[str, bytes]]]:
    """The values of the stream, then those of each frame."""
    parts: list[dict[str, bytes]] = [{}]
    name = ""
    for line in section(12).split("```example\n")[1].split("```")[0].splitlines():
        field, value = line[:12].strip(), line[12:].strip()
        if field == "frame":
            parts.append({})
        elif value:
            name = field or name
            parts[-1][name] = parts[-1].get(name, b"") + bytes.fromhex(value.strip("-"))
    return parts[0], parts[1:]


VALUES, FRAMES = example()
HEADER = StreamHeader.unpack(VALUES["header"])
CONTENT = {0: (b"dmcore " * BLOCK)[:BLOCK], 3: (b"tail " * 512)[:512]}


def batches() -> list[bytes]:
    sealed = [frame["head"] + frame["ciphertext"] + frame["tag"] for frame in FRAMES]
    return [sealed[0], b"".join(sealed[1:4]), sealed[4]]


def test_the_examples_keys() -> None:
    committed, key = replace(HEADER, commitment=bytes(32)).committed(VALUES["DEK"])
    assert key == VALUES["K"]
    assert committed.commitment == VALUES["commitment"] == HEADER.commitment
    assert committed.pack() == VALUES["header"]
    assert HEADER.salt == VALUES["salt"]
    assert HEADER.stream_id == VALUES["stream_id"]
    assert derive.hkdf_extract(VALUES["salt"], VALUES["DEK"]) == VALUES["prk"]
    assert hashlib.sha256(replace(HEADER, commitment=bytes(32)).pack()).digest() == VALUES["ctx"]
    assert derive.digest_key(VALUES["root"], HEADER.disk) == VALUES["digest_key"]


@pytest.mark.parametrize("block", CONTENT)
def test_the_examples_digests(block: int) -> None:
    assert block_digest(VALUES["digest_key"], block, CONTENT[block]) == VALUES[f"digest {block}"]
    scanner = Scanner(VALUES["digest_key"], block_bytes=BLOCK, disk_bytes=HEADER.disk_bytes)
    assert scanner.scan(ids(block), CONTENT[block])[0].tobytes() == VALUES[f"digest {block}"]


@pytest.mark.parametrize("frame", FRAMES, ids=range(len(FRAMES)))
def test_the_examples_frames_round_trip(frame: dict[str, bytes]) -> None:
    aad = VALUES["stream_id"] + frame["head"]
    sealed = frame["ciphertext"] + frame["tag"]
    assert encrypt(VALUES["K"], frame["nonce"], aad, frame["plaintext"]) == sealed
    assert decrypt(VALUES["K"], frame["nonce"], aad, sealed) == frame["plaintext"]
    forger = Forger(VALUES["K"], VALUES["stream_id"])
    assert forger.raw(frame["head"], frame["plaintext"]) == frame["head"] + sealed


def test_the_example_is_one_stream() -> None:
    verifier, redo = (StreamReader(HEADER, VALUES["DEK"], VALUES["digest_key"]) for _ in range(2))
    reference = ReferenceReader(HEADER, VALUES["DEK"], VALUES["digest_key"])
    image, out = bytearray(b"\xee" * HEADER.disk_bytes), bytearray(2 * BLOCK)
    for number, data in enumerate(batches()):
        assert len(FrameChecks(BLOCK, HEADER.disk_bytes, number).split(data)) == (3 if number == 1 else 1)
        verifier.verify(data)
        for offset, length, at, verdict in redo.open(data, out).rows.tolist():
            assert verdict == Opened.OK
            image[offset : offset + length] = out[at : at + length] if at >= 0 else bytes(length)
        assert all(frame.verdict is Opened.OK for frame in reference.read(data))
    assert verifier.finished
    assert reference.finished
    assert image == CONTENT[0] + bytes(2 * BLOCK) + CONTENT[3]


def test_the_example_is_written_by_the_reference() -> None:
    """Everything but what a compressor makes."""
    writer = ReferenceWriter(HEADER, VALUES["DEK"], VALUES["digest_key"])
    assert writer.open() == batches()[0]
    writer.data(0, CONTENT[0])
    writer.zero(BLOCK, 2 * BLOCK)
    frame = FRAMES[2]
    assert writer.batch().endswith(frame["head"] + frame["ciphertext"] + frame["tag"])
