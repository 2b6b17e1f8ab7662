"""Both ends over real TLS: the client's channels against what serving.py, or a misbehaving server, says."""

from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import pytest

from dmcore.blocks import extents as ex
from dmcore.blocks.grid import Grid
from dmcore.errors import ExitCode, RefusedError
from dmcore.model.ids import DiskId, PlanId
from dmcore.seal.header import StreamHeader
from dmcore.wire import disk_channel, serving, versions
from dmcore.wire import messages as m
from dmcore.wire.calls import ControlChannel
from dmcore.wire.coding import ReceivedBatch, ReceivedMessage
from dmcore.wire.connection import Connection
from dmcore.wire.disk_channel import NOTHING_DURABLE, DiskChannel
from dmcore.wire.errors import PeerGone, PeerRefused, ProtocolError, VersionMismatch
from dmcore.wire.exchange import expect, receive_before
from dmcore.wire.paging import PAGE_EXTENTS
from dmcore.wire.states import State
from tests.wire.examples import BEGIN_REQUEST, BY_TYPE, CYCLE, HELLO, OPEN_REPLY, OPEN_REQUEST
from tests.wire.peers import TIMEOUT_S, Peers
from tests.wire.test_paging import every_other

GRID = Grid(OPEN_REPLY.disk_bytes, OPEN_REPLY.block_bytes)
BATCH = memoryview(bytes(100))
HEADER = StreamHeader(1, PlanId(CYCLE), DiskId(CYCLE), CYCLE, 1, 1, OPEN_REPLY.disk_bytes)


def greet(peers: Peers) -> tuple[Connection, Connection, "Future[m.Hello]"]:
    client, server = peers.pair()
    return client, server, peers.run_on(server, serving.greet)


def control(peers: Peers) -> tuple[ControlChannel, Connection]:
    client, server, greeted = greet(peers)
    channel = ControlChannel(client, TIMEOUT_S)
    channel.hello()
    assert greeted.result(TIMEOUT_S).connection is m.ConnectionKind.CONTROL
    server.adopt()
    return channel, server


def greeted_disk(peers: Peers) -> tuple[DiskChannel, Connection]:
    client, server, greeted = greet(peers)
    channel = DiskChannel(client, TIMEOUT_S)
    channel.hello()
    assert greeted.result(TIMEOUT_S).connection is m.ConnectionKind.DISK
    server.adopt()
    return channel, server


def answer_open(
    peers: Peers, server: Connection, durable: ex.Extents, unknown: ex.Extents, **reply: object
) -> "Future[None]":
    def script(end: Connection) -> None:
        assert expect(end, m.OpenRequest, TIMEOUT_S)[0] == OPEN_REQUEST
        serving.send_opened(end, OPEN_REPLY.model_copy(update=reply), durable, unknown)

    return peers.run_on(server, script)


def opened_disk(peers: Peers, *, credit: int = 2) -> tuple[DiskChannel, Connection]:
    channel, server = greeted_disk(peers)
    answered = answer_open(peers, server, ex.empty(), ex.empty(), credit=credit)
    channel.open(OPEN_REQUEST)
    answered.result(TIMEOUT_S)
    server.adopt()
    return channel, server


def streaming(peers: Peers, *, credit: int = 2) -> tuple[DiskChannel, Connection]:
    channel, server = opened_disk(peers, credit=credit)
    channel.start(HEADER)
    _, payload = expect(server, m.StreamStart, TIMEOUT_S)
    assert StreamHeader.unpack(bytes(payload)) == HEADER
    return channel, server


def take_batch(server: Connection) -> None:
    assert isinstance(server.receive(TIMEOUT_S), ReceivedBatch)


# Greeting


def test_the_client_learns_version_and_software(peers: Peers) -> None:
    client, _, _ = greet(peers)
    welcome = ControlChannel(client).hello()
    assert welcome.version == 1
    assert welcome.software == versions.software()


def test_no_common_version_is_said_to_the_client(peers: Peers) -> None:
    client, server = peers.pair()
    client.send_message(HELLO.model_copy(update={"versions": (7, 8)}))
    with pytest.raises(VersionMismatch, match=r"speaks wire versions \(7, 8\), this node \(1,\)") as mismatch:
        serving.greet(server)
    serving.send_error(server, mismatch.value)
    with pytest.raises(PeerRefused, match="upgrade") as refused:
        expect(client, m.Welcome, TIMEOUT_S)
    assert (refused.value.code, refused.value.exit_code) == ("wire.version", ExitCode.REFUSED)


def test_the_newest_common_version_is_chosen() -> None:
    assert versions.choose((1, 2, 9)) == 1
    assert versions.choose((2, 9)) is None


def test_only_shared_capabilities_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "CAPABILITIES", ("pad", "trace"))
    assert versions.shared(("trace", "other")) == ("trace",)


@pytest.mark.parametrize("welcome", [{"version": 2}, {"capabilities": ("pad",)}])
def test_a_welcome_beyond_the_offer_is_refused(peers: Peers, welcome: dict[str, object]) -> None:
    client, server = peers.pair()

    def script(end: Connection) -> None:
        expect(end, m.Hello, TIMEOUT_S)
        end.send_message(BY_TYPE["welcome"].model_copy(update=welcome))

    peers.run_on(server, script)
    with pytest.raises(ProtocolError, match="was not offered"):
        ControlChannel(client, TIMEOUT_S).hello()


def test_a_client_that_says_nothing_is_given_up(peers: Peers) -> None:
    _, server = peers.pair()
    with pytest.raises(PeerGone, match="sent no hello in time"):
        serving.greet(server, timeout_s=0.05)


def test_a_wakeup_does_not_end_the_wait_for_a_reply(peers: Peers) -> None:
    client, server, greeted = greet(peers)
    server.wakeup()
    client.wakeup()
    DiskChannel(client, TIMEOUT_S).hello()
    greeted.result(TIMEOUT_S)


# Control


def test_a_whole_control_conversation(peers: Peers) -> None:
    channel, server = control(peers)

    def script(end: Connection) -> list[m.Message]:
        taken = []
        for reply in ("state-reply", "begin-reply", "begin-reply", "commit-reply", "commit-reply"):
            received = end.receive(TIMEOUT_S)
            assert isinstance(received, ReceivedMessage)
            taken.append(received.message)
            end.send_message(BY_TYPE[reply])
        return taken

    served = peers.run_on(server, script)
    state, commit = BY_TYPE["state-request"], BY_TYPE["commit-request"]
    assert isinstance(state, m.StateRequest)
    assert isinstance(commit, m.CommitRequest)
    assert channel.state(state) == BY_TYPE["state-reply"]
    for _ in range(2):
        assert channel.begin(BEGIN_REQUEST) == BY_TYPE["begin-reply"]
    for _ in range(2):
        assert channel.commit(commit) == BY_TYPE["commit-reply"]
    assert served.result(TIMEOUT_S) == [state, BEGIN_REQUEST, BEGIN_REQUEST, commit, commit]


def test_a_refusal_is_raised_at_the_caller(peers: Peers) -> None:
    channel, server = control(peers)

    def script(end: Connection) -> None:
        expect(end, m.BeginRequest, TIMEOUT_S)
        serving.send_error(end, StaleError(correlation="c-9"))
        end.close()

    served = peers.run_on(server, script)
    with pytest.raises(PeerRefused) as refused:
        channel.begin(BEGIN_REQUEST)
    assert refused.value.code == "test.stale"
    assert refused.value.message == "epoch 3   is stale" + "!" * (1000 - 18)
    assert refused.value.correlation == "c-9"
    channel.close()
    served.result(TIMEOUT_S)


def test_the_reply_to_another_request_is_refused(peers: Peers) -> None:
    channel, server = control(peers)
    server.dialogue.state = State.COMMITTING
    server.send_message(BY_TYPE["commit-reply"])
    with pytest.raises(ProtocolError, match="commit-reply while beginning"):
        channel.begin(BEGIN_REQUEST)


def test_a_batch_in_place_of_a_message_is_refused(peers: Peers) -> None:
    client, server = peers.free_pair()
    server.allow_batches(1)
    client.send_batch(BATCH)
    with pytest.raises(ProtocolError, match="something else than hello"):
        expect(server, m.Hello, TIMEOUT_S)


def test_sending_an_error_to_a_peer_that_is_gone_is_no_error(peers: Peers) -> None:
    client, server = peers.pair()
    client.close()
    with pytest.raises(PeerGone):
        server.receive(TIMEOUT_S)
    server.close()
    serving.send_error(server, StaleError())


def test_an_error_is_sent_once(peers: Peers) -> None:
    client, server = peers.pair()
    serving.send_error(server, StaleError())
    serving.send_error(server, StaleError())
    with pytest.raises(PeerRefused):
        client.receive(TIMEOUT_S)


# Disk: open and digests


@pytest.mark.parametrize("count", [0, 1, PAGE_EXTENTS + 5])
def test_open_gives_the_extents_of_all_pages(peers: Peers, count: int) -> None:
    channel, server = greeted_disk(peers)
    grid = Grid(1 << 40, 4096)
    durable, unknown = every_other(count), ex.from_pairs([(1 << 39, 4096)])
    geometry = {"disk_bytes": grid.disk_bytes, "block_bytes": grid.block_bytes}
    answered = answer_open(peers, server, durable, unknown, **geometry)
    opened = channel.open(OPEN_REQUEST)
    answered.result(TIMEOUT_S)
    assert opened.grid == grid
    assert opened.reply.durable_pages == -(-count // PAGE_EXTENTS)
    assert np.array_equal(opened.durable, durable)
    assert np.array_equal(opened.unknown, unknown)
    assert channel.credit == OPEN_REPLY.credit


def test_more_pages_than_the_grid_can_need_are_refused_unread(peers: Peers) -> None:
    channel, server = greeted_disk(peers)
    server.dialogue.state = State.OPENING
    server.send_message(OPEN_REPLY.model_copy(update={"unknown_pages": 2}))
    with pytest.raises(ProtocolError, match="more pages"):
        channel.open(OPEN_REQUEST)


@pytest.mark.parametrize("page", [{"page": 1}, {"what": m.PageOf.UNKNOWN}])
def test_a_page_out_of_order_is_refused(peers: Peers, page: dict[str, object]) -> None:
    channel, server = greeted_disk(peers)
    server.dialogue.state = State.OPENING
    server.send_message(OPEN_REPLY.model_copy(update={"durable_pages": 1}))
    server.send_message(BY_TYPE["extents-page"].model_copy(update=page), bytes(16))
    with pytest.raises(ProtocolError, match="not 0 of durable"):
        channel.open(OPEN_REQUEST)


def test_extents_past_the_disk_are_refused(peers: Peers) -> None:
    channel, server = greeted_disk(peers)
    answered = answer_open(peers, server, ex.from_pairs([(OPEN_REPLY.disk_bytes, 65536)]), ex.empty())
    with pytest.raises(ProtocolError, match=r"127\.0\.0\.1.*extent ends"):
        channel.open(OPEN_REQUEST)
    answered.result(TIMEOUT_S)


def test_digests_are_asked_two_windows_ahead_and_come_in_order(peers: Peers) -> None:
    channel, server = opened_disk(peers)
    all_digests = np.arange(GRID.blocks * 16, dtype=np.uint8).reshape(-1, 16)

    def script(end: Connection) -> None:
        for _ in range(3):
            request, _ = expect(end, m.DigestsRequest, TIMEOUT_S)
            first, blocks = serving.checked_window(request, GRID)
            serving.send_digests(end, request, all_digests[first : first + blocks])

    served = peers.run_on(server, script)
    channel.request_digests(0, 100)
    channel.request_digests(100, 200)
    with pytest.raises(ValueError, match="more than 2 windows"):
        channel.request_digests(300, 1)
    assert np.array_equal(channel.next_digests(), all_digests[:100])
    assert np.array_equal(channel.next_digests(), all_digests[100:300])
    assert np.array_equal(channel.digests(1000, 24), all_digests[1000:])
    with pytest.raises(ValueError, match="no digests were asked"):
        channel.next_digests()
    served.result(TIMEOUT_S)


def test_digests_past_the_disk_are_refused_by_the_server() -> None:
    with pytest.raises(ProtocolError, match="past the last of 1024"):
        serving.checked_window(m.DigestsRequest(first_block=1000, blocks=25), GRID)


@pytest.mark.parametrize("asked", [0, 1])
def test_digests_nobody_asked_for_are_refused(peers: Peers, asked: int) -> None:
    channel, server = opened_disk(peers)
    for _ in range(asked):
        channel.request_digests(0, 2)
    server.send_message(m.DigestsReply(first_block=5, blocks=2), bytes(32))
    with pytest.raises(ProtocolError, match="2 blocks from 5, not asked for"):
        drain(channel)


def drain(channel: DiskChannel) -> None:
    """Take in what comes until the connection is over."""
    while True:
        channel._handle(receive_before(channel.connection, channel.connection.clock() + TIMEOUT_S, "end"))


# Disk: the stream


def test_batches_go_under_credit_and_are_acknowledged(peers: Peers) -> None:
    channel, server = streaming(peers, credit=1)

    def script(end: Connection) -> None:
        take_batch(end)
        assert end.receive(0.02) is None  # no credit, so no batch
        serving.send_ack(end, 0, 2)
        take_batch(end)
        take_batch(end)
        serving.send_grant(end, 1)
        take_batch(end)
        serving.send_ack(end, 2, 0)
        serving.send_ack(end, 3, 0)

    served = peers.run_on(server, script)
    assert channel.durable_batch == NOTHING_DURABLE
    assert [channel.send_batch(BATCH, TIMEOUT_S) for _ in range(4)] == [0, 1, 2, 3]
    assert channel.credit == 0
    channel.wait_durable(3, TIMEOUT_S)
    channel.wait_durable(1, TIMEOUT_S)
    assert channel.durable_batch == 3
    served.result(TIMEOUT_S)


def test_digests_come_between_acks(peers: Peers) -> None:
    channel, server = streaming(peers)
    channel.request_digests(0, 2)
    channel.send_batch(BATCH, TIMEOUT_S)
    request, _ = expect(server, m.DigestsRequest, TIMEOUT_S)
    take_batch(server)
    serving.send_ack(server, 0, 1)
    serving.send_digests(server, request, np.zeros((2, 16), np.uint8))
    assert channel.next_digests().shape == (2, 16)
    assert channel.durable_batch == 0


@pytest.mark.parametrize("batches", [(1,), (0, 0), (5,)], ids=["not sent", "twice", "far ahead"])
def test_an_ack_that_does_not_grow_or_was_not_sent_is_refused(peers: Peers, batches: tuple[int, ...]) -> None:
    channel, server = streaming(peers)
    channel.send_batch(BATCH, TIMEOUT_S)
    for number in batches:
        serving.send_ack(server, number, 0)
    with pytest.raises(ProtocolError, match="ack of batch"):
        drain(channel)


def test_a_batch_without_credit_is_refused_by_the_server(peers: Peers) -> None:
    channel, server = streaming(peers, credit=1)
    channel.credit = 2
    channel.send_batch(BATCH, TIMEOUT_S)
    channel.send_batch(BATCH, TIMEOUT_S)
    take_batch(server)
    with pytest.raises(ProtocolError, match="without credit"):
        server.receive(TIMEOUT_S)


def test_waiting_for_credit_and_for_acks_ends(peers: Peers) -> None:
    channel, _ = streaming(peers, credit=1)
    channel.send_batch(BATCH, TIMEOUT_S)
    with pytest.raises(PeerGone, match="sent no credit in time"):
        channel.send_batch(BATCH, 0.05)
    with pytest.raises(PeerGone, match="sent no ack of batch 0 in time"):
        channel.wait_durable(0, 0.05)


@pytest.mark.parametrize("last", [m.Grant(credit=1), m.Ack(batch=0, credit=0)], ids=["credit", "ack"])
def test_a_connector_that_waits_for_room_is_waited_for(
    peers: Peers, monkeypatch: pytest.MonkeyPatch, last: m.Grant | m.Ack
) -> None:
    """Each of its words, a Grant of nothing too, begins the time anew."""
    channel, _ = streaming(peers, credit=1)
    channel.send_batch(BATCH, TIMEOUT_S)
    said: list[m.Message] = [m.Grant(credit=0), m.Grant(credit=0), last]
    now, given = 0.0, []

    def hear(connection: Connection, deadline: float, what: str) -> ReceivedMessage:
        nonlocal now
        given.append(deadline - now)
        now += 6
        return ReceivedMessage(said.pop(0), memoryview(b""))

    monkeypatch.setattr(disk_channel, "receive_before", hear)
    monkeypatch.setattr(channel.connection, "clock", lambda: now)
    monkeypatch.setattr(channel.connection, "send_batch", lambda data: None)
    if isinstance(last, m.Ack):
        channel.wait_durable(0, 7)
    else:
        channel.send_batch(BATCH, 7)
    assert given == [7, 7, 7]


def test_a_page_after_open_is_refused(peers: Peers) -> None:
    channel, server = opened_disk(peers)
    server.send_message(m.ExtentsPage(what=m.PageOf.DURABLE, page=0), bytes(16))
    channel.request_digests(0, 1)
    with pytest.raises(ProtocolError, match="nobody asked for"):
        channel.next_digests()


@dataclass(eq=False)
class StaleError(RefusedError):
    code = "test.stale"
    template = "epoch 3\n\x1b is stale{marks}"
    marks: str = "!" * 2000
