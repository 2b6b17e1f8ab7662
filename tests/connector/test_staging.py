"""Credit, and a staging disk that is full or fails: who is told, what is kept, how it goes on."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dmcore.connector import disk_session
from dmcore.shadow import allocating
from dmcore.wire.coding import ReceivedMessage
from dmcore.wire.messages import Grant
from tests.connector.appliance import Appliance, Attempt, Sender, goes_on
from tests.connector.devices import StagingStorage
from tests.connector.kit import TIMEOUT_S, Disk, refusal
from tests.connector.rig import Rig
from tests.filesystems import mounted


@pytest.fixture
def staging(rig: Rig) -> Iterator[StagingStorage]:
    """The rig's connector over a staging disk that can be told to fail."""
    storage = StagingStorage()
    rig.storage = storage
    rig.restart()
    yield storage
    storage.calls.open_gate.set()


def test_a_batch_without_credit(staging: StagingStorage, rig: Rig, attempt: Attempt, disk: Disk) -> None:
    sender = attempt.open(disk)
    sender.start()
    staging.calls.open_gate.clear()  # nothing more becomes durable, so no credit comes
    for block in range(sender.channel.credit + 1):
        sender.channel.connection.send_batch(memoryview(sender.sealed(block)))
    staging.calls.open_gate.set()
    refused = refusal(lambda: sender.channel.wait_durable(9, TIMEOUT_S))
    assert refused.code == "wire.protocol"
    assert "without credit" in str(refused)


def test_staging_runs_full(staging: StagingStorage, rig: Rig, sender: Sender, attempt: Attempt, disk: Disk) -> None:
    staging.calls.full = True
    refused = refusal(lambda: sender.send(sender.sealed(2)))
    assert refused.code == "staging.full"
    assert not refused.permanent
    assert staging.calls.reached
    staging.calls.full = False
    goes_on(rig, attempt, disk, {0, 1})


def test_staging_disk_fails(staging: StagingStorage, rig: Rig, sender: Sender, attempt: Attempt, disk: Disk) -> None:
    staging.calls.broken = True
    refused = refusal(lambda: sender.send(sender.sealed(2)))
    assert refused.code == "log.poisoned"
    assert staging.calls.reached
    staging.calls.broken = False
    again = attempt.open(disk)
    assert again.durable >= {0, 1}  # what was never acknowledged may be there, and may not
    goes_on(rig, attempt, disk, again.durable)


def test_no_room_for_even_a_batch(rig: Rig, appliance: Appliance, disk: Disk) -> None:
    rig.changes["staging"] = rig.settings.staging.model_copy(update={"quota_bytes": 1 << 20})
    rig.restart()
    refused = refusal(lambda: appliance.attempt(disk).begin())
    assert refused.code == "staging.full"
    assert appliance.state().cycle is None
    del rig.changes["staging"]
    rig.restart()
    assert appliance.run(disk).reply


@pytest.fixture
def little_room(rig: Rig, tmp_path: Path) -> Iterator[None]:
    """Staging on a file system of its own, which is smaller than a disk of `large` blocks."""
    if os.geteuid():
        pytest.skip("NOT RUN on a full file system: needs root to mount a tmpfs")
    with mounted("tmpfs", ["-t", "tmpfs", "-o", "size=10m"], tmp_path / "small") as at:
        rig.changes["staging"] = rig.settings.staging.model_copy(update={"path": at, "wait_s": 1})
        rig.restart()
        yield
        rig.stop()


@pytest.fixture
def large(rig: Rig) -> Disk:
    disk = Disk.make(rig.plan, "d0", blocks=4096)
    disk.data[:] = np.random.default_rng(7).bytes(len(disk.data))
    return disk


def send_all(sender: Sender, disk: Disk, sent: set[int]) -> None:
    for first in range(0, len(disk.blocks), 32):
        sender.send(sender.sealed(*range(first, first + 32)))
        sent.update(range(first, first + 32))


@pytest.mark.usefixtures("little_room")
def test_a_disk_that_is_larger_than_staging_goes_through_it(rig: Rig, appliance: Appliance, large: Disk) -> None:
    """It waits for room again and again, and is redone meanwhile, which frees some."""
    attempt = appliance.begin(large)
    sender = attempt.open(large)
    sender.start()
    send_all(sender, large, set())
    sender.finish()
    assert attempt.finish().point is not None
    assert rig.image_of(large, attempt.cycle) == bytes(large.data)


@pytest.mark.usefixtures("little_room")
def test_waiting_for_room_ends_and_nothing_is_lost(
    rig: Rig, appliance: Appliance, large: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = appliance.begin(large)
    sender = attempt.open(large)
    sender.start()
    sent: set[int] = set()
    monkeypatch.setattr(disk_session, "RETRY_S", 0.2)
    with monkeypatch.context() as stalled:
        stalled.setattr(rig.connector.roller, "start", lambda shadow: None)  # nothing is redone, so nothing is freed
        refused = refusal(lambda: send_all(sender, large, sent))
    assert (refused.code, refused.permanent) == ("staging.full", False)
    assert sent
    again = attempt.open(large)
    assert again.durable == sent  # all that was acknowledged
    again.start()
    rest = sorted(set(large.blocks) - sent)
    for first in range(0, len(rest), 32):
        again.send(again.sealed(*rest[first : first + 32]))
    again.finish()
    assert attempt.finish().point is not None
    assert rig.image_of(large, attempt.cycle) == bytes(large.data)


def test_who_waits_for_room_says_so_to_every_sender(
    rig: Rig, appliance: Appliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or they would give up before it does: the one whose batch waits, and those that may get no credit for that."""
    monkeypatch.setattr(disk_session, "KEEPALIVE_S", 0.05)
    monkeypatch.setattr(disk_session, "RETRY_S", 0.05)
    monkeypatch.setattr(allocating, "FIRST_BYTES", 4096)
    disks = [Disk.make(rig.plan, f"d{number}") for number in range(2)]
    attempt = appliance.begin(*disks)
    first, second = (attempt.open(disk) for disk in disks)
    first.start()
    room = rig.connector.groups.room
    with monkeypatch.context() as full:
        full.setattr(room, "_free", lambda: 0)
        number = first.channel.send_batch(memoryview(first.sealed(*disks[0].blocks)), TIMEOUT_S)
        for channel in (first.channel, second.channel):
            heard = channel.connection.receive(TIMEOUT_S)
            assert isinstance(heard, ReceivedMessage)
            assert heard.message == Grant(credit=0)
    room.recount(rig.connector.settings.staging_dir / "group" / "cycle" / "disk")
    first.channel.wait_durable(number, TIMEOUT_S)
    second.start()


def test_an_appliance_that_is_gone_holds_no_credit(rig: Rig, appliance: Appliance, disk: Disk) -> None:
    """Its connections look open until they are found silent: opening the disk again frees what they hold."""
    rig.limits(receive_budget_bytes=16 << 20)  # one batch, for the whole node
    rig.restart()
    attempt = appliance.begin(disk)
    assert attempt.open(disk).channel.credit == 1
    goes_on(rig, attempt, disk, set())


def test_a_salt_is_remembered_by_the_log(rig: Rig, sender: Sender, attempt: Attempt, disk: Disk) -> None:
    rig.restart()
    again = attempt.open(disk)
    header, _ = replace(again.template, salt=sender.writer.header.salt).committed(again.keys.dek)
    refused = refusal(lambda: again.start(header))
    assert refused.code == "stream.refused"
    assert "salt" in str(refused)


def test_credit_that_comes_free_is_granted(rig: Rig, appliance: Appliance) -> None:
    rig.limits(receive_budget_bytes=16 << 20)
    rig.restart()
    disks = [Disk.make(rig.plan, f"d{number}") for number in range(2)]
    attempt = appliance.begin(*disks)
    first, second = (attempt.open(disk) for disk in disks)
    assert (first.channel.credit, second.channel.credit) == (1, 0)
    first.channel.close()
    second.start()
    second.send(second.sealed(0))


def test_a_sender_that_says_nothing_is_ended(attempt: Attempt, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_session, "IDLE_S", 0.05)
    silent = attempt.open(disk)
    refused = refusal(lambda: silent.channel.connection.receive(TIMEOUT_S))
    assert refused.code == "wire.gone"
    assert "silent for 0.05 s" in str(refused)
