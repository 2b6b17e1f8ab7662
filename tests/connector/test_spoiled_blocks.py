"""Blocks that are authentic and do not open: their cycle fails, they become unknown, the next cycle heals them."""

from collections.abc import Callable

import pytest

from dmcore.blocks.constants import DIGEST_BYTES
from dmcore.model.enums import Rung
from dmcore.model.phase import Phase
from dmcore.seal import constants as c
from dmcore.seal.reference import ReferenceWriter
from dmcore.seal.reference_codec import compress
from tests.connector.appliance import Appliance, Attempt, Sender
from tests.connector.kit import BLOCK, Disk, refusal
from tests.connector.rig import Rig

pytestmark = pytest.mark.usefixtures("house")


def compressed(attempt: Attempt, disk: Disk, spoil: Callable[[Sender, bytes], tuple[bytes, bytes]]) -> Sender:
    """A stream, sealed with the right key, whose block 1 has a digest and codec output of the test's choice."""
    sender = attempt.open(disk)
    reference = ReferenceWriter(sender.writer.header, sender.keys.dek, sender.digest_key, c.CODEC_LZ4)
    raw = b"sixteen bytes..." * (BLOCK // 16)
    digest, packed = spoil(sender, raw)
    sender.channel.start(sender.writer.header)
    sender.send(reference.open())
    reference.data(0, disk.block(0))
    reference._seal(c.TYPE_DATA, c.CODEC_LZ4, BLOCK, BLOCK, digest + packed)
    reference.data(2, disk.block(2))
    sender.send(reference.batch(), reference.final())
    attempt.carried[disk.id] = {0, 1, 2}
    return sender


def lz4(raw: bytes) -> bytes:
    codec, packed = compress(c.CODEC_LZ4, 1, raw)
    assert codec == c.CODEC_LZ4
    return packed


SPOILED: dict[str, Callable[[Sender, bytes], tuple[bytes, bytes]]] = {
    "decodes to less": lambda sender, raw: (sender.digest(1), lz4(raw[: BLOCK // 2])),
    "decodes to more": lambda sender, raw: (sender.digest(1), lz4(raw * 2)),
    "does not decode": lambda sender, raw: (sender.digest(1), bytes(40)),
    "decodes to other bytes": lambda sender, raw: (sender.digest(1), lz4(raw)),
}


@pytest.mark.parametrize("what", SPOILED)
def test_spoiled_block_fails_its_cycle_and_the_next_one_heals(
    rig: Rig, appliance: Appliance, disk: Disk, what: str
) -> None:
    appliance.run(disk)
    attempt = appliance.begin(disk)
    compressed(attempt, disk, SPOILED[what]).channel.close()
    reply = attempt.finish()
    assert (reply.phase, reply.point) == (Phase.FAILED, None)
    assert "1 frames did not open" in reply.problem
    assert [held.unknown_blocks for held in appliance.state().disks] == [1]
    heals(rig, appliance, disk)


def heals(rig: Rig, appliance: Appliance, disk: Disk) -> None:
    """The next delta is told of the unknown block, must carry it, and makes a point."""
    attempt = appliance.begin(disk)
    assert attempt.plan_of(disk).rung is Rung.DELTA
    opened = attempt.open(disk)
    assert opened.opened.unknown.tolist() == [[BLOCK, BLOCK]]
    assert opened.channel.digests(1, 1).tobytes() == b"\xff" * DIGEST_BYTES
    assert refusal(attempt.commit_once).code == "commit.coverage"
    attempt.control = appliance.control()
    attempt.begin()
    attempt.send(disk, [1])
    assert attempt.finish().point is not None
    assert rig.image_of(disk, attempt.cycle) == bytes(disk.data)
    assert appliance.state().disks[0].unknown_blocks == 0


def test_our_own_forgery_is_a_good_stream_but_for_the_block(appliance: Appliance, disk: Disk) -> None:
    """The tests above fail the block, not the stream: with the right digest the same stream makes a point."""
    disk.data[BLOCK : 2 * BLOCK] = b"sixteen bytes..." * (BLOCK // 16)
    appliance.run(disk)
    attempt = appliance.begin(disk)
    compressed(attempt, disk, lambda sender, raw: (sender.digest(1), lz4(raw)))
    assert attempt.finish().point is not None
