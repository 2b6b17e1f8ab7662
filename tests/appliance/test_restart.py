"""A cycle's next attempt, by a process that knows nothing of the one before: it resumes, cleans up, or is dropped."""

import threading
from contextlib import closing
from pathlib import Path

import pytest

from dmcore.appliance import cycle, reading
from dmcore.appliance.errors import Cancelled, ConnectorBusy, CycleFailed, EpochBehind
from dmcore.appliance.progress import CycleReport
from dmcore.connector import control_session
from dmcore.connector.trust_errors import EpochStale
from dmcore.model.enums import Reason, Rung, SnapshotKind
from dmcore.model.ids import CycleId, PointId
from dmcore.model.phase import ANSWERED, Phase
from dmcore.shadow.errors import CycleDropped, StaleEpoch
from dmcore.shadow.group import GroupShadow
from dmcore.sources.base import Source
from dmcore.sources.errors import SnapshotFailed, SourceReadFailed
from dmcore.wire.calls import ControlChannel
from dmcore.wire.disk_channel import DiskChannel
from dmcore.wire.errors import PeerRefused
from dmcore.wire.messages import Ack, CommitReply, CommitRequest, StateRequest
from tests.appliance.cycle_lab import BLOCK, KIB, MIB, CycleLab, noise, only, text
from tests.appliance.watched import Read, WatchedSnapshot, WatchedSource
from tests.sources.faulty import FaultySource
from tests.sources.labs import ImageLab
from tests.sources.memory import MemorySource

SIZE = 2 * MIB + 512
NEW = noise(SIZE, 2)


@pytest.fixture(autouse=True)
def many_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BATCH_BYTES", 64 * KIB)


def memory(kind: SnapshotKind = SnapshotKind.REFLINK) -> MemorySource:
    source = MemorySource(kind)
    source.add("vm", "a", text(SIZE))
    return source


@pytest.fixture
def acknowledged(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once the connector has acknowledged a few batches."""
    heard, event = DiskChannel._acknowledged, threading.Event()

    def hear(self: DiskChannel, ack: Ack) -> None:
        heard(self, ack)
        if ack.batch >= 3:
            event.set()

    monkeypatch.setattr(DiskChannel, "_acknowledged", hear)
    return event


def failing_halfway(source: Source, acknowledged: threading.Event | None = None) -> WatchedSource:
    """Reading its second half fails, not before something was acknowledged."""
    watched = WatchedSource(source)

    def act(read: Read) -> None:
        if read.offset >= MIB:
            assert acknowledged is None or acknowledged.wait(20)
            raise SourceReadFailed(path=read.disk, offset=read.offset, length=read.length, problem="as if killed")

    watched.watch.act = act
    return watched


class TestHalfway:
    def test_a_later_attempt_goes_on_from_the_same_snapshot(self, lab: CycleLab, acknowledged: threading.Event) -> None:
        source, job = memory(), lab.job()
        with pytest.raises(SourceReadFailed):
            lab.run(failing_halfway(source, acknowledged), job)
        assert len(source.snapshots()) == 1
        source.write("vm", "a", 0, NEW)
        report = lab.run(source, lab.next_attempt(job))
        assert lab.image(report) == text(SIZE)  # as it was at the snapshot
        stats = only(report)
        assert stats.resumed_bytes > 0
        assert stats.resumed_bytes + stats.read_bytes == stats.changed_bytes == SIZE
        assert source.snapshots() == []
        assert lab.image(lab.run(source)) == NEW

    def test_with_reflinks_of_files(self, lab: CycleLab, xfs: Path, acknowledged: threading.Event) -> None:
        root = xfs / "restart"
        root.mkdir()
        files, job = ImageLab(root), lab.job()
        files.add("vm", "a.img", text(SIZE))
        with pytest.raises(SourceReadFailed):
            lab.run(failing_halfway(files.open(), acknowledged), job)
        files.write("vm", "a.img", 0, NEW)
        report = lab.run(files.open(), lab.next_attempt(job))
        assert only(report).resumed_bytes > 0
        assert lab.image(report) == text(SIZE)
        assert files.open().snapshots() == []

    def test_without_snapshots_the_cycle_is_dropped(self, lab: CycleLab) -> None:
        source, job = memory(SnapshotKind.NONE), lab.job()
        with pytest.raises(SourceReadFailed):
            lab.run(failing_halfway(source), job)
        with pytest.raises(PeerRefused) as caught:
            lab.run(source, lab.next_attempt(job))
        assert caught.value.code == "cycle.dropped"
        assert lab.points() == []
        assert lab.image(lab.run(source)) == text(SIZE)

    def test_a_snapshot_that_is_gone_drops_the_cycle(self, lab: CycleLab) -> None:
        source, job = memory(), lab.job()
        with pytest.raises(SourceReadFailed):
            lab.run(failing_halfway(source), job)
        source.delete_snapshot(source.snapshots()[0])
        source.write("vm", "a", 0, NEW)
        for _ in range(2):  # and stays dropped
            job = lab.next_attempt(job)
            with pytest.raises(PeerRefused) as caught:
                lab.run(source, job)
            assert caught.value.code == "cycle.dropped"
            assert source.snapshots() == []  # the one that was made in vain
        assert lab.image(lab.run(source)) == NEW

    def test_another_cycle_takes_its_place(self, lab: CycleLab, acknowledged: threading.Event) -> None:
        """Once what the seed has written is accounted for: it goes on from there."""
        source, job = memory(), lab.job()
        with pytest.raises(SourceReadFailed):
            lab.run(failing_halfway(source, acknowledged), job)
        source.write("vm", "a", 0, NEW)
        report = lab.run(source)
        assert (only(report).rung, only(report).reason) == (Rung.COMPARE, Reason.NO_TOKEN)
        assert lab.image(report) == NEW
        assert source.snapshots() == []  # the first one's is nobody's any more

    def test_an_interrupted_seed_is_sent_no_block_twice(self, lab: CycleLab, acknowledged: threading.Event) -> None:
        """Its snapshot is gone, and the next cycle compares: only what is not there yet, or has changed, is sent."""
        source, job = memory(), lab.job()
        with pytest.raises(SourceReadFailed):
            lab.run(failing_halfway(source, acknowledged), job)
        source.delete_snapshot(source.snapshots()[0])
        source.write("vm", "a", 0, noise(BLOCK))
        with pytest.raises(PeerRefused) as caught:
            lab.run(source, lab.next_attempt(job))
        assert caught.value.code == "cycle.dropped"
        assert source.snapshots() == []
        lab.settle()
        (disk,) = lab.shadow.state.images
        with closing(lab.shadow.digest_map(disk)) as digest_map:
            there = int(digest_map.read(0, digest_map.grid.blocks).any(axis=1).sum())
        assert there > 1
        report = lab.run(source)
        stats = only(report)
        assert (stats.rung, stats.reason) == (Rung.COMPARE, Reason.NO_TOKEN)
        assert stats.data_bytes == SIZE - (there - 1) * BLOCK
        assert stats.read_bytes == SIZE
        assert lab.image(report) == noise(BLOCK) + text(SIZE)[BLOCK:]
        assert only(lab.run(source)).rung is Rung.DELTA

    def test_an_attempt_that_was_fenced_off_leaves_the_snapshot_alone(self, lab: CycleLab) -> None:
        source, job = memory(), lab.job()
        newer = lab.next_attempt(job)
        with pytest.raises(SourceReadFailed):
            lab.run(failing_halfway(source), newer)
        with pytest.raises(EpochBehind) as caught:
            lab.run(source, job)
        assert (caught.value.code, caught.value.epoch, caught.value.current) == ("cycle.epoch-behind", 1, 2)
        assert not caught.value.permanent
        assert len(source.snapshots()) == 1

    def test_one_that_is_fenced_off_before_its_begin_leaves_the_newer_ones_snapshot(self, lab: CycleLab) -> None:
        source, job = memory(), lab.job()
        newer = lab.next_attempt(job)

        class Late(WatchedSource):
            def find_snapshot(self, name: str) -> WatchedSnapshot | None:
                with pytest.raises(SourceReadFailed):
                    lab.run(failing_halfway(source), newer)
                return super().find_snapshot(name)

        with pytest.raises(PeerRefused) as caught:
            lab.run(Late(source), job)
        assert caught.value.code == "ticket.epoch"
        assert len(source.snapshots()) == 1

    def test_a_fence_in_the_middle_ends_the_older_attempt(self, lab: CycleLab) -> None:
        source, job = memory(), lab.job()
        newer, reports = lab.next_attempt(job), list[CycleReport]()
        watched = WatchedSource(source)
        watched.watch.at_read(10, lambda: reports.append(lab.run(source, newer)))
        with pytest.raises(PeerRefused):
            lab.run(watched, job)
        assert lab.points() == [reports[0].point]
        assert lab.image(reports[0]) == text(SIZE)


class TestSnapshotsOfOthers:
    def test_leftovers_of_the_group_are_removed(self, lab: CycleLab) -> None:
        source, job = memory(), lab.job()
        foreign = [f"dmcore-{job.plan}-{job.cycle}", "backup"]
        for name in [f"dmcore-{job.group}-{job.plan}", *foreign]:
            source.snapshot(["vm"], name)
        lab.run(source, job)
        assert source.snapshots() == sorted(foreign)

    def test_what_cannot_be_removed_fails_no_cycle(self, lab: CycleLab) -> None:
        source = memory()
        job = lab.job()
        source.snapshot(["vm"], f"dmcore-{job.group}-{job.plan}")
        faulty = FaultySource(source)
        broken = SnapshotFailed(path="memory", name="it", problem="cannot be removed")
        faulty.plan.fail("delete_snapshot", broken, times=2)
        faulty.plan.fail("release", broken)
        lab.run(faulty, job)
        faulty.plan.verify_exercised()
        assert len(source.snapshots()) == 2
        faulty.plan.fail("snapshots", broken)
        lab.run(faulty)
        faulty.plan.verify_exercised()
        assert len(source.snapshots()) == 2
        lab.run(faulty)
        assert source.snapshots() == []  # the next cycle has tried again

    def test_a_cycle_that_cannot_begin_leaves_none(self, lab: CycleLab) -> None:
        """Or one would pile up each time that it is tried."""
        source = memory()
        lab.run(source)
        for _ in range(2):
            with pytest.raises(PeerRefused) as caught:
                lab.run(source, lab.job().model_copy(update={"target": "elsewhere"}))
            assert caught.value.code == "alias.unknown"
            assert source.snapshots() == []


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def sealed(lab: CycleLab, monkeypatch: pytest.MonkeyPatch) -> "Sealed":
    return Sealed(lab, monkeypatch)


class Sealed:
    """A cycle whose appliance dies when it is sealed, at a connector that does not roll forward."""

    def __init__(self, lab: CycleLab, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lab, self.source, self.job = lab, memory(), lab.job()
        commit, start = ControlChannel.commit, lab.connector.roller.start

        def die(channel: ControlChannel, request: CommitRequest) -> CommitReply:
            commit(channel, request)
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(control_session, "COMMIT_WAIT_S", 0.01)
            patch.setattr(lab.connector.roller, "start", lambda _: None)
            patch.setattr(ControlChannel, "commit", die)
            with pytest.raises(Killed):
                lab.cycle(self.source, self.job).run()
        self._start, self._patch = start, monkeypatch
        assert lab.shadow.state.open_cycle is not None

    def hold(self) -> None:
        self._patch.setattr(self.lab.connector.roller, "start", lambda _: None)

    def let_go(self) -> None:
        self._patch.setattr(self.lab.connector.roller, "start", self._start)


class TestCommitted:
    def test_the_next_attempt_only_cleans_up(self, lab: CycleLab, sealed: Sealed) -> None:
        sealed.source.write("vm", "a", 0, NEW)
        watched = WatchedSource(sealed.source)
        report = lab.run(watched, lab.next_attempt(sealed.job))
        assert lab.points() == [report.point]
        assert lab.image(report) == text(SIZE)
        assert watched.watch.reads == []
        assert report.source_time == lab.shadow.catalogue.get(report.point).source_time
        assert sealed.source.snapshots() == []
        assert only(lab.run(sealed.source)).rung is Rung.DELTA

    def test_again_and_again_it_is_the_same_point(self, lab: CycleLab) -> None:
        source, job = memory(), lab.job()
        points: set[PointId] = {lab.run(source, job).point}
        source.write("vm", "a", 0, b"after the point")
        for _ in range(2):
            job = lab.next_attempt(job)
            report = lab.run(source, job)
            points.add(report.point)
            assert report.source_time is None  # this snapshot is not the point's
            assert source.snapshots() == []
        assert lab.points() == list(points)
        report = lab.run(source)
        assert only(report).rung is Rung.DELTA  # no token was given up that the connector does not hold
        assert lab.image(report).startswith(b"after the point")

    def test_another_cycle_waits(self, lab: CycleLab, sealed: Sealed) -> None:
        sealed.hold()
        before = sealed.source.snapshots()
        with pytest.raises(ConnectorBusy):
            lab.cycle(sealed.source).run()
        assert sealed.source.snapshots() == before  # none was made in vain
        sealed.let_go()
        with closing(lab.tools.link.control()) as control:
            assert control.state(StateRequest(group=sealed.job.group, plan=sealed.job.plan)).busy
        assert lab.connector.roller.wait(lab.shadow, 20) in ANSWERED  # asking has started it again
        lab.settle()
        assert lab.image(lab.run(sealed.source)) == text(SIZE)
        assert sealed.source.snapshots() == []

    def test_a_connector_that_becomes_busy_meanwhile(
        self, lab: CycleLab, sealed: Sealed, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sealed.hold()
        asked = ControlChannel.state
        monkeypatch.setattr(
            ControlChannel, "state", lambda *a: asked(*a).model_copy(update={"busy": False, "cycle": None})
        )
        with pytest.raises(ConnectorBusy):
            lab.cycle(sealed.source).run()
        assert len(sealed.source.snapshots()) == 1

    def test_a_cycle_that_was_taken_but_made_no_point(self, lab: CycleLab, sealed: Sealed) -> None:
        shadow: GroupShadow = lab.shadow
        with shadow._lock:
            shadow._save(shadow.state.at(Phase.FAILED, problem="2 frames did not open"))
        with pytest.raises(CycleFailed, match="2 frames did not open"):
            lab.run(sealed.source, lab.next_attempt(sealed.job))
        assert sealed.source.snapshots() == []


class TestCancel:
    def test_before_it_begins(self, lab: CycleLab) -> None:
        source = memory()
        running = lab.cycle(source)
        running.cancel("the node stops")
        with pytest.raises(Cancelled, match="the node stops"):
            running.run()
        assert (lab.proxy.accepted, source.snapshots()) == (0, [])

    @pytest.mark.parametrize("number", [1, 10])
    def test_while_it_reads(self, lab: CycleLab, number: int) -> None:
        source, job = memory(), lab.job()
        watched = WatchedSource(source)
        running = lab.cycle(watched, job)
        watched.watch.at_read(number, lambda: running.cancel("the lease is lost"))
        with pytest.raises(Cancelled, match="the lease is lost"):
            running.run()
        assert lab.proxy.accepted == 3  # nothing is tried again
        assert (lab.pools.raw.free, lab.pools.sealed.free) == (lab.pools.raw.count, lab.pools.sealed.count)
        report = lab.run(source, lab.next_attempt(job))
        assert lab.image(report) == text(SIZE)

    @pytest.mark.parametrize("when", ["state", "begin", "commit"])
    def test_between_the_words_of_the_control_connection(
        self, lab: CycleLab, monkeypatch: pytest.MonkeyPatch, when: str
    ) -> None:
        source, job = memory(), lab.job()
        running = lab.cycle(source, job)
        said = getattr(ControlChannel, when)

        def interrupted(*args: object) -> object:
            running.cancel("stop")
            return said(*args)

        with monkeypatch.context() as patch:
            patch.setattr(ControlChannel, when, interrupted)
            with pytest.raises(Cancelled, match="stop"):
                running.run()
        report = lab.run(source, lab.next_attempt(job))
        assert lab.image(report) == text(SIZE)
        assert source.snapshots() == []

    def test_while_a_disk_is_opened(self, lab: CycleLab, monkeypatch: pytest.MonkeyPatch) -> None:
        """There is no pump yet that could be told."""
        source = memory()
        running = lab.cycle(source)
        wrapped = lab.keys.unwrap

        def interrupted(*args: object) -> bytes:
            running.cancel("stop")
            return wrapped(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(lab.keys, "unwrap", interrupted)
        with pytest.raises(Cancelled, match="stop"):
            running.run()
        assert lab.points() == []

    def test_after_the_point_is_made_it_is_too_late(self, lab: CycleLab, monkeypatch: pytest.MonkeyPatch) -> None:
        source = memory()
        running = lab.cycle(source)
        monkeypatch.setattr(source, "release", lambda *_: running.cancel("too late"))
        report = running.run()
        assert lab.points() == [report.point]


def test_a_cycle_without_a_name_of_its_own(lab: CycleLab) -> None:
    """Names of snapshots come from ids alone."""
    job = lab.job()
    names: list[str] = []
    source = memory()
    watched = WatchedSource(source)
    watched.watch.at_read(1, lambda: names.extend(source.snapshots()))
    lab.run(watched, job)
    assert names == [f"dmcore-{job.group}-{CycleId(job.cycle)}"]


def test_the_connectors_words_are_known() -> None:
    """The appliance knows them as texts: it imports nothing of the connector's."""
    assert {StaleEpoch.code, EpochStale.code} == cycle.FENCED_OFF
    assert CycleDropped.code == cycle.DROPPED
