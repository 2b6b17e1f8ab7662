"""A disk that changes its size at the source: a grown one is compared, a shrunk one is a new disk."""

import pytest

from dmcore.appliance import reading
from dmcore.model.enums import Reason, Rung
from tests.appliance.cycle_lab import BLOCK, KIB, CycleLab, noise, only
from tests.sources.memory import MemorySource

SIZE = 40 * BLOCK + 512


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> MemorySource:
    monkeypatch.setattr(reading, "BATCH_BYTES", 64 * KIB)
    made = MemorySource()
    made.add("vm", "a", noise(SIZE))
    return made


def held(source: MemorySource) -> bytes:
    return bytes(source._disks["vm", "a"].content)


@pytest.mark.parametrize("more", [512, BLOCK - 512, 300 * BLOCK])
def test_a_grown_disk_is_compared_and_then_tracked_again(lab: CycleLab, source: MemorySource, more: int) -> None:
    lab.run(source)
    source._disks["vm", "a"].content.extend(noise(more, 2))
    source.write("vm", "a", 3 * BLOCK, noise(BLOCK, 3))
    report = lab.run(source)
    stats = only(report)
    assert (stats.rung, stats.reason) == (Rung.COMPARE, Reason.RESIZED)
    assert lab.image(report) == held(source)
    blocks = -(-(SIZE + more) // BLOCK) - SIZE // BLOCK + 1
    assert stats.changed_bytes <= blocks * BLOCK, "no more than the end and the changed block is sent"
    source.write("vm", "a", SIZE + more - 1, b"y")
    report = lab.run(source)
    assert (only(report).rung, only(report).reason) == (Rung.DELTA, Reason.TRACKED)
    assert lab.image(report) == held(source)
    first, *_ = lab.points()
    assert lab.images(first)["vm", "a"] == noise(SIZE)


def test_a_shrunk_disk_is_a_new_disk(lab: CycleLab, source: MemorySource) -> None:
    lab.run(source)
    del source._disks["vm", "a"].content[30 * BLOCK :]
    report = lab.run(source)
    assert (only(report).rung, only(report).reason) == (Rung.SEED, Reason.NO_IMAGE)
    assert lab.image(report) == noise(SIZE)[: 30 * BLOCK]
    source.write("vm", "a", 0, b"z")
    report = lab.run(source)
    assert (only(report).rung, only(report).reason) == (Rung.DELTA, Reason.TRACKED)
    assert lab.image(report) == held(source)
