"""A connection that is cut is over for both directions at once."""

import socket

import pytest

from dmcore.wire.errors import PeerGone
from dmcore.wire.messages import Grant
from tests.wire.peers import Peers


def test_sending_after_the_peer_was_cut_off(peers: Peers) -> None:
    """OpenSSL refuses to encrypt then; whoever sends must hear what a reader does."""
    client, server = peers.free_pair()
    client._transport._sock.shutdown(socket.SHUT_RDWR)
    with pytest.raises(PeerGone, match="cut off"):
        server.receive(10)
    with pytest.raises(PeerGone):
        server.send_message(Grant(credit=1))
