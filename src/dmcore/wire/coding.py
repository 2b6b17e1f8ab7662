"""Messages to record bodies and back."""

from typing import Annotated, NamedTuple, get_args

from pydantic import Field, TypeAdapter, ValidationError

from dmcore.wire.errors import MessageTooLarge, ProtocolError
from dmcore.wire.messages import Message
from dmcore.wire.records import (
    HEADER,
    JSON_LENGTH,
    MAX_JSON_BYTES,
    Kind,
    pack_header,
    split_message,
)

MESSAGE_TYPES: dict[str, type[Message]] = {model.model_fields["type"].default: model for model in get_args(Message)}
"""Every message by its name on the wire."""

_ADAPTER: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="type")])


class ReceivedMessage(NamedTuple):
    """A message and the payload that came with it, often empty."""

    message: Message
    payload: memoryview


class ReceivedBatch(NamedTuple):
    """The sealed frames of one batch, in a buffer that is the receiver's own."""

    data: memoryview


Received = ReceivedMessage | ReceivedBatch


def encode(message: Message, payload_bytes: int) -> bytes:
    """The record of a message up to its payload.

    Raises:
        MessageTooLarge: its JSON is over the limit.
        ValueError: this message does not carry such a payload.
    """
    body = message.model_dump_json().encode()
    if len(body) > MAX_JSON_BYTES:
        raise MessageTooLarge(type=message.type, bytes=len(body), limit=MAX_JSON_BYTES)
    if not message.payload_fits(payload_bytes):
        raise ValueError(f"a payload of {payload_bytes} bytes does not belong to {message.type}")
    length = JSON_LENGTH.size + len(body) + payload_bytes
    record = bytearray(HEADER.size + JSON_LENGTH.size)
    record[: HEADER.size] = pack_header(Kind.MESSAGE, length)
    JSON_LENGTH.pack_into(record, HEADER.size, len(body))
    return bytes(record) + body


def decode(body: memoryview) -> ReceivedMessage:
    """The message of a MESSAGE record's body.

    Raises:
        ProtocolError: no message of ours, a field missing, unknown or out of its limits, or a wrong payload.
    """
    packed, payload = split_message(body)
    try:
        message = _ADAPTER.validate_json(bytes(packed))
    except ValidationError as error:
        raise ProtocolError(problem=_describe(error)) from None
    if not message.payload_fits(len(payload)):
        raise ProtocolError(problem=f"a payload of {len(payload)} bytes with {message.type}")
    return ReceivedMessage(message, payload)


def _describe(error: ValidationError) -> str:
    # Where and which rule, never the value: it is the peer's, and may be a key.
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    # An unknown key or tag is the peer's text too.
    place = ".".join(str(part) for part in first["loc"] if first["type"] != "extra_forbidden") or "message"
    return f"{place[:100]}: {first['type']}"
