"""A disk connection: what it must not send, what is durable after it was refused, and how the next attempt goes on."""

from collections.abc import Callable
from dataclasses import replace
from uuid import uuid4

import pytest

from dmcore.blocks.constants import DIGEST_BYTES
from dmcore.model.ids import CycleId, DiskId, ImageId, PlanId
from dmcore.seal import constants as c
from dmcore.seal.header import StreamHeader
from dmcore.seal.stream import StreamWriter
from dmcore.wire.messages import OpenRequest, StreamStart
from tests.connector.appliance import Appliance, Attempt, Sender, goes_on
from tests.connector.kit import BLOCK, BLOCKS, TIMEOUT_S, Disk, refusal
from tests.connector.rig import Rig
from tests.wire.peers import free_order

pytestmark = pytest.mark.usefixtures("house")


# Open


def test_open_before_begin(appliance: Appliance, disk: Disk) -> None:
    attempt = appliance.attempt(disk)
    assert refusal(lambda: attempt.open(disk)).code == "cycle.unknown"


@pytest.mark.parametrize("what", ["group", "cycle", "disk"])
def test_open_of_another(attempt: Attempt, disk: Disk, what: str) -> None:
    other = {"disk": replace(disk, id=DiskId(uuid4()))}.get(what, disk)
    changes = {} if what == "disk" else {what: uuid4()}
    assert refusal(lambda: attempt.open(other, **changes)).code == "cycle.unknown"


def test_open_under_another_epoch(attempt: Attempt, disk: Disk) -> None:
    assert refusal(lambda: attempt.open(disk, epoch=attempt.epoch + 1)).code == "cycle.stale-epoch"


def test_open_by_another_paired_node(rig: Rig, attempt: Attempt, disk: Disk) -> None:
    other = rig.pair("other")
    try:
        stolen = Attempt(other, [disk], attempt.cycle, attempt.epoch)
        assert refusal(lambda: stolen.open(disk)).code == "cycle.not-begun"
    finally:
        other.close()


def test_open_of_a_committed_cycle(appliance: Appliance, disk: Disk) -> None:
    attempt = appliance.run(disk)
    assert refusal(lambda: attempt.open(disk)).code == "cycle.unknown"


def test_something_else_than_open(appliance: Appliance) -> None:
    channel = appliance.disk_channel()
    free_order(channel.connection)
    channel.connection.send_message(StreamStart(), bytes(c.STREAM_HEADER_BYTES))
    assert refusal(lambda: channel.connection.receive(TIMEOUT_S)).code == "wire.protocol"


def test_open_twice_on_one_connection(sender: Sender, attempt: Attempt, disk: Disk) -> None:
    free_order(sender.channel.connection)
    request = OpenRequest(group=uuid4(), cycle=attempt.cycle, epoch=1, disk=disk.id)  # type: ignore[arg-type]
    assert refusal(lambda: sender.channel.open(request)).code == "wire.protocol"


def test_a_newer_open_ends_the_older_stream(rig: Rig, sender: Sender, attempt: Attempt, disk: Disk) -> None:
    attempt.open(disk).channel.close()
    with pytest.raises(Exception, match=r"closed the connection|another attempt"):
        sender.send(sender.sealed(2))
    sender.forget(2)
    goes_on(rig, attempt, disk, {0, 1})


# Digests


def test_digests_of_a_disk_without_an_image(attempt: Attempt, disk: Disk) -> None:
    sender = attempt.open(disk)
    refused = refusal(lambda: sender.channel.digests(0, 1))
    assert refused.code == "wire.protocol"
    assert "no image" in str(refused)


@pytest.mark.parametrize(("first", "count"), [(BLOCKS, 1), (0, BLOCKS + 1), (BLOCKS - 1, 2), ((1 << 63) - 1, 1)])
def test_digests_past_the_end(appliance: Appliance, disk: Disk, first: int, count: int) -> None:
    appliance.run(disk)
    sender = appliance.begin(disk).open(disk)
    refused = refusal(lambda: sender.channel.digests(first, count))
    assert refused.code == "wire.protocol"
    assert f"past the last of {BLOCKS} blocks" in str(refused)


def test_digests_are_those_of_the_shadow(appliance: Appliance, disk: Disk) -> None:
    appliance.run(disk)
    sender = appliance.begin(disk).open(disk)
    digests = sender.channel.digests(0, BLOCKS)
    expected = b"".join(sender.digest(n) if any(disk.block(n)) else bytes(DIGEST_BYTES) for n in disk.blocks)
    assert digests.tobytes() == expected


# Streams


def of_another_disk(header: StreamHeader) -> StreamHeader:
    return replace(header, disk=DiskId(uuid4()))


HEADERS: dict[str, Callable[[StreamHeader], StreamHeader]] = {
    "disk": of_another_disk,
    "cycle": lambda header: replace(header, cycle=CycleId(uuid4())),
    "plan": lambda header: replace(header, plan=PlanId(uuid4())),
    "attempt": lambda header: replace(header, attempt=header.attempt + 1),
    "epoch": lambda header: replace(header, epoch=header.epoch + 1),
    "size": lambda header: replace(header, disk_bytes=header.disk_bytes * 2),
    "block size": lambda header: replace(header, block_bytes=BLOCK * 2),
    "base image": lambda header: replace(header, base_image=ImageId(uuid4())),
    "key version": lambda header: replace(header, dek_version=2),
}


@pytest.mark.parametrize("what", HEADERS)
def test_header_of_another(rig: Rig, attempt: Attempt, disk: Disk, what: str) -> None:
    sender = attempt.open(disk)
    header, _ = HEADERS[what](sender.template).fresh(sender.keys.dek)
    refused = refusal(lambda: sender.start(header))
    assert refused.code == "stream.refused"
    assert str(disk.id) in str(refused)
    goes_on(rig, attempt, disk, set())


def test_header_that_is_none(rig: Rig, attempt: Attempt, disk: Disk) -> None:
    sender = attempt.open(disk)
    sender.channel.connection.send_message(StreamStart(), bytes(c.STREAM_HEADER_BYTES))
    assert refusal(lambda: sender.channel.connection.receive(TIMEOUT_S)).code == "stream.header"
    goes_on(rig, attempt, disk, set())


def test_header_under_another_key(rig: Rig, attempt: Attempt, disk: Disk) -> None:
    sender = attempt.open(disk)
    sender.writer = StreamWriter(sender.template, bytes(32), sender.digest_key)
    assert refusal(sender.start).code == "stream.wrong-key"
    goes_on(rig, attempt, disk, set())


def test_a_salt_is_used_once(sender: Sender, attempt: Attempt, disk: Disk) -> None:
    again = attempt.open(disk)
    header, _ = replace(again.template, salt=sender.writer.header.salt).committed(again.keys.dek)
    refused = refusal(lambda: again.start(header))
    assert refused.code == "stream.refused"
    assert "salt" in str(refused)


def test_a_second_stream_needs_a_connection_of_its_own(sender: Sender) -> None:
    free_order(sender.channel.connection)
    sender.channel.start(sender.writer.header)
    assert refusal(lambda: sender.channel.connection.receive(TIMEOUT_S)).code == "wire.protocol"


def test_a_batch_before_its_stream(rig: Rig, attempt: Attempt, disk: Disk) -> None:
    sender = attempt.open(disk)
    free_order(sender.channel.connection)
    sender.channel.connection.send_batch(memoryview(bytes(64)))
    assert refusal(lambda: sender.channel.connection.receive(TIMEOUT_S)).code == "wire.protocol"
    goes_on(rig, attempt, disk, set())


def flipped(batch: bytes, at: int, bit: int = 1) -> bytes:
    changed = bytearray(batch)
    changed[at] ^= bit
    return bytes(changed)


HEAD = c.FRAME_HEADER_BYTES
TAMPERED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "magic": (lambda batch: flipped(batch, 0), "frame.refused"),
    "version": (lambda batch: flipped(batch, 2), "frame.refused"),
    "type": (lambda batch: flipped(batch, 3), "frame.refused"),
    "codec": (lambda batch: flipped(batch, 4), "frame."),
    "flags": (lambda batch: flipped(batch, 5), "frame.refused"),
    "seq": (lambda batch: flipped(batch, 15), "frame.refused"),
    "offset": (lambda batch: flipped(batch, 22, BLOCK >> 8), "frame.tag"),  # still on the grid
    "offset off the grid": (lambda batch: flipped(batch, 23), "frame.refused"),
    "raw length": (lambda batch: flipped(batch, 31), "frame.refused"),
    "sealed length": (lambda batch: flipped(batch, 35), "frame.refused"),
    "body": (lambda batch: flipped(batch, HEAD), "frame.tag"),
    "tag": (lambda batch: flipped(batch, -1), "frame.tag"),
    "cut short": (lambda batch: batch[:-1], "frame.refused"),
    "cut to its header": (lambda batch: batch[: HEAD + c.TAG_BYTES], "frame.refused"),
    "too long": (lambda batch: batch + b"\0", "frame.refused"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_tampered_frame(rig: Rig, sender: Sender, attempt: Attempt, disk: Disk, what: str) -> None:
    tamper, code = TAMPERED[what]
    batch = tamper(sender.sealed(3))
    sender.forget(3)
    refused = refusal(lambda: sender.send(batch))
    assert refused.code.startswith(code)
    goes_on(rig, attempt, disk, {0, 1})


def test_repeated_batch(rig: Rig, sender: Sender, attempt: Attempt, disk: Disk) -> None:
    batch = sender.sealed(3)
    sender.send(batch)
    assert refusal(lambda: sender.send(batch)).code == "frame.refused"
    goes_on(rig, attempt, disk, {0, 1, 3})


def test_reordered_batches(rig: Rig, sender: Sender, attempt: Attempt, disk: Disk) -> None:
    _, later = sender.sealed(3), sender.sealed(4)
    sender.forget(3, 4)
    assert refusal(lambda: sender.send(later)).code == "frame.refused"
    goes_on(rig, attempt, disk, {0, 1})


def test_batch_of_another_disk(rig: Rig, appliance: Appliance, disk: Disk) -> None:
    other = Disk.make(rig.plan, "d1")
    attempt = appliance.begin(disk, other)
    own, foreign = attempt.open(disk), attempt.open(other)
    own.start()
    foreign.start()
    assert refusal(lambda: own.send(foreign.sealed(0))).code == "frame.tag"
    foreign.forget(0)
    foreign.channel.close()
    attempt.send(other, other.blocks)
    goes_on(rig, attempt, disk, set())


def test_batch_of_an_older_stream(rig: Rig, sender: Sender, attempt: Attempt, disk: Disk) -> None:
    older = sender.sealed(3)
    sender.forget(3)
    again = attempt.open(disk)
    again.start()
    again.send(again.sealed(2))
    assert refusal(lambda: again.send(older)).code == "frame.tag"
    goes_on(rig, attempt, disk, {0, 1, 2})


def test_block_a_second_time(rig: Rig, sender: Sender, attempt: Attempt, disk: Disk) -> None:
    refused = refusal(lambda: sender.send(sender.sealed(1)))
    assert refused.code == "stream.block-repeated"
    assert f"offset {BLOCK}" in str(refused)
    goes_on(rig, attempt, disk, {0, 1})


def test_final_that_names_less_than_arrived(rig: Rig, sender: Sender, attempt: Attempt, disk: Disk) -> None:
    sender.writer.totals = sender.writer.totals._replace(frames=1)
    assert refusal(sender.finish).code == "stream.totals"
    goes_on(rig, attempt, disk, {0, 1})


def test_nothing_behind_final(rig: Rig, sender: Sender, attempt: Attempt, disk: Disk) -> None:
    sender.finish()
    assert refusal(lambda: sender.send(bytes(64))).code == "stream.ended"
    goes_on(rig, attempt, disk, {0, 1})
