import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_public_key,
)

from dmcore.api.errors import TicketExpired, TicketForged
from dmcore.api.tickets import verify_ticket
from dmcore.control.queue.tickets import TICKET_KEY_FILE, TICKET_LIFE_S, TicketDesk
from dmcore.host.errors import FileBroken, FileExposed
from tests.control.queue_kit import NOW, after


def mint(desk: TicketDesk) -> str:
    return desk.mint(NOW, plan=uuid4(), group=uuid4(), cycle=uuid4(), epoch=7, node="a" * 64, connector="c" * 64)


def test_the_key_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    first, again = TicketDesk.load(tmp_path / "state"), TicketDesk.load(tmp_path / "state")
    assert first.fingerprint == again.fingerprint
    assert stat.S_IMODE((tmp_path / "state" / TICKET_KEY_FILE).stat().st_mode) == 0o600
    assert "PRIVATE" not in repr(first)


def test_those_that_make_it_at_once_have_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        desks = list(pool.map(TicketDesk.load, [tmp_path / "state"] * 4))
    assert len({desk.fingerprint for desk in desks}) == 1


def test_what_it_mints_its_public_half_verifies(tmp_path: Path) -> None:
    desk = TicketDesk.load(tmp_path)
    public = load_pem_public_key(desk.public_pem.encode())
    ticket = verify_ticket(public, mint(desk), after(TICKET_LIFE_S - 1))  # type: ignore[arg-type]
    assert (ticket.epoch, ticket.node, ticket.connector) == (7, "a" * 64, "c" * 64)
    with pytest.raises(TicketExpired):
        verify_ticket(desk.private_key.public_key(), mint(desk), after(TICKET_LIFE_S))
    with pytest.raises(TicketForged):
        verify_ticket(TicketDesk.load(tmp_path / "other").private_key.public_key(), mint(desk))


def test_a_fingerprint_is_of_the_public_half(tmp_path: Path) -> None:
    fingerprint = TicketDesk.load(tmp_path).fingerprint
    assert len(bytes.fromhex(fingerprint)) == 32
    assert fingerprint != TicketDesk.load(tmp_path / "other").fingerprint


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    TicketDesk.load(tmp_path)
    (tmp_path / TICKET_KEY_FILE).chmod(0o644)
    with pytest.raises(FileExposed):
        TicketDesk.load(tmp_path)


@pytest.mark.parametrize("what", ["nothing", "another kind"])
def test_a_file_that_is_no_such_key_is_refused(tmp_path: Path, what: str) -> None:
    other = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / TICKET_KEY_FILE).write_bytes(other if what == "another kind" else b"")
    (tmp_path / TICKET_KEY_FILE).chmod(0o600)
    with pytest.raises(FileBroken, match=TICKET_KEY_FILE):
        TicketDesk.load(tmp_path)
