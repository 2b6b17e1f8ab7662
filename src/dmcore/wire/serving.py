"""What a connector says, on both kinds of connections."""

import contextlib

import numpy as np
from numpy.typing import NDArray

from dmcore.blocks.extents import Extents
from dmcore.blocks.grid import Grid
from dmcore.errors import ConnectionFailed, DmcoreError
from dmcore.wire import versions
from dmcore.wire.connection import Connection
from dmcore.wire.errors import OutOfTurn, PeerRefused, ProtocolError, VersionMismatch
from dmcore.wire.exchange import expect
from dmcore.wire.messages import (
    Ack,
    DigestsReply,
    DigestsRequest,
    ExtentsPage,
    Grant,
    Hello,
    OpenReply,
    PageOf,
    Welcome,
)
from dmcore.wire.paging import page_count, pages
from dmcore.wire.refusals import error_message

GREETING_TIMEOUT_S = 10.0
"""How long a client may take to say hello: nothing is done for it before."""


def greet(connection: Connection, timeout_s: float = GREETING_TIMEOUT_S) -> Hello:
    """Take the client's hello and answer it.

    Raises:
        VersionMismatch: no version in common; the caller sends it with `send_error` and closes.
        ProtocolError, PeerGone: as `Connection.receive`.
    """
    hello, _ = expect(connection, Hello, timeout_s)
    version = versions.choose(hello.versions)
    if version is None:
        raise VersionMismatch(peer=connection.peer, theirs=hello.versions, ours=versions.VERSIONS)
    capabilities = versions.shared(hello.capabilities)
    connection.send_message(Welcome(version=version, capabilities=capabilities, software=versions.software()))
    return hello


def send_error(connection: Connection, error: DmcoreError) -> None:
    """Tell the peer why this end closes now, best effort. Then close: that lets the peer read it."""
    # It may be gone, may have refused itself, or wait for the rest of a record that could not be sent.
    with contextlib.suppress(ConnectionFailed, OutOfTurn, PeerRefused):
        connection.send_message(error_message(error))


def send_opened(connection: Connection, reply: OpenReply, durable: Extents, unknown: Extents) -> None:
    """Answer `open`: the reply with its numbers of pages filled in, then the pages. Its credit counts."""
    counts = {"durable_pages": page_count(durable), "unknown_pages": page_count(unknown)}
    connection.allow_batches(reply.credit)
    connection.send_message(reply.model_copy(update=counts))
    for what, extents in ((PageOf.DURABLE, durable), (PageOf.UNKNOWN, unknown)):
        for page, payload in enumerate(pages(extents)):
            connection.send_message(ExtentsPage(what=what, page=page), payload)


def checked_window(request: DigestsRequest, grid: Grid) -> tuple[int, int]:
    """The first block and the number of blocks that a client asks the digests of.

    Raises:
        ProtocolError: they are not all on the disk.
    """
    if request.first_block + request.blocks > grid.blocks:
        raise ProtocolError(problem=f"digests past the last of {grid.blocks} blocks")
    return request.first_block, request.blocks


def send_digests(connection: Connection, request: DigestsRequest, digests: NDArray[np.uint8]) -> None:
    """Answer `digests` with an array `(blocks, 16)`."""
    reply = DigestsReply(first_block=request.first_block, blocks=request.blocks)
    connection.send_message(reply, np.ascontiguousarray(digests).data)


def send_ack(connection: Connection, batch: int, credit: int) -> None:
    """Say that a batch and all before it are durable, and let the client send `credit` more."""
    connection.allow_batches(credit)
    connection.send_message(Ack(batch=batch, credit=credit))


def send_grant(connection: Connection, credit: int) -> None:
    """Let the client send `credit` more batches; with 0, say that it is waited for room, so that it waits on."""
    connection.allow_batches(credit)
    connection.send_message(Grant(credit=credit))
