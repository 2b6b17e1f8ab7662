"""Credit, and a staging disk that is full or fails: who is told, what is kept, how it goes on."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from dmcore.connector import disk_session
from tests.connector.appliance import Appliance, Attempt, Sender, goes_on
from tests.connector.devices import StagingStorage
from tests.connector.kit import TIMEOUT_S, Disk, refusal
from tests.connector.rig import Rig


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


def test_no_room_to_begin(rig: Rig, appliance: Appliance, disk: Disk) -> None:
    rig.changes["staging"] = rig.settings.staging.model_copy(update={"quota_bytes": 1 << 20})
    rig.restart()
    attempt = appliance.attempt(disk)
    too_much = (attempt.plan_of(disk, expected_bytes=(1 << 20) + 1),)
    refused = refusal(lambda: attempt.begin(disks=too_much))
    assert refused.code == "staging.full"
    assert appliance.state().cycle is None
    assert appliance.run(disk).reply


def test_a_real_file_system_runs_full(rig: Rig, appliance: Appliance, small_file_system: object) -> None:
    rig.changes["staging"] = rig.settings.staging.model_copy(update={"path": small_file_system})
    rig.restart()
    disk = Disk.make(rig.plan, "d0", blocks=512)
    disk.data[:] = np.random.default_rng(7).bytes(len(disk.data))
    attempt = appliance.begin(disk)
    sender = attempt.open(disk)
    sender.start()
    sent: set[int] = set()

    def fill() -> None:
        for first in range(0, 512, 32):
            sender.send(sender.sealed(*range(first, first + 32)))
            sent.update(range(first, first + 32))

    assert refusal(fill).code == "staging.full"
    assert sent
    again = attempt.open(disk)
    assert again.durable == sent  # all that was acknowledged


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
