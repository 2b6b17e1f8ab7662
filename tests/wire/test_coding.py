import json
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmcore.model.ids import DiskId
from dmcore.wire import messages as m
from dmcore.wire.coding import MESSAGE_TYPES, decode, encode
from dmcore.wire.errors import MessageTooLarge, ProtocolError
from dmcore.wire.records import HEADER, MAX_PAYLOAD_BYTES
from tests.wire.examples import BEGIN_REQUEST, BY_TYPE, DISK_PLAN, HELLO, OPEN_REPLY, any_message, payload_for


def body_of(message: m.Message, payload: bytes) -> memoryview:
    return memoryview(encode(message, len(payload))[HEADER.size :] + payload)


def raw(text: str | bytes, payload: bytes = b"") -> memoryview:
    packed = text.encode() if isinstance(text, str) else text
    return memoryview(len(packed).to_bytes(4) + packed + payload)


def changed(message: m.Message, **fields: object) -> memoryview:
    return raw(json.dumps(json.loads(message.model_dump_json()) | fields))


def test_there_is_an_example_of_every_message() -> None:
    assert set(BY_TYPE) == set(MESSAGE_TYPES)


@given(message=any_message())
def test_every_message_comes_back(message: m.Message) -> None:
    payload = payload_for(message)
    received = decode(body_of(message, payload))
    assert received.message == message
    assert bytes(received.payload) == payload


@pytest.mark.parametrize("name", sorted(MESSAGE_TYPES))
def test_a_payload_that_does_not_belong_is_refused(name: str) -> None:
    message = BY_TYPE[name]
    wrong = payload_for(message) + b"x"
    packed = message.model_dump_json()
    with pytest.raises(ProtocolError, match="payload of"):
        decode(raw(packed, wrong))
    with pytest.raises(ValueError, match="does not belong"):
        encode(message, len(wrong))


@pytest.mark.parametrize("name", sorted(MESSAGE_TYPES))
def test_an_unknown_field_is_refused_in_every_message(name: str) -> None:
    with pytest.raises(ProtocolError, match="extra_forbidden"):
        decode(changed(BY_TYPE[name], secret_field=1))


@pytest.mark.parametrize("name", sorted(MESSAGE_TYPES))
def test_every_message_is_frozen(name: str) -> None:
    with pytest.raises(ValueError, match="frozen"):
        BY_TYPE[name].type = "hello"  # type: ignore[misc]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("{", id="no JSON"),
        pytest.param(b"\xff\xfe", id="no UTF-8"),
        pytest.param("[]", id="a list"),
        pytest.param("{}", id="no type"),
        pytest.param('{"type": "ping"}', id="unknown type"),
        pytest.param('{"type": ["hello"]}', id="type is a list"),
        pytest.param("[" * 5000, id="deep"),
    ],
)
def test_what_is_no_message_is_refused(text: str | bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(raw(text))


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (HELLO, {"versions": []}),
        (HELLO, {"versions": [0]}),
        (HELLO, {"versions": [1] * 17}),
        (HELLO, {"versions": ["1"]}),
        (HELLO, {"versions": [True]}),
        (HELLO, {"connection": "pairing"}),
        (HELLO, {"software": "x\x1b[2J"}),
        (HELLO, {"software": "x" * 257}),
        (OPEN_REPLY, {"disk_bytes": 0}),
        (OPEN_REPLY, {"disk_bytes": 513}),
        (OPEN_REPLY, {"disk_bytes": 1 << 63}),
        (OPEN_REPLY, {"block_bytes": 65537}),
        (OPEN_REPLY, {"block_bytes": 12288}),
        (OPEN_REPLY, {"block_bytes": 8 << 20}),
        (OPEN_REPLY, {"credit": -1}),
        (OPEN_REPLY, {"durable_pages": 1025}),
        (OPEN_REPLY, {"wrapped_dek": "not base64!"}),
        (OPEN_REPLY, {"base_image": "image"}),
        (BEGIN_REQUEST, {"source_time": "2026-01-02T03:04:05"}),
        (BEGIN_REQUEST, {"epoch": 1 << 63}),
        (BEGIN_REQUEST, {"epoch": 1.5}),
        (BEGIN_REQUEST, {"successor": -1}),
        (BEGIN_REQUEST, {"successor": 1 << 32}),
        (BEGIN_REQUEST, {"successor": True}),
        (BEGIN_REQUEST, {"disks": []}),
        (BEGIN_REQUEST, {"consistency": "perfect"}),
        (BY_TYPE["digests-request"], {"blocks": 65537}),
        (BY_TYPE["grant"], {"credit": -1}),
        (BY_TYPE["error"], {"code": "Not A Code"}),
    ],
)
def test_a_value_out_of_its_limits_is_refused(message: m.Message, fields: dict[str, object]) -> None:
    with pytest.raises(ProtocolError):
        decode(changed(message, **fields))


def test_an_error_about_a_message_does_not_repeat_the_peers_text() -> None:
    with pytest.raises(ProtocolError) as refused:
        decode(changed(HELLO, **{"evil\x1b[2J": "evil"}))
    assert "evil" not in str(refused.value)
    with pytest.raises(ProtocolError) as refused:
        decode(raw('{"type": "evil"}'))
    assert "evil" not in str(refused.value)


def test_the_most_disks_fit_and_more_than_fit_are_an_error_of_this_node() -> None:
    plan = DISK_PLAN.model_copy(update={"machine": "m" * 64, "label": "l" * 64})
    plans = tuple(plan.model_copy(update={"disk": DiskId(UUID(int=number))}) for number in range(1024))
    big = BEGIN_REQUEST.model_copy(update={"disks": plans})
    assert decode(body_of(big, b"")).message == big
    bigger = BEGIN_REQUEST.model_copy(update={"disks": (plan,) * 4096})
    with pytest.raises(MessageTooLarge, match="fewer disks"):
        encode(bigger, 0)


@given(data=st.binary(max_size=200))
def test_random_bytes_are_only_ever_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(raw(data))


def test_a_page_is_whole_extents_up_to_its_limit() -> None:
    page = m.ExtentsPage(what=m.PageOf.UNKNOWN, page=0)
    sizes = [0, 15, 16, MAX_PAYLOAD_BYTES, MAX_PAYLOAD_BYTES + 16]
    assert [page.payload_fits(size) for size in sizes] == [False, False, True, True, False]


def test_a_disk_is_planned_once() -> None:
    plan = json.loads(DISK_PLAN.model_dump_json())
    with pytest.raises(ProtocolError, match="value_error"):
        decode(changed(BEGIN_REQUEST, disks=[plan, plan]))
