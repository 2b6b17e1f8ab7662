"""Whole cycles: whatever the rung, codec, block size and content, the point is the source as it was at its snapshot."""

import json
import threading
from pathlib import Path

import pytest

from dmcore.api.jobs import Codec
from dmcore.appliance import transfer
from dmcore.appliance.agent import make_pools
from dmcore.model.enums import Reason, Rung, SnapshotKind
from dmcore.seal.header import StreamHeader
from dmcore.sources.errors import SourceReadFailed
from dmcore.sources.tracking import start_tracking
from dmcore.wire.disk_channel import DiskChannel
from tests.appliance.cycle_lab import BLOCK, KIB, MIB, CycleLab, noise, only, text
from tests.appliance.watched import Read, WatchedSource
from tests.sources.faulty import FaultySource
from tests.sources.labs import ImageLab, TrackedLab
from tests.sources.memory import MemorySource

SIZE = MIB + 3 * 512
"""A short last block at every block size."""


def memory(content: bytes, **kind: object) -> MemorySource:
    source = MemorySource(**kind)  # type: ignore[arg-type]
    source.add("vm", "a", content)
    return source


def content(source: MemorySource, disk: str = "a") -> bytes:
    return bytes(source._disks["vm", disk].content)


@pytest.mark.parametrize("block_bytes", [4 * KIB, 64 * KIB, MIB])
@pytest.mark.parametrize("codec", list(Codec))
def test_seed_delta_and_compare_give_the_right_image(tmp_path: Path, block_bytes: int, codec: Codec) -> None:
    lab = CycleLab(tmp_path / "lab", block_bytes=block_bytes)
    try:
        source = memory(noise(SIZE // 2) + text(SIZE - SIZE // 2))
        for rung, reason in [
            (Rung.SEED, Reason.NO_IMAGE),
            (Rung.DELTA, Reason.TRACKED),
            (Rung.COMPARE, Reason.TRACKING_RESET),
        ]:
            if rung is Rung.COMPARE:
                source.reset_tracking("vm", "a")
            report = lab.run(source, lab.job(codec=codec))
            assert (only(report).rung, only(report).reason) == (rung, reason)
            assert lab.image(report) == content(source)
            source.write("vm", "a", SIZE - 700, noise(700, 2))
            source.write("vm", "a", 100_000, bytes(200_000))
    finally:
        lab.close()


@pytest.mark.parametrize("kind", ["image", "tracked"])
@pytest.mark.parametrize("reflinks", [False, True], ids=["ext4", "xfs"])
def test_files_with_holes(
    lab: CycleLab, tmp_path: Path, request: pytest.FixtureRequest, kind: str, *, reflinks: bool
) -> None:
    root = (request.getfixturevalue("xfs") if reflinks else tmp_path) / f"machines-{kind}"
    path = root / "vm" / "a.img"
    path.parent.mkdir(parents=True)
    path.write_bytes(text(MIB))
    with path.open("r+b") as disk:
        disk.truncate(8 * MIB + 512)
    files = {"image": ImageLab, "tracked": TrackedLab}[kind](root)
    if kind == "tracked":
        start_tracking(path)
    source = files.open()
    assert source.caps.snapshots is (SnapshotKind.REFLINK if reflinks else SnapshotKind.NONE)
    report = lab.run(source)
    assert lab.image(report) == path.read_bytes()
    assert only(report).read_bytes < 2 * MIB
    files.write("vm", "a.img", 5 * MIB, b"behind the holes")
    files.write("vm", "a.img", 8 * MIB, b"short tail")
    report = lab.run(source)
    assert only(report).rung is (Rung.DELTA if kind == "tracked" else Rung.COMPARE)
    assert lab.image(report) == path.read_bytes()
    assert source.snapshots() == []


class TestCounters:
    def test_follow_the_change_and_not_the_disk(self, lab: CycleLab) -> None:
        source = memory(text(4 * MIB))
        seed = only(lab.run(source))
        assert (seed.read_bytes, seed.changed_bytes, seed.data_bytes, seed.zero_bytes) == (4 * MIB, 4 * MIB, 4 * MIB, 0)
        source.write("vm", "a", 10 * BLOCK + 5, b"x" * BLOCK)  # two blocks
        source.write("vm", "a", 100 * BLOCK, bytes(3 * BLOCK))
        delta = only(lab.run(source))
        assert (delta.rung, delta.read_bytes, delta.to_read_bytes) == (Rung.DELTA, 5 * BLOCK, 5 * BLOCK)
        assert (delta.changed_bytes, delta.data_bytes, delta.zero_bytes) == (5 * BLOCK, 2 * BLOCK, 3 * BLOCK)
        assert 0 < delta.sealed_bytes < delta.data_bytes
        assert delta.sealed_bytes < delta.wire_bytes < delta.sealed_bytes + 8 * KIB
        assert delta.resumed_bytes == 0
        assert delta.seconds > 0

    def test_a_compare_reads_all_and_sends_what_differs(self, lab: CycleLab) -> None:
        source = memory(text(MIB))
        lab.run(source)
        source.write("vm", "a", 7 * BLOCK, noise(BLOCK))
        source.write("vm", "a", 9 * BLOCK, bytes(BLOCK))
        stats = only(lab.run(source, lab.job(resync=Rung.COMPARE)))
        assert (stats.read_bytes, stats.changed_bytes) == (MIB, 2 * BLOCK)
        assert (stats.data_bytes, stats.zero_bytes, stats.sealed_bytes) == (BLOCK, BLOCK, BLOCK + 16)

    def test_a_delta_without_changes_makes_a_point_and_sends_nothing(self, lab: CycleLab) -> None:
        source = memory(text(MIB))
        lab.run(source)
        report = lab.run(source)
        assert (only(report).rung, only(report).changed_bytes, only(report).wire_bytes) == (Rung.DELTA, 0, 0)
        assert lab.image(report) == content(source)
        assert len(lab.points()) == 2

    def test_a_compare_without_differences_opens_no_stream(
        self, lab: CycleLab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = memory(text(MIB))
        lab.run(source)
        monkeypatch.setattr(DiskChannel, "start", lambda *_: pytest.fail("a stream was started"))
        report = lab.run(source, lab.job(resync=Rung.COMPARE))
        assert (only(report).changed_bytes, only(report).sealed_bytes) == (0, 0)
        assert lab.image(report) == content(source)

    def test_a_disk_of_zeros_costs_next_to_nothing(self, lab: CycleLab) -> None:
        report = lab.run(memory(bytes(SIZE)))
        stats = only(report)
        assert (stats.zero_bytes, stats.data_bytes, stats.sealed_bytes) == (SIZE, 0, 0)
        assert stats.wire_bytes < 32 * KIB
        assert lab.image(report) == bytes(SIZE)

    def test_a_report_is_json(self, lab: CycleLab) -> None:
        told = json.loads(json.dumps(lab.run(memory(text(MIB))).as_dict()))
        assert set(told["seconds"]) == {"connecting", "snapshot", "transfer", "commit", "cleanup"}
        assert told["disks"][0]["reason"] == "no-image"


class TestGroups:
    def test_four_disks_go_through_one_cycle_in_parallel(self, lab: CycleLab) -> None:
        source = MemorySource()
        for number in range(4):
            source.add("vm", f"d{number}", text(MIB + number * 512, number))
        watched = WatchedSource(source)
        together = threading.Barrier(4, timeout=20)
        first_reads: set[str] = set()

        def meet(read: Read) -> None:
            if read.disk not in first_reads:
                first_reads.add(read.disk)
                together.wait()  # passes only if all four are being read at once

        watched.watch.act = meet
        report = lab.run(watched)
        assert lab.images(report.point) == {("vm", f"d{n}"): text(MIB + n * 512, n) for n in range(4)}

    def test_all_disks_or_none_become_the_point(self, lab: CycleLab) -> None:
        source = MemorySource()
        for number in range(4):
            source.add("vm", f"d{number}", text(MIB, number))
        lab.run(source)
        before = lab.shadow.state.images
        for number in range(4):
            source.write("vm", f"d{number}", 0, noise(100_000, number))
        faulty = FaultySource(source)
        error = SourceReadFailed(path="d", offset=0, length=BLOCK, problem="medium error")
        faulty.plan.fail("read_into", error, after=2)
        with pytest.raises(SourceReadFailed) as caught:
            lab.run(faulty)
        faulty.plan.verify_exercised()
        assert caught.value is error
        assert len(lab.points()) == 1
        assert lab.shadow.state.images == before
        report = lab.run(source)
        assert {stats.rung for stats in report.disks} == {Rung.DELTA}
        assert lab.images(report.point) == {("vm", f"d{n}"): content(source, f"d{n}") for n in range(4)}

    def test_several_machines_are_one_point(self, lab: CycleLab) -> None:
        source = MemorySource()
        for machine in ("db", "web", "other"):
            for disk in ("a", "b"):
                source.add(machine, disk, text(BLOCK * 20, len(machine)))
        report = lab.run(source, lab.job(["web", "db", "web"]))
        assert set(lab.images(report.point)) == {("db", "a"), ("db", "b"), ("web", "a"), ("web", "b")}
        assert {stats.machine for stats in report.disks} == {"db", "web"}

    def test_a_new_disk_is_seeded_beside_deltas(self, lab: CycleLab) -> None:
        source = memory(text(MIB))
        lab.run(source)
        source.add("vm", "b", noise(MIB))
        report = lab.run(source)
        assert {stats.label: stats.rung for stats in report.disks} == {"a": Rung.DELTA, "b": Rung.SEED}
        assert lab.images(report.point) == {("vm", "a"): content(source), ("vm", "b"): content(source, "b")}

    def test_less_memory_than_disks(self, lab: CycleLab) -> None:
        """One pair of buffers is enough for any number of disks."""
        source = MemorySource()
        for number in range(4):
            source.add("vm", f"d{number}", noise(3 * MIB, number))
        lab.pools = make_pools(16 * MIB)
        assert lab.pools.raw.count == lab.pools.sealed.count == 1
        report = lab.run(source)
        assert lab.images(report.point) == {("vm", f"d{n}"): noise(3 * MIB, n) for n in range(4)}
        assert (lab.pools.raw.free, lab.pools.sealed.free) == (1, 1)


@pytest.mark.parametrize("wish", [Rung.COMPARE, Rung.SEED])
def test_an_operators_wish_for_a_resync(lab: CycleLab, wish: Rung) -> None:
    source = memory(text(MIB))
    lab.run(source)
    source._disks["vm", "a"].content[:10] = b"untracked!"
    assert lab.image(lab.run(source)) != content(source)  # a delta cannot know
    report = lab.run(source, lab.job(resync=wish))
    assert (only(report).rung, only(report).reason) == (Rung.COMPARE, Reason.REQUESTED)
    assert lab.image(report) == content(source)


def test_a_disk_longer_than_a_stream_may_be(lab: CycleLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PART_BYTES", 256 * KIB)
    streams: list[bytes] = []
    start = DiskChannel.start

    def counted(self: DiskChannel, header: StreamHeader) -> None:
        streams.append(header.salt)
        start(self, header)

    monkeypatch.setattr(DiskChannel, "start", counted)
    source = memory(text(SIZE))
    report = lab.run(source)
    assert lab.image(report) == content(source)
    assert len(set(streams)) == 5
    assert (only(report).changed_bytes, only(report).resumed_bytes) == (SIZE, 0)
    source.write("vm", "a", 300 * KIB, noise(BLOCK))
    report = lab.run(source)
    assert (len(streams), only(report).changed_bytes) == (6, BLOCK)
    source.write("vm", "a", 500 * KIB, noise(50 * KIB))
    report = lab.run(source, lab.job(resync=Rung.COMPARE))
    assert len(streams) == 8
    assert lab.image(report) == content(source)


def test_unknown_blocks_are_sent_whatever_changed(lab: CycleLab) -> None:
    source = memory(text(MIB))
    lab.run(source)
    shadow = lab.shadow
    (disk,) = shadow.state.images
    digest_map = shadow.digest_map(disk)
    for block in (3, 200):
        digest_map.set_unknown(block * BLOCK, BLOCK)
    digest_map.close()
    image = shadow.state.images[disk].model_copy(update={"unknown_blocks": 2})
    shadow._state = shadow.state.model_copy(update={"images": {disk: image}})
    report = lab.run(source)
    assert (only(report).rung, only(report).read_bytes, only(report).changed_bytes) == (Rung.DELTA, 8192, 8192)
    assert shadow.state.images[disk].unknown_blocks == 0
    assert lab.image(report) == content(source)
