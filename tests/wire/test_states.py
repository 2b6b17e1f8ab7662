"""Every (kind of connection, state, sender, message) is decided, and docs/protocol.md says the same."""

import re
from itertools import product
from pathlib import Path

import pytest

from dmcore.wire.coding import MESSAGE_TYPES
from dmcore.wire.errors import OutOfTurn, ProtocolError
from dmcore.wire.messages import ConnectionKind, Message
from dmcore.wire.states import BATCH, TABLES, Dialogue, Side, State
from tests.wire.examples import BY_TYPE, DISK_HELLO, HELLO

DOCUMENT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
NAMES = sorted([*MESSAGE_TYPES, BATCH])
ROW = re.compile(r"^\| `([a-z]+)` \| ([CS]): `([a-z-]+)` \| `([a-z]+)` \|$", re.MULTILINE)
HELLOS = {ConnectionKind.CONTROL: HELLO, ConnectionKind.DISK: DISK_HELLO}


def documented(kind: ConnectionKind) -> dict[tuple[str, str, str], str]:
    section = DOCUMENT.split(f"### The {kind} connection's states")[1].split("\n#")[0]
    table = {(state, side, name): after for state, side, name, after in ROW.findall(section)}
    assert table
    for state, side in product(State, Side):  # the document says this once, in words
        if state is not State.ENDED:
            table[state, side, "error"] = State.ENDED
    return table


def message_named(name: str, kind: ConnectionKind) -> Message | None:
    return {**BY_TYPE, "hello": HELLOS[kind]}.get(name)


def at(kind: ConnectionKind, side: Side, state: State) -> Dialogue:
    dialogue = Dialogue(side)
    if state is not State.CONNECTED:
        dialogue._table = TABLES[kind]
        dialogue.state = state
    return dialogue


@pytest.mark.parametrize("kind", ConnectionKind)
@pytest.mark.parametrize("state", State)
def test_every_message_in_every_state_is_what_the_document_says(kind: ConnectionKind, state: State) -> None:
    table = documented(kind)
    for sender, name in product(Side, NAMES):
        message, after = message_named(name, kind), table.get((state, sender, name))
        sending, receiving = at(kind, sender, state), at(kind, sender.other, state)
        if after is None:
            with pytest.raises(OutOfTurn):
                sending.sent(message)
            with pytest.raises(ProtocolError):
                receiving.received(message)
            assert (sending.state, receiving.state) == (state, state)
        else:
            sending.sent(message)
            receiving.received(message)
            assert (sending.state, receiving.state) == (after, after)


@pytest.mark.parametrize("kind", ConnectionKind)
def test_every_state_of_a_kind_can_be_reached_and_left(kind: ConnectionKind) -> None:
    table = TABLES[kind]
    reached, before = {State.CONNECTED}, set[State]()
    while reached != before:
        before = set(reached)
        reached |= {after for (state, _, _), after in table.items() if state in before}
    used = {state for state, _, name in table if name != "error"}
    assert used | {State.ENDED} == reached


def test_every_message_may_come_somewhere() -> None:
    used = {name for table in TABLES.values() for _, _, name in table}
    assert used == set(NAMES)


def test_every_message_has_a_section_in_the_document_with_all_its_fields() -> None:
    sections = dict(re.findall(r"^#### `([a-z-]+)`\n(.*?)(?=^#|\Z)", DOCUMENT, re.MULTILINE | re.DOTALL))
    assert set(sections) == set(MESSAGE_TYPES)
    for name, model in MESSAGE_TYPES.items():
        named = set(re.findall(r"`([a-z_0-9]+)`", sections[name]))
        missing = set(model.model_fields) - {"type"} - named
        assert not missing, f"{name}: {missing}"
