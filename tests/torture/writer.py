"""A machine whose disks are written all the time, by a writer that can say what was on them at any moment.

Each write is noted with the times before and after it. A source snapshot keeps writers out while it is made, and says
when that was: so a point's source time tells which writes it holds, and what its disks must be follows from them alone.
"""

import hashlib
import random
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from dmcore.sources.writer import TrackedWriter

KIB = 1 << 10


@dataclass(frozen=True)
class Write:
    """One call of the tracked writer. A seed of None writes zeros."""

    disk: str
    offset: int
    length: int
    seed: int | None
    begun: float
    done: float

    @property
    def data(self) -> bytes:
        return bytes(self.length) if self.seed is None else content(self.seed, self.length)


@dataclass(frozen=True)
class Rhythm:
    """How many writes come one after the other, and how long it is quiet then."""

    burst: int
    rest_s: float


STEADY = Rhythm(burst=1, rest_s=0.03)
"""For a source that makes snapshots."""
IN_BURSTS = Rhythm(burst=12, rest_s=2.0)
"""For one that is read live: a cycle needs some quiet."""


@dataclass
class Machine:
    """Its disks, their first contents by a seed, and every write since."""

    folder: Path
    disk_bytes: int
    seed: int
    writes: list[Write] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def first(self) -> dict[str, bytearray]:
        """Half of each disk is data at first, the rest a hole."""
        half = self.disk_bytes // 2
        names = ("a.img", "b.img")
        return {name: bytearray(content(self.seed + n, half) + bytes(half)) for n, name in enumerate(names)}

    def make(self) -> None:
        self.folder.mkdir()
        for name, data in self.first.items():
            with (self.folder / name).open("wb") as file:
                file.truncate(self.disk_bytes)
                file.write(data[: self.disk_bytes // 2])

    def write(self, rng: random.Random) -> None:
        """One more write somewhere, of any length and alignment; zeros now and then."""
        disk, length = rng.choice(("a.img", "b.img")), rng.randint(1, 48 * KIB)
        offset = rng.randint(0, self.disk_bytes - length)
        seed = None if rng.random() < 0.1 else rng.getrandbits(48)
        begun = time.time()
        with closing(TrackedWriter(self.folder / disk)) as writer:
            if seed is None:
                writer.zero(offset, length)
            else:
                writer.write(offset, content(seed, length))
        self.writes.append(Write(disk, offset, length, seed, begun, time.time()))

    def possible(self, source_times: list[float]) -> Iterator[list[dict[str, str]]]:
        """What its disks' SHA-256 can have been at each of these growing times.

        One possibility, or two where a write was under way.
        """
        disks, position = self.first, 0
        for at in source_times:
            while position < len(self.writes) and self.writes[position].done <= at:
                apply(disks, self.writes[position])
                position += 1
            found = [sums(disks)]
            if position < len(self.writes) and self.writes[position].begun <= at:
                one_more = {name: bytearray(data) for name, data in disks.items()}
                apply(one_more, self.writes[position])
                found.append(sums(one_more))
            yield found


class Writers:
    """A thread for each machine, which writes until `stop`."""

    def __init__(self, machines: list[Machine], rhythm: Rhythm, seed: int) -> None:
        self._rhythm, self._stopping = rhythm, threading.Event()
        self._problems: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._run, args=(machine, random.Random(seed + number)), name="writer")
            for number, machine in enumerate(machines)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Join. Raises what ended a writer before its time."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        if self._problems:
            raise self._problems[0]

    def _run(self, machine: Machine, rng: random.Random) -> None:
        try:
            while not self._stopping.wait(self._rhythm.rest_s * rng.uniform(0.5, 1.5)):
                for _ in range(self._rhythm.burst):
                    machine.write(rng)
        except BaseException as problem:  # noqa: BLE001 - raised by `stop`
            self._problems.append(problem)


def content(seed: int, length: int) -> bytes:
    """Compressible a little, and no two alike."""
    piece = random.Random(seed).randbytes(length // 2 + 1)
    return (piece + piece[::-1])[:length]


def apply(disks: dict[str, bytearray], write: Write) -> None:
    disks[write.disk][write.offset : write.offset + write.length] = write.data


def sums(disks: dict[str, bytearray]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in disks.items()}
