"""A connection that breaks costs what was not acknowledged, and nothing else: the same cycle goes on."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from dmcore.appliance import cycle, reading, transfer
from dmcore.appliance.errors import Cancelled
from dmcore.appliance.stop import Stop
from dmcore.blocks import extents as ex
from dmcore.blocks.extents import Extents
from dmcore.connector import control_session
from dmcore.model.enums import Rung, SnapshotKind
from dmcore.seal.header import StreamHeader
from dmcore.wire.calls import ControlChannel
from dmcore.wire.disk_channel import DiskChannel, OpenedDisk
from dmcore.wire.errors import PeerGone, ProtocolError
from dmcore.wire.messages import BeginReply, BeginRequest, CommitReply, CommitRequest, OpenRequest
from tests.appliance.conftest import ATTEMPTS
from tests.appliance.cycle_lab import KIB, MIB, CycleLab, noise, only
from tests.appliance.watched import WatchedSource
from tests.sources.memory import MemorySource

SIZE = 2 * MIB + 512


@dataclass
class Opened:
    """What each `open` found durable, and how much had been read by then; the salt of each stream."""

    source: WatchedSource
    durable: list[Extents] = field(default_factory=list)
    reads_before: list[int] = field(default_factory=list)
    salts: list[bytes] = field(default_factory=list)

    def assert_nothing_durable_was_read_again(self) -> None:
        for at, durable in zip(self.reads_before, self.durable, strict=True):
            later = ex.from_pairs((read.offset, read.length) for read in self.source.watch.reads[at:])
            assert len(ex.intersect(later, durable)) == 0


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> WatchedSource:
    """Read in batches of 16 blocks, so that there are many."""
    monkeypatch.setattr(reading, "BATCH_BYTES", 64 * KIB)
    memory = MemorySource()
    memory.add("vm", "a", noise(SIZE))
    return WatchedSource(memory)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, source: WatchedSource) -> Opened:
    seen = Opened(source)
    open_disk, start = DiskChannel.open, DiskChannel.start

    def watched_open(self: DiskChannel, request: OpenRequest) -> OpenedDisk:
        answer = open_disk(self, request)
        seen.durable.append(answer.durable)
        seen.reads_before.append(len(source.watch.reads))
        return answer

    def watched_start(self: DiskChannel, header: StreamHeader) -> None:
        seen.salts.append(header.salt)
        start(self, header)

    monkeypatch.setattr(DiskChannel, "open", watched_open)
    monkeypatch.setattr(DiskChannel, "start", watched_start)
    return seen


def once(work: Callable[[], None]) -> Callable[[], None]:
    """Only the first call does it."""
    left = [work]
    return lambda: left.pop()() if left else None


def test_a_cut_stream_goes_on_under_another_salt(lab: CycleLab, source: WatchedSource, opened: Opened) -> None:
    lab.proxy.limit(None, None, MIB)
    report = lab.run(source)
    assert lab.image(report) == noise(SIZE)
    assert len(opened.durable) == 2
    assert len(set(opened.salts)) == 2
    opened.assert_nothing_durable_was_read_again()
    stats = only(report)
    assert stats.resumed_bytes == ex.total_bytes(opened.durable[1]) > 0
    assert stats.changed_bytes == SIZE
    assert stats.read_bytes == source.watch.read_bytes("a") == stats.to_read_bytes
    assert SIZE <= stats.read_bytes <= 2 * SIZE - stats.resumed_bytes
    assert lab.points() == [report.point]


def test_more_cuts_than_attempts_as_long_as_each_try_gets_further(
    lab: CycleLab, source: WatchedSource, opened: Opened
) -> None:
    cuts = 2 * ATTEMPTS
    lab.proxy.limit(None, *[None, 400 * KIB] * cuts)
    report = lab.run(source)
    assert lab.image(report) == noise(SIZE)
    assert len(opened.durable) > ATTEMPTS
    lengths = [ex.total_bytes(durable) for durable in opened.durable]
    assert lengths == sorted(lengths)
    opened.assert_nothing_durable_was_read_again()


def test_cut_before_anything_was_said(lab: CycleLab, source: WatchedSource) -> None:
    lab.proxy.limit(0, 10, 2000)
    report = lab.run(source)
    assert lab.image(report) == noise(SIZE)


@pytest.mark.parametrize("rung", [Rung.DELTA, Rung.COMPARE])
def test_every_rung_resumes(lab: CycleLab, source: WatchedSource, opened: Opened, rung: Rung) -> None:
    lab.run(source)
    source._inner.write("vm", "a", 0, noise(MIB, 2))  # type: ignore[attr-defined]
    source._inner.write("vm", "a", SIZE - 512, bytes(512))  # type: ignore[attr-defined]
    lab.proxy.limit(None, None, MIB // 2)
    report = lab.run(source, lab.job(resync=rung))
    assert only(report).rung is rung
    assert only(report).changed_bytes == MIB + 512
    assert only(report).resumed_bytes > 0
    assert lab.image(report) == noise(MIB, 2) + noise(SIZE)[MIB:-512] + bytes(512)


def test_a_connection_that_never_gets_anywhere_is_given_up(lab: CycleLab, source: WatchedSource) -> None:
    lab.proxy.limit(None, *[None, 4000] * ATTEMPTS)
    with pytest.raises(PeerGone):
        lab.run(source)
    assert lab.proxy.accepted == 1 + 2 * ATTEMPTS
    assert len(source.snapshots()) == 1  # for the next attempt
    assert (lab.pools.raw.free, lab.pools.sealed.free) == (lab.pools.raw.count, lab.pools.sealed.count)


def test_nobody_there(lab: CycleLab, source: WatchedSource) -> None:
    lab.proxy.refusing = True
    with pytest.raises(PeerGone):
        lab.run(source)
    assert lab.proxy.accepted == ATTEMPTS
    assert source.snapshots() == []  # none is made before the connector was asked


def test_what_no_other_connection_can_help_is_not_tried_again(
    lab: CycleLab, source: WatchedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: ControlChannel, request: BeginRequest) -> BeginReply:
        raise ProtocolError(problem="it speaks in tongues")

    monkeypatch.setattr(ControlChannel, "begin", broken)
    with pytest.raises(ProtocolError):
        lab.run(source)
    assert lab.proxy.accepted == 2


def test_the_connector_stops_and_comes_back(lab: CycleLab, source: WatchedSource, opened: Opened) -> None:
    source.watch.at_read(20, lab.restart_connector)
    report = lab.run(source)
    assert lab.image(report) == noise(SIZE)
    assert len(opened.durable) == 2
    opened.assert_nothing_durable_was_read_again()


@pytest.mark.parametrize("when", ["before it is sent", "before its reply", "connector restarts"])
def test_the_control_connection_is_cut_at_commit(
    lab: CycleLab, source: WatchedSource, opened: Opened, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    commit = ControlChannel.commit
    cut = once(lab.restart_connector if when == "connector restarts" else lab.proxy.cut)

    def cut_commit(self: ControlChannel, request: CommitRequest) -> CommitReply:
        if when != "before its reply":
            cut()
            return commit(self, request)
        reply = commit(self, request)
        cut()
        return reply if lab.proxy.accepted > 3 else commit(self, request)

    monkeypatch.setattr(ControlChannel, "commit", cut_commit)
    report = lab.run(source)
    assert lab.image(report) == noise(SIZE)
    assert report.source_time is not None
    assert len(opened.durable) == 1  # a disk that is through is not opened again
    assert lab.points() == [report.point]
    assert source.snapshots() == []


def test_a_compare_that_is_through_is_not_repeated(
    lab: CycleLab, source: WatchedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the control connection has been idle too long: reading a whole disk again would take as long again."""
    lab.run(source)
    source.watch.reads.clear()
    cut, commit = once(lab.proxy.cut), ControlChannel.commit

    def cut_commit(self: ControlChannel, request: CommitRequest) -> CommitReply:
        cut()
        return commit(self, request)

    monkeypatch.setattr(ControlChannel, "commit", cut_commit)
    report = lab.run(source, lab.job(resync=Rung.COMPARE))
    assert source.watch.read_bytes("a") == SIZE
    assert lab.image(report) == noise(SIZE)


def test_a_source_without_snapshots_resumes_within_its_attempt(lab: CycleLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BATCH_BYTES", 64 * KIB)
    memory = MemorySource(SnapshotKind.NONE)
    memory.add("vm", "a", noise(SIZE))
    lab.proxy.limit(None, None, MIB)
    report = lab.run(memory)
    assert only(report).resumed_bytes > 0
    assert lab.image(report) == noise(SIZE)


def test_other_disks_of_the_group_resume_too(lab: CycleLab, source: WatchedSource) -> None:
    for name in "bcd":
        source._inner.add("vm", name, noise(SIZE, ord(name)))  # type: ignore[attr-defined]
    source.watch.at_read(60, lab.proxy.cut)
    report = lab.run(source)
    wanted = {("vm", name): noise(SIZE, ord(name)) for name in "bcd"}
    assert lab.images(report.point) == {("vm", "a"): noise(SIZE), **wanted}


def test_an_interrupt_ends_the_disks_too(lab: CycleLab, source: WatchedSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C reaches the thread that waits for the disks: it must not wait for them to the end."""
    reading_began, interrupted = threading.Event(), threading.Event()

    def interrupt(_: object) -> None:
        assert reading_began.wait(20)
        interrupted.set()
        raise KeyboardInterrupt

    def hold_on() -> None:
        reading_began.set()
        assert interrupted.wait(20)

    source.watch.at_read(3, hold_on)
    monkeypatch.setattr(transfer, "as_completed", interrupt)
    with pytest.raises(KeyboardInterrupt):
        lab.run(source)
    assert source.watch.read_bytes("a") < SIZE
    assert (lab.pools.raw.free, lab.pools.sealed.free) == (lab.pools.raw.count, lab.pools.sealed.count)


def test_attempts_are_bounded_and_time_is_not() -> None:
    """A transfer that has run for hours gets as many attempts as one that has just begun."""
    options = cycle.RETRYING._context_kws
    assert (options["attempts"], options["timeout"], options["wait_max"]) == (cycle.ATTEMPTS, None, 0)
    assert not cycle.is_lost_connection(ProtocolError(problem="it would be the same again"))
    assert cycle.is_lost_connection(PeerGone(peer="them", problem="gone"))


@pytest.mark.parametrize("answered", [0, 1], ids=["before-the-snapshot", "in-the-transfer"])
def test_a_stop_ends_the_pause_before_the_next_try(
    lab: CycleLab, source: WatchedSource, monkeypatch: pytest.MonkeyPatch, answered: int
) -> None:
    monkeypatch.setattr(cycle, "FIRST_WAIT_S", 3600.0)
    monkeypatch.setattr(cycle, "LONGEST_WAIT_S", 3600.0)
    running, pausing, pause = lab.cycle(source), threading.Event(), Stop.pause

    def noticed(self: Stop, wait_s: float) -> None:
        if wait_s:
            pausing.set()
        pause(self, wait_s)

    monkeypatch.setattr(Stop, "pause", noticed)
    lab.proxy.limit(*[None] * answered, 0)
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(running.run)
        assert pausing.wait(20)
        running.cancel("the node stops")
        with pytest.raises(Cancelled, match="the node stops"):
            result.result(5)
    assert lab.proxy.accepted == answered + 1
    assert len(source.snapshots()) == answered


def test_progress_while_the_connector_applies(
    lab: CycleLab, source: WatchedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`commit` is asked again until it is answered; each reply says how far it is."""
    commit, roller, seen = ControlChannel.commit, lab.connector.roller, list[tuple[int, int]]()
    running = lab.cycle(source)

    def held(self: ControlChannel, request: CommitRequest) -> CommitReply:
        seen.append((running.progress.applied_bytes, running.progress.to_apply_bytes))
        with monkeypatch.context() as patch:
            if len(seen) == 1:
                patch.setattr(roller, "start", lambda _: None)
            return commit(self, request)

    monkeypatch.setattr(control_session, "COMMIT_WAIT_S", 0.01)
    monkeypatch.setattr(ControlChannel, "commit", held)
    running.run()
    staged = running.progress.to_apply_bytes
    assert staged > SIZE
    assert seen[:2] == [(0, 0), (0, staged)]
    assert running.progress.applied_bytes == staged
