"""Who may be at the other end, and that nothing is left open when it is somebody else."""

from dataclasses import replace
from pathlib import Path

import pytest

from dmcore.appliance.link import Link
from dmcore.errors import ExitCode
from dmcore.host.address import Address
from dmcore.host.errors import FileBroken
from dmcore.model.ids import NodeId
from dmcore.node.identity import load_identity
from dmcore.wire.calls import Channel
from dmcore.wire.connection import Connection
from dmcore.wire.errors import HandshakeRefused, PeerGone, PeerRefused
from dmcore.wire.messages import Welcome
from dmcore.wire.trust_errors import OtherConnector
from tests.appliance.cycle_lab import CycleLab, text
from tests.sources.memory import MemorySource


@pytest.fixture
def source() -> MemorySource:
    made = MemorySource()
    made.add("vm", "a", text(100_000))
    return made


def test_both_kinds_of_connection_are_greeted(lab: CycleLab) -> None:
    link = lab.tools.link
    for connect in (link.control, link.disk):
        connect().close()


def test_a_greeting_that_fails_leaves_nothing_open(lab: CycleLab, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Connection] = []
    close = Connection.close

    def refuse(self: Channel) -> Welcome:
        raise PeerGone(peer="them", problem="no welcome")

    def noted(self: Connection) -> None:
        closed.append(self)
        close(self)

    monkeypatch.setattr(Channel, "hello", refuse)
    monkeypatch.setattr(Connection, "close", noted)
    with pytest.raises(PeerGone):
        lab.tools.link.control()
    assert any(connection.peer == f"127.0.0.1:{lab.proxy.address.port}" for connection in closed)


def test_another_connector_under_the_same_authority(lab: CycleLab, source: MemorySource) -> None:
    lab.pairing = replace(lab.pairing, connector=NodeId("0" * 64))
    with pytest.raises(OtherConnector):
        lab.run(source)
    assert source.snapshots() == []


def test_another_connector_under_another_authority(lab: CycleLab, source: MemorySource, tmp_path: Path) -> None:
    other = CycleLab(tmp_path / "other")
    try:
        lab.proxy.target = other.pairing.address
        with pytest.raises(HandshakeRefused):
            lab.run(source)
    finally:
        other.close()


def test_a_node_that_was_unpaired(lab: CycleLab, source: MemorySource) -> None:
    lab.connector.trust.paired.unpair(lab.identity.node)
    with pytest.raises(PeerRefused) as caught:
        lab.run(source)
    assert (caught.value.code, caught.value.exit_code) == ("tls.unpaired", ExitCode.TRUST)
    assert lab.proxy.accepted == 1  # asking again would not help


def test_files_of_the_pairing_that_cannot_be_used(lab: CycleLab, tmp_path: Path) -> None:
    with pytest.raises(FileBroken, match="pair again"):
        Link.of(lab.pairing, load_identity(tmp_path))  # a key that the certificate is not for
    lab.pairing.certificate_path.unlink()
    with pytest.raises(FileBroken, match="pair again"):
        Link.of(lab.pairing, lab.identity)


def test_nobody_listens(lab: CycleLab) -> None:
    link = replace(lab.tools.link, pairing=replace(lab.pairing, address=Address("127.0.0.1", 1)))
    with pytest.raises(PeerGone):
        link.control()
