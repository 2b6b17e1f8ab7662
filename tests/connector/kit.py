"""A protected disk, what the connector says when it refuses, and waiting."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from dmcore.blocks import extents as ex
from dmcore.blocks.extents import Extents
from dmcore.model.ids import DiskId, PlanId, disk_id
from dmcore.wire.errors import PeerRefused

BLOCK = 4096
BLOCKS = 32
TIMEOUT_S = 20.0
MACHINE = "vm1"


@dataclass
class Disk:
    """A protected disk: random blocks, a quarter of them zeros."""

    id: DiskId
    label: str
    machine: str = MACHINE
    data: bytearray = field(default_factory=bytearray)

    @classmethod
    def make(cls, plan: PlanId, label: str, machine: str = MACHINE, blocks: int = BLOCKS) -> "Disk":
        data = bytearray(os.urandom(blocks * BLOCK))
        data[-blocks // 4 * BLOCK :] = bytes(len(data[-blocks // 4 * BLOCK :]))
        return cls(disk_id(plan, machine, label), label, machine, data)

    def block(self, number: int) -> bytes:
        return bytes(self.data[number * BLOCK : (number + 1) * BLOCK])

    def change(self, number: int) -> None:
        self.data[number * BLOCK : (number + 1) * BLOCK] = os.urandom(BLOCK)

    @property
    def blocks(self) -> range:
        return range(len(self.data) // BLOCK)


def extents_of(blocks: Sequence[int]) -> Extents:
    return ex.from_pairs((number * BLOCK, BLOCK) for number in blocks)


def blocks_of(extents: Extents) -> set[int]:
    return {
        number
        for offset, length in extents.tolist()
        for number in range(offset // BLOCK, -(-(offset + length) // BLOCK))
    }


def refusal(act: Callable[[], object]) -> PeerRefused:
    """What the connector says when it refuses."""
    with pytest.raises(PeerRefused) as refused:
        act()
    assert refused.value.correlation
    return refused.value


def until(condition: Callable[[], object]) -> None:
    """Wait for what another thread brings about and tells nobody."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.001)
