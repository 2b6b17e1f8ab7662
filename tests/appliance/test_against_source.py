"""A cycle against the source: whole disks are compared, and what the tracking has missed is told from what changed."""

import pytest
import structlog

from dmcore.api.jobs import Job
from dmcore.appliance import transfer
from dmcore.appliance.metrics import ApplianceMetrics
from dmcore.appliance.pump import DiskPump
from dmcore.appliance.reporting import progress_of
from dmcore.blocks.extents import Extents
from dmcore.keys.provider import PlanKeys
from dmcore.model.enums import Reason, Rung
from dmcore.seal.header import StreamHeader
from dmcore.seal.stream import Codec
from dmcore.wire.errors import PeerGone
from tests.appliance.cycle_lab import BLOCK, MIB, CycleLab, only, text
from tests.appliance.test_cycle import content, memory
from tests.sources.memory import MemorySource


@pytest.fixture
def source(lab: CycleLab) -> MemorySource:
    """Seeded. Its block 9 has changed, and it says so."""
    held = memory(text(MIB))
    lab.run(held)
    held.write("vm", "a", 9 * BLOCK + 5, b"told of")
    return held


def lie(source: MemorySource, *blocks: int) -> None:
    """Change blocks behind the tracking's back."""
    for block in blocks:
        source._disks["vm", "a"].content[block * BLOCK : block * BLOCK + 8] = b"untold!!"


def verifying(lab: CycleLab) -> Job:
    return lab.job().model_copy(update={"against_source": True})


def mark_unknown(lab: CycleLab, *blocks: int) -> None:
    shadow = lab.shadow
    (disk,) = shadow.state.images
    digest_map = shadow.digest_map(disk)
    for block in blocks:
        digest_map.set_unknown(block * BLOCK, BLOCK)
    digest_map.close()
    image = shadow.state.images[disk].model_copy(update={"unknown_blocks": len(blocks)})
    shadow._state = shadow.state.model_copy(update={"images": {disk: image}})


def test_what_the_tracking_told_of_is_a_change(lab: CycleLab, source: MemorySource) -> None:
    report = lab.run(source, verifying(lab))
    stats = only(report)
    assert (stats.rung, stats.reason) == (Rung.COMPARE, Reason.REQUESTED)
    assert (stats.read_bytes, stats.changed_bytes, stats.untracked_bytes) == (MIB, BLOCK, 0)
    assert lab.image(report) == content(source)


def test_what_it_did_not_tell_of_is_a_lie_and_healed(
    lab: CycleLab, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "NAMED", 1)
    lie(source, 3, 200, 9)
    cycle = lab.cycle(source, verifying(lab))
    with structlog.testing.capture_logs() as entries:
        report = cycle.run()
    lab.settle()
    assert (only(report).changed_bytes, only(report).untracked_bytes) == (3 * BLOCK, 2 * BLOCK)
    assert lab.image(report) == content(source)
    (told,) = progress_of(cycle.progress).disks
    assert told.untracked_bytes == 2 * BLOCK
    (logged,) = [entry for entry in entries if "has missed changes" in entry["event"]]
    assert logged["log_level"] == "error"
    assert (logged["missed_bytes"], logged["first_of_them"]) == (2 * BLOCK, [[3 * BLOCK, BLOCK]])
    metrics = ApplianceMetrics()
    metrics.began(cycle.progress)
    assert metrics.registry.get_sample_value("dmcore_appliance_bytes_total", {"kind": "untracked"}) == 2 * BLOCK
    again = only(lab.run(source, verifying(lab)))
    assert (again.changed_bytes, again.untracked_bytes) == (0, 0)


def test_in_parts(lab: CycleLab, source: MemorySource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PART_BYTES", MIB // 4)
    lie(source, 3, 100, 200)
    assert only(lab.run(source, verifying(lab))).untracked_bytes == 3 * BLOCK


def test_unknown_blocks_are_no_lies(lab: CycleLab, source: MemorySource) -> None:
    mark_unknown(lab, 3, 200)
    lie(source, 100)
    stats = only(lab.run(source, verifying(lab)))
    assert (stats.changed_bytes, stats.untracked_bytes) == (4 * BLOCK, BLOCK)


def cut_behind_what_was_sent(lab: CycleLab, source: MemorySource, monkeypatch: pytest.MonkeyPatch) -> Job:
    """An attempt whose connections break when all is durable. Returns the job of the next one."""
    run = DiskPump.run

    def breaking(self: DiskPump, header: StreamHeader, keys: PlanKeys, codec: Codec) -> Extents:
        run(self, header, keys, codec)
        raise PeerGone(peer="connector", problem="for the test")

    job = verifying(lab)
    with monkeypatch.context() as patched:
        patched.setattr(DiskPump, "run", breaking)
        with pytest.raises(PeerGone):
            lab.cycle(source, job).run()
    return lab.next_attempt(job).model_copy(update={"against_source": True})


def test_lies_that_an_earlier_try_has_sent_count(
    lab: CycleLab, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when another process has sent them."""
    lie(source, 3, 200)
    report = lab.run(source, cut_behind_what_was_sent(lab, source, monkeypatch))
    assert (only(report).resumed_bytes, only(report).untracked_bytes) == (3 * BLOCK, 2 * BLOCK)


def test_unknown_blocks_that_another_process_has_sent_are_no_lies(
    lab: CycleLab, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark_unknown(lab, 3)
    report = lab.run(source, cut_behind_what_was_sent(lab, source, monkeypatch))
    assert (only(report).resumed_bytes, only(report).untracked_bytes) == (2 * BLOCK, 0)


@pytest.mark.parametrize("asked", ["seed", "untracked"])
def test_where_there_is_no_tracking_nobody_is_accused(lab: CycleLab, asked: str) -> None:
    source = memory(text(MIB)) if asked == "seed" else MemorySource(tracking=False)
    if asked == "untracked":
        source.add("vm", "a", text(MIB))
        lab.run(source)
        lie(source, 3)
    stats = only(lab.run(source, verifying(lab)))
    assert stats.untracked_bytes is None
    assert stats.rung is (Rung.SEED if asked == "seed" else Rung.COMPARE)
