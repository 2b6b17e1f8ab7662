"""Pairing messages on TLS: a length (4 bytes, big-endian), then JSON. Bounded in bytes and seconds."""

import ssl
import time

from dmcore.node.pairing_errors import MessageMalformed
from dmcore.node.pairing_token import Message

LENGTH_BYTES = 4
MAX_MESSAGE_BYTES = 64 << 10
"""A CSR, or two P-256 certificates, need less than 8 KiB."""


def framed(message: Message) -> bytes:
    """A message as it is sent."""
    data = message.model_dump_json().encode()
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


def receive(tls: ssl.SSLSocket, deadline: float) -> bytes:
    """One message's JSON, by `deadline` of the monotonic clock.

    Raises:
        MessageMalformed: too long, or cut short.
        OSError: the connection failed, or the time is over.
    """
    length = int.from_bytes(_exactly(tls, LENGTH_BYTES, deadline), "big")
    if length > MAX_MESSAGE_BYTES:
        raise MessageMalformed(problem=f"{length} bytes are more than {MAX_MESSAGE_BYTES}")
    return _exactly(tls, length, deadline)


def _exactly(tls: ssl.SSLSocket, length: int, deadline: float) -> bytes:
    data = bytearray()
    while len(data) < length:
        # never 0, which would mean non-blocking; recv then fails at once with TimeoutError
        tls.settimeout(max(deadline - time.monotonic(), 0.001))
        part = tls.recv(length - len(data))
        if not part:
            raise MessageMalformed(problem="it ends early")
        data += part
    return bytes(data)
