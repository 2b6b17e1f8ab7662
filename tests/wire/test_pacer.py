"""The long-run rate, the longest burst, several in a row, and real connections that obey."""

import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmcore.wire import connection as connection_module
from dmcore.wire.coding import ReceivedBatch
from dmcore.wire.connection import Connection
from dmcore.wire.errors import ConnectionCancelled, HeldBack, PeerGone
from dmcore.wire.messages import Ack
from dmcore.wire.pacer import BURST_S, LONGEST_WAIT_S, UNPACED, Chain, Pacer
from tests.wire.peers import TIMEOUT_S, Peers

MIB = 1 << 20
ACK = Ack(batch=1, credit=1)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def send(pacer: Pacer | Chain, clock: Clock, seconds: float, wanted: int) -> list[tuple[float, int]]:
    """What a connection that always has something to send gets through, and when."""
    until, sent = clock.now_s + seconds, []
    while clock.now_s < until:
        if allowed := pacer.take(wanted):
            sent.append((clock.now_s, allowed))
        else:
            clock.now_s += max(pacer.wait_s(wanted), 1e-6)
    return sent


def most_in_a_window(sent: list[tuple[float, int]], window_s: float) -> int:
    most = inside = 0
    window: deque[tuple[float, int]] = deque()
    for at, count in sent:
        window.append((at, count))
        inside += count
        while window[0][0] <= at - window_s:
            inside -= window.popleft()[1]
        most = max(most, inside)
    return most


@given(rate=st.integers(1 << 10, 1 << 33), wanted=st.integers(1, 1 << 20))
def test_the_rate_holds_in_the_long_run_and_in_every_tenth_of_a_second(rate: int, wanted: int) -> None:
    clock = Clock()
    wanted = max(wanted, rate // 2000)  # so that an example ends soon
    sent = send(Pacer(rate, clock), clock, 10.0, wanted)
    assert sum(count for _, count in sent) == pytest.approx(rate * 10, rel=0.02)
    assert most_in_a_window(sent, BURST_S) <= 2 * BURST_S * rate + 1


def test_several_senders_share_one_rate() -> None:
    clock = Clock()
    pacer = Pacer(1_000_000, clock)
    total = 0
    for _ in range(1000):
        clock.now_s += 0.01
        total += sum(pacer.take(16 << 10) for _ in range(20))
    assert total == pytest.approx(10_000_000, rel=0.02)


def test_no_limit_takes_all_at_once() -> None:
    pacer = Pacer()
    assert (pacer.take(1 << 40), pacer.wait_s(1 << 40), pacer.rate_bytes_s) == (1 << 40, 0.0, None)
    pacer.give_back(1 << 40)


def test_a_pause_gives_nothing_however_long_it_lasts() -> None:
    clock = Clock()
    pacer = Pacer(1000, clock)
    clock.now_s += 60
    pacer.set_rate(0)
    clock.now_s += 3600
    assert (pacer.take(100), pacer.wait_s(100), pacer.paused) == (0, LONGEST_WAIT_S, True)
    pacer.set_rate(1000)
    assert pacer.take(100) == 0, "nothing is saved up in a pause"
    clock.now_s += 0.05
    assert pacer.take(100) == 50


def test_a_lower_rate_takes_what_was_saved_up_away() -> None:
    clock = Clock()
    pacer = Pacer(1_000_000, clock)
    clock.now_s += 1
    pacer.set_rate(10_000)
    assert pacer.take(1 << 20) == 1000


def test_an_idle_time_saves_up_no_more_than_a_burst() -> None:
    clock = Clock()
    pacer = Pacer(10_000, clock)
    clock.now_s += 3600
    assert pacer.take(1 << 20) == 1000
    pacer.give_back(5000)
    assert pacer.take(1 << 20) == 1000


def test_a_sleeper_is_not_woken_for_a_byte_nor_kept_for_long() -> None:
    clock = Clock()
    pacer = Pacer(100_000, clock)
    assert pacer.wait_s(1 << 20) == pytest.approx(BURST_S / 4)
    assert pacer.wait_s(100) == pytest.approx(0.001)
    clock.now_s += pacer.wait_s(100) + 1e-9
    assert (pacer.wait_s(100), pacer.take(100)) == (0.0, 100)
    assert Pacer(1, clock).wait_s(1 << 20) == LONGEST_WAIT_S


class TestChain:
    def test_a_byte_needs_all_of_them_and_who_allows_more_loses_nothing(self) -> None:
        clock = Clock()
        plan, site = Pacer(100_000, clock), Pacer(20_000, clock)
        clock.now_s += 1
        assert Chain([plan, site]).take(1 << 20) == 2000
        assert (plan.take(1 << 20), site.take(1 << 20)) == (8000, 0)

    @pytest.mark.parametrize("rates", [(0, 1000), (1000, 0)])
    def test_one_that_refuses_costs_the_others_nothing(self, rates: tuple[int, int]) -> None:
        clock = Clock()
        pacers = [Pacer(rate, clock) for rate in rates]
        clock.now_s += 1
        chain = Chain(pacers)
        assert (chain.take(50), chain.wait_s(50), chain.paused) == (0, LONGEST_WAIT_S, True)
        assert sum(pacer.take(1000) for pacer in pacers) == 100

    def test_two_plans_under_one_site(self) -> None:
        """The site's rate is used up although one plan may take only a little of it."""
        clock = Clock()
        site = Pacer(1_000_000, clock)
        slow, fast = Chain([Pacer(100_000, clock), site]), Chain([Pacer(None, clock), site])
        sent = [0, 0]
        for _ in range(10_000):
            clock.now_s += 0.001
            sent[0] += slow.take(64 << 10)
            sent[1] += fast.take(64 << 10)
        assert sent[0] == pytest.approx(1_000_000, rel=0.02)
        assert sum(sent) == pytest.approx(10_000_000, rel=0.02)

    def test_what_did_not_go_is_given_back_to_all(self) -> None:
        clock = Clock()
        pacers = [Pacer(1000, clock), Pacer(1000, clock)]
        clock.now_s += 1
        chain = Chain(pacers)
        chain.give_back(chain.take(100) - 30)
        assert [pacer.take(1000) for pacer in pacers] == [70, 70]

    def test_none_at_all(self) -> None:
        assert (UNPACED.take(5), UNPACED.wait_s(5), UNPACED.paused) == (5, 0.0, False)


# real connections


@contextmanager
def sending(peers: Peers, client: Connection, size: int) -> Iterator["Future[None]"]:
    yield peers.run_on(client, lambda connection: connection.send_batch(memoryview(bytes(size))))


def test_a_batch_arrives_whole_at_its_pace(peers: Peers) -> None:
    client, server = peers.free_pair()
    server.allow_batches(1)
    rate, data = 2_000_000, bytes(range(256)) * 2000
    client.use_pace(Pacer(rate))
    began, before = time.monotonic(), client.sent_bytes
    sent = peers.run_on(client, lambda connection: connection.send_batch(memoryview(data)))
    received = server.receive(TIMEOUT_S)
    assert isinstance(received, ReceivedBatch)
    assert bytes(received.data) == data
    sent.result(TIMEOUT_S)
    least_s = (client.sent_bytes - before) / rate - BURST_S
    assert time.monotonic() - began >= least_s > 0


def test_connections_that_share_a_pace_share_its_rate(peers: Peers) -> None:
    pacer, size = Pacer(2_000_000), 300_000
    pairs = [peers.free_pair() for _ in range(2)]
    began = time.monotonic()
    for client, server in pairs:
        client.use_pace(pacer)
        server.allow_batches(1)
    sent = [
        peers.run_on(client, lambda connection: connection.send_batch(memoryview(bytes(size)))) for client, _ in pairs
    ]
    assert all(isinstance(server.receive(TIMEOUT_S), ReceivedBatch) for _, server in pairs)
    assert [each.result(TIMEOUT_S) for each in sent] == [None, None]
    assert time.monotonic() - began >= 2 * size / 2_000_000 - BURST_S


class Noted(Pacer):
    """Tells when it has refused."""

    def __init__(self, rate: float | None) -> None:
        super().__init__(rate)
        self.refused = threading.Event()

    def wait_s(self, wanted: int) -> float:
        self.refused.set()
        return super().wait_s(wanted)


def test_a_paused_connection_still_reads_and_goes_on_when_it_is_resumed(peers: Peers) -> None:
    client, server = peers.free_pair()
    server.allow_batches(1)
    pacer = Noted(0)
    client.use_pace(pacer)
    with sending(peers, client, MIB) as sent:
        assert pacer.refused.wait(TIMEOUT_S)
        for _ in range(200):
            server.send_message(ACK)
        while client.received_bytes < server.sent_bytes:
            assert not sent.done()
        assert server.receive(0) is None
        pacer.set_rate(None)
        assert isinstance(server.receive(TIMEOUT_S), ReceivedBatch)
        sent.result(TIMEOUT_S)


def test_a_paused_connection_is_cancelled_at_once(peers: Peers) -> None:
    client, _ = peers.free_pair()
    pacer = Noted(0)
    client.use_pace(pacer)
    with sending(peers, client, MIB) as sent:
        assert pacer.refused.wait(TIMEOUT_S)
        client.cancel("the operator")
        with pytest.raises(ConnectionCancelled, match="the operator"):
            sent.result(TIMEOUT_S)


def test_a_long_pause_ends_the_connection_so_that_others_get_what_it_holds(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "PATIENCE_S", 0.05)
    client, _ = peers.free_pair()
    client.use_pace(Pacer(0))
    with pytest.raises(HeldBack, match="goes on when it is resumed") as held:
        client.send_batch(memoryview(bytes(100)))
    assert not held.value.permanent


def test_a_slow_pace_is_no_stall(peers: Peers) -> None:
    """Longer than the stall time nothing is allowed: the peer is not to blame."""
    client, server = peers.free_pair(stall_s=0.05)
    server.allow_batches(1)
    client.use_pace(Pacer(1000))
    with sending(peers, client, 200) as sent:
        assert isinstance(server.receive(TIMEOUT_S), ReceivedBatch)
        sent.result(TIMEOUT_S)


def test_a_peer_that_takes_nothing_is_found_out_under_a_pace(peers: Peers) -> None:
    client, _ = peers.free_pair(stall_s=0.3)
    client._transport._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 << 10)
    client.use_pace(Pacer(1 << 40))
    with pytest.raises(PeerGone, match=r"took nothing for 0\.3 s"):
        client.send_batch(memoryview(bytes(8 * MIB)))


def test_a_pause_does_not_hold_up_the_end(peers: Peers) -> None:
    client, server = peers.free_pair()
    client.use_pace(Pacer(0))
    client.close()
    with pytest.raises(PeerGone, match="closed the connection"):
        server.receive(TIMEOUT_S)
