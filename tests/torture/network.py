"""Every state of the protocol meets every fault of a network: the point is right, and nothing is sent twice or left.

A real connector and a real appliance's cycle in this process, real TLS, a relay of ours between them. When a
conversation enters a state, seen at the appliance's end, its connection is put under a toxic.
"""

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import structlog

from dmcore.api.jobs import Job
from dmcore.appliance import cycle, pump, reading
from dmcore.appliance.link import Link
from dmcore.appliance.progress import CycleReport
from dmcore.appliance.transfer import Tools
from dmcore.errors import ConnectionFailed, DmcoreError
from dmcore.wire.connection import Connection
from dmcore.wire.messages import ConnectionKind, Message
from dmcore.wire.states import TABLES, Dialogue, Side, State
from tests.appliance.cycle_lab import BLOCK, KIB, CycleLab, noise, text
from tests.appliance.test_nonces import Recording
from tests.sources.memory import MemorySource
from tests.torture.suite import Suite
from tests.torture.toxics import Relay, Toxic

DISK_BYTES = 1 << 20
DISKS = ("a", "b")
CYCLES = 4
ATTEMPTS_AT_MOST = 6
"""How many leases a cycle may take: each has retries of its own."""

Moment = tuple[ConnectionKind, State]

MOMENTS: tuple[Moment, ...] = tuple(
    sorted({(kind, after) for kind, table in TABLES.items() for after in table.values() if after is not State.ENDED})
)
"""Every state of each kind of connection; CONNECTED is before the first word, and met by refused connections."""


@dataclass
class Fault:
    """A toxic at the n-th time that a state is entered."""

    moment: Moment
    toxic: Toxic
    after: int = 0
    met: bool = False


class Faults:
    """Watches the appliance's conversations, and poisons their connections."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self.planned: list[Fault] = []
        self._ports: dict[int, int] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        step, made = Dialogue._step, Connection.__init__
        faults = self

        def watched_init(connection: Connection, *args: Any) -> None:
            made(connection, *args)
            port = connection._transport._sock.getsockname()[1]
            faults._ports[id(connection.dialogue)] = port

        def watched_step(dialogue: Dialogue, sender: Side, message: Message | None) -> bool:
            stepped = step(dialogue, sender, message)
            if stepped and dialogue.side is Side.CLIENT:
                faults._entered(dialogue)
            return stepped

        with patch.object(Connection, "__init__", watched_init), patch.object(Dialogue, "_step", watched_step):
            yield

    def _entered(self, dialogue: Dialogue) -> None:
        for fault in self.planned:
            kinds = [kind for kind, table in TABLES.items() if table is dialogue._table]
            if fault.met or (not kinds and fault.moment[1] is not State.GREETING):
                continue
            if fault.moment[1] is dialogue.state and (not kinds or fault.moment[0] in kinds):
                if fault.after:
                    fault.after -= 1
                    continue
                fault.met = self._relay.poison(self._ports[id(dialogue)], fault.toxic)


class NetworkLab:
    """A connector behind a relay, and a source that changes."""

    def __init__(self, folder: Path) -> None:
        with ExitStack() as undo:
            self.lab = CycleLab(folder)
            undo.callback(self.lab.close)
            self.relay = undo.enter_context(Relay(lambda: self.lab.pairing.address))
            self.faults = Faults(self.relay)
            undo.enter_context(self.faults.watching())
            undo.enter_context(patch.object(cycle, "FIRST_WAIT_S", 0.01))
            undo.enter_context(patch.object(reading, "BATCH_BYTES", 64 * KIB))
            undo.enter_context(structlog.testing.capture_logs())
            self.recording = Recording()
            undo.enter_context(patch.object(pump, "StreamWriter", self.recording.writer()))
            self._undo = undo.pop_all()
        self.source = MemorySource()
        for disk in DISKS:
            self.source.add("vm", disk, text(DISK_BYTES, ord(disk)))

    def close(self) -> None:
        self._undo.close()

    def change(self, rng: random.Random) -> None:
        for disk in DISKS:
            for _ in range(rng.randint(1, 6)):
                length = rng.randint(1, 20) * BLOCK
                offset = rng.randrange(0, DISK_BYTES - length)
                fresh = bytes(length) if rng.random() < 0.3 else noise(length, rng.getrandbits(32))
                self.source.write("vm", disk, offset, fresh)

    def run(self, faults: list[Fault]) -> Counter[str]:
        """One cycle under these faults, however many attempts it takes.

        Raises:
            AssertionError: the point is not what the source held, or something is left.
        """
        self.faults.planned = faults
        expected = {("vm", disk): bytes(self.source._disks["vm", disk].content) for disk in DISKS}
        report, attempts = self._run(self.lab.job())
        self.faults.planned = []
        assert self.lab.images(report.point) == expected, "the point is not what the source held"
        assert self.source.snapshots() == [], "a source snapshot is left"
        staging = self.lab.lab.root / "connector" / "staging"
        left = [path.name for path in staging.glob("*/*") if not path.parent.name.startswith(".")]
        assert left == [], f"staging is left: {left}"
        met = Counter(f"{fault.toxic} met" for fault in faults if fault.met)
        return met + Counter({"cycles": 1, "attempts": attempts, "frames": 0})

    def _run(self, job: Job) -> tuple[CycleReport, int]:
        link = Link.of(replace(self.lab.pairing, address=self.relay.address), self.lab.identity)
        tools: Tools = replace(self.lab.tools, link=link)
        for attempt in range(1, ATTEMPTS_AT_MOST + 1):
            try:
                return self.lab.run(self.source, job, link=tools.link), attempt
            except DmcoreError as error:
                job = self._next_lease(job, error)
        raise AssertionError(f"no point after {ATTEMPTS_AT_MOST} attempts")

    def _next_lease(self, job: Job, error: DmcoreError) -> Job:
        """What a control plane does after an attempt that a network has spoiled."""
        if error.code == "cycle.dropped":
            return self.lab.job()
        if error.permanent or not isinstance(error, ConnectionFailed):
            raise AssertionError(f"not an error of a network: {error!r}")
        return self.lab.next_attempt(job)


class Network(Suite):
    """Random toxics at random moments, several a cycle."""

    name = "network"

    def run(self, seed: int, folder: Path) -> Counter[str]:
        rng = random.Random(seed)
        lab = NetworkLab(folder / "lab")
        try:
            tally: Counter[str] = Counter()
            for _ in range(CYCLES):
                lab.change(rng)
                lab.relay.refuse = rng.choice([0, 0, 0, 1, 3])
                tally += lab.run([self._fault(rng) for _ in range(rng.randint(1, 4))])
            tally["frames"] = lab.recording.recorder.frames
            return tally
        finally:
            lab.close()

    @staticmethod
    def _fault(rng: random.Random) -> Fault:
        return Fault(rng.choice(MOMENTS), rng.choice(list(Toxic)), after=rng.choice([0, 0, 0, 1, 2, 5]))
