"""Direct disks over the wire: redone by the roller while they are received, and given up when another cycle begins."""

from contextlib import closing
from pathlib import Path

import pytest

from dmcore.model.phase import Phase
from dmcore.shadow import segments
from dmcore.shadow.checkpoint import CHECKPOINT_FILE
from dmcore.shadow.group import GroupShadow
from tests.connector.appliance import Appliance, Attempt
from tests.connector.kit import BLOCK, Disk, refusal, until
from tests.connector.rig import Rig
from tests.connector.test_spoiled_blocks import SPOILED, compressed


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 3 * BLOCK)


def checkpoint(rig: Rig, attempt: Attempt, disk: Disk) -> Path:
    log = rig.connector.settings.staging_dir / str(rig.group) / str(attempt.cycle) / str(disk.id)
    return log / CHECKPOINT_FILE


def shadow_of(rig: Rig) -> GroupShadow:
    return rig.connector.groups.get(rig.group)


def send_some(rig: Rig, attempt: Attempt, disk: Disk, blocks: range) -> None:
    """Batches of two blocks, until some of it was redone."""
    sender = attempt.open(disk)
    sender.start()
    for block in blocks[::2]:
        sender.send(sender.sealed(block, block + 1))
    until(checkpoint(rig, attempt, disk).exists)
    sender.channel.close()


def test_a_seed_is_redone_while_it_is_received(rig: Rig, appliance: Appliance, attempt: Attempt, disk: Disk) -> None:
    send_some(rig, attempt, disk, disk.blocks[:16])
    rig.restart()
    resumed = attempt.again()
    assert resumed.open(disk).durable == set(disk.blocks[:16])
    resumed.carried[disk.id] = set(disk.blocks[:16])
    resumed.send(disk, disk.blocks[16:])
    assert resumed.finish().point is not None
    assert rig.image_of(disk, attempt.cycle) == bytes(disk.data)


def test_another_cycle_waits_until_a_seed_is_accounted_for(
    rig: Rig, appliance: Appliance, attempt: Attempt, disk: Disk
) -> None:
    send_some(rig, attempt, disk, disk.blocks[:16])
    later = appliance.begin(disk)
    assert later.reply is not None
    assert later.reply.answer == "busy"
    rig.wait_until_finished()
    (held,) = appliance.state().disks
    assert (held.token, held.unknown_blocks) == (None, 0)
    assert later.begin().answer == "receiving"
    later.send(disk, disk.blocks[16:])
    assert later.finish().point is not None
    assert rig.image_of(disk, later.cycle) == bytes(disk.data)


def test_another_snapshot_is_refused_and_the_seed_accounted_for(
    rig: Rig, appliance: Appliance, attempt: Attempt, disk: Disk
) -> None:
    send_some(rig, attempt, disk, disk.blocks[:16])
    assert refusal(lambda: attempt.again(snapshot_identity="another")).code == "cycle.dropped"
    rig.wait_until_finished()
    cycle = shadow_of(rig).state.cycle
    assert cycle is not None
    assert cycle.phase is Phase.DROPPED
    assert len(appliance.state().disks) == 1


def test_a_block_that_was_unknown_stays_the_cycles_when_it_is_redone(
    rig: Rig, appliance: Appliance, disk: Disk
) -> None:
    """Who resumes is told of it still, or it would not know why the block is durable, and not name it in `commit`."""
    appliance.run(disk)
    attempt = appliance.begin(disk)
    compressed(attempt, disk, SPOILED["does not decode"]).channel.close()
    assert attempt.finish().phase is Phase.FAILED
    attempt = appliance.begin(disk)
    shadow_of(rig).go_direct(disk.id)
    send_some(rig, attempt, disk, range(16))
    with closing(shadow_of(rig).digest_map(disk.id)) as digest_map:
        assert not len(digest_map.unknown())
    again = attempt.open(disk)
    assert again.opened.unknown.tolist() == again.opened.durable.tolist() == [[0, 16 * BLOCK]]
    assert attempt.finish().point is not None
    assert rig.image_of(disk, attempt.cycle) == bytes(disk.data)


def test_progress_counts_what_was_redone_before(rig: Rig, attempt: Attempt, disk: Disk) -> None:
    send_some(rig, attempt, disk, disk.blocks)
    reply = attempt.finish()
    assert reply.done_bytes == reply.total_bytes > len(disk.data) // 2
    assert 0 < shadow_of(rig).skipped_bytes < reply.total_bytes
