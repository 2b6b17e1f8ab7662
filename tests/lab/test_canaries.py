"""A canary that is there is found, in whatever shape; one that is not is not."""

import base64
import json
import os

import pytest

from tests.lab import canaries

NUMBER = (1 << 40) + (37 << 16)


@pytest.mark.parametrize(
    "message",
    [
        json.dumps({"offset": NUMBER}).encode(),
        f"{NUMBER:x}".encode(),
        f"{NUMBER:016X}".encode(),
        b"head" + NUMBER.to_bytes(8, "big") + b"tail",
        NUMBER.to_bytes(8, "little"),
        base64.b64encode(b"x" + NUMBER.to_bytes(8, "big") + b"yz"),
        base64.urlsafe_b64encode(b"ab" + str(NUMBER).encode() + b"c"),
    ],
)
def test_a_number_is_found(message: bytes) -> None:
    assert canaries.found([("message", message)], [canaries.of_number("offset", NUMBER)])


@pytest.mark.parametrize("shift", range(3))
def test_bytes_are_found(shift: int) -> None:
    secret = os.urandom(64)
    canary = canaries.of_bytes("block", secret)
    for shape in (secret[16:40], secret.hex().encode(), base64.b64encode(os.urandom(shift) + secret)):
        assert canaries.found([("message", b"{" + shape + b"}")], [canary])


def test_what_is_not_there_is_not_found() -> None:
    noise = os.urandom(1 << 16) + base64.b64encode(os.urandom(1 << 16)) + str(NUMBER + 1).encode()
    known = [canaries.of_number("offset", NUMBER), canaries.of_bytes("block", os.urandom(4096))]
    assert canaries.found([("noise", noise)], known) == []
