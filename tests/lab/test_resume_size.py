"""A large seed that is cut at nine tenths: what is durable is neither read nor sent again. Real processes.

The disk has 10 GiB, 1 GiB of them data in pieces at random places; every number here is measured from outside.
"""

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest

from dmcore.api.jobs import Codec
from dmcore.blocks import extents as ex
from dmcore.blocks import files
from dmcore.blocks.extents import Extents
from dmcore.host.address import Address
from dmcore.lab.layout import Lab, free_ports, make_lab
from dmcore.lab.processes import NodeProcess, pair_appliance, start_connector, start_job
from dmcore.wire.credit import PER_STREAM_BYTES
from tests.appliance.proxy import Proxy
from tests.filesystems import mounted, why_not

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

MIB, GIB = 1 << 20, 1 << 30
DISK_BYTES, DATA_BYTES, PIECE_BYTES = 10 * GIB, GIB, MIB
CUT_BYTES = DATA_BYTES * 9 // 10
REST_BYTES = DATA_BYTES - CUT_BYTES + PER_STREAM_BYTES
"""What the attempt after the cut may send at most: one disk is one stream."""
FRAMING = 1.01
"""What frames, TLS and messages add at most; the bytes of what was compared are counted raw."""
READ_AHEAD_BYTES = 96 * MIB
"""What a process may have read and not sent: all its buffers. A cut makes them worthless."""
XFS_BYTES = 16 * GIB
LOOK_S = 0.01


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system with reflinks, and a disk in it."""
    if reason := why_not():
        pytest.skip(f"NOT RUN on XFS with reflinks: {reason}")
    base = tmp_path_factory.mktemp("large")
    with (base / "xfs.img").open("wb") as image:
        image.truncate(XFS_BYTES)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", str(base / "xfs.img")], check=True, capture_output=True)
    with mounted(str(base / "xfs.img"), ["-o", "loop,discard"], base / "mnt") as at:
        write_disk(at / "disk.img")
        yield at
    (base / "xfs.img").unlink()


def write_disk(path: Path) -> None:
    rng = np.random.default_rng(4)
    pieces = rng.choice(DISK_BYTES // PIECE_BYTES, DATA_BYTES // PIECE_BYTES, replace=False)
    with path.open("wb") as file:
        file.truncate(DISK_BYTES)
        for piece in np.sort(pieces):
            file.seek(int(piece) * PIECE_BYTES)
            file.write(rng.bytes(PIECE_BYTES))


class Seed:
    """A lab with that disk, paired, its connector running."""

    def __init__(self, place: Path, root: Path) -> None:
        self.lab: Lab = make_lab(root, "image")
        (metrics,) = free_ports(1)
        self._metrics = f"http://127.0.0.1:{metrics}/metrics"
        with self.lab.connector_config.open("a") as config:
            config.write(f'\n[metrics]\nlisten = "127.0.0.1:{metrics}"\n')
        self.disk = self.lab.source / "vm" / "disk.img"
        self.disk.parent.mkdir()
        subprocess.run(["cp", "--reflink=always", str(place / "disk.img"), str(self.disk)], check=True)
        self.connector: NodeProcess = start_connector(self.lab)
        pair_appliance(self.lab)
        self.job, self._job_path = self.lab.new_job(["vm"], datetime.now(UTC), codec=Codec.LZ4)

    @contextmanager
    def appliance(self) -> Iterator["Attempt"]:
        with start_job(self.lab, self._job_path) as process:
            try:
                yield Attempt(process)
            finally:
                process.kill()

    def next_attempt(self) -> None:
        self.job, self._job_path = self.lab.next_attempt(self.job, datetime.now(UTC))

    def received_bytes(self) -> int:
        """By the connector's own count, since it started."""
        with urlopen(self._metrics) as answer:
            found = re.search(r"^dmcore_connector_received_bytes_total (\S+)$", answer.read().decode(), re.MULTILINE)
        assert found
        return int(float(found[1]))

    def await_received(self, count: int) -> None:
        self.await_(lambda: self.received_bytes() >= count)

    def await_(self, condition: Callable[[], bool]) -> None:
        """The test's timeout bounds it."""
        pause = threading.Event()
        while not condition():
            self.connector.require_running()
            pause.wait(LOOK_S)

    def close(self) -> None:
        self.connector.stop()


class Attempt:
    """A running appliance."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def kill(self) -> None:
        self._process.kill()
        assert self._process.wait() == -signal.SIGKILL

    def read_bytes(self) -> int:
        """All that the process has read until now, by the kernel's count."""
        lines = Path(f"/proc/{self._process.pid}/io").read_text().splitlines()
        return int(dict(line.split(": ") for line in lines)["rchar"])

    def disk(self) -> dict[str, Any]:
        """What it reports of the disk in the end; and what the process has read by then."""
        for line in self._process.stdout or ():
            event = json.loads(line)
            if event["event"] == "report":
                (disk,) = event["disks"]
                return {**disk, "process_read_bytes": self.read_bytes()}
            assert event["event"] != "error", event
        raise AssertionError("it ended without a report")


@pytest.fixture
def seed(place: Path) -> Iterator[Seed]:
    with ExitStack() as undo:
        root = place / "lab"
        undo.callback(subprocess.run, ["rm", "-rf", str(root)], check=True)
        made = Seed(place, root)
        undo.callback(made.close)
        yield made


def same(one: Path, other: Path) -> bool:
    """Wherever either of two disks has data."""
    with one.open("rb") as first, other.open("rb") as second:
        data = ex.union(*(files.data_extents(file.fileno(), DISK_BYTES) for file in (first, second)))
        return one.stat().st_size == other.stat().st_size and all(
            os.pread(first.fileno(), min(PIECE_BYTES, end - at), at)
            == os.pread(second.fileno(), min(PIECE_BYTES, end - at), at)
            for at, end in pieces(data)
        )


def pieces(extents: Extents) -> Iterator[tuple[int, int]]:
    for offset, length in extents.tolist():
        for at in range(offset, offset + length, PIECE_BYTES):
            yield at, offset + length


@contextmanager
def through_a_proxy(lab: Lab) -> Iterator[Proxy]:
    """The appliance reaches its connector through one from now on."""
    (path,) = (lab.root / "appliance" / "pairings").glob("*/pairing.json")
    pairing = json.loads(path.read_text())
    with Proxy(Address.parse(pairing["address"])) as proxy:
        path.write_text(json.dumps({**pairing, "address": str(proxy.address)}))
        yield proxy


def test_the_appliance_is_killed(seed: Seed) -> None:
    """The next attempt is another process: what it reads and sends is all its own."""
    with seed.appliance() as killed:
        seed.await_received(CUT_BYTES)
        killed.kill()
    before = seed.received_bytes()
    seed.next_attempt()
    with seed.appliance() as attempt:
        check(seed, attempt.disk(), seed.received_bytes() - before)


def test_the_connector_is_killed(seed: Seed) -> None:
    """The same process goes on when it is back; the connector counts from its start."""
    with seed.appliance() as attempt:
        seed.await_received(CUT_BYTES)
        seed.connector.kill()
        before = attempt.read_bytes()
        seed.connector = start_connector(seed.lab)
        disk = attempt.disk()
        check(seed, disk, seed.received_bytes(), before)


def test_the_connection_is_cut(seed: Seed) -> None:
    """By whatever is between the two."""
    with through_a_proxy(seed.lab) as proxy:
        proxy.limit(None, None, CUT_BYTES)  # `state`, the attempt's control connection, the disk's
        with seed.appliance() as attempt:
            seed.await_(lambda: proxy.accepted > 3)
            received, before = seed.received_bytes(), attempt.read_bytes()
            check(seed, attempt.disk(), seed.received_bytes() - received, before)


def check(seed: Seed, disk: dict[str, Any], received_bytes: int, read_before_bytes: int = 0) -> None:
    """Of the attempt after the cut; the point is right, and of its one snapshot nothing is left."""
    assert 0 < received_bytes <= REST_BYTES * FRAMING
    assert disk["process_read_bytes"] - read_before_bytes <= REST_BYTES + READ_AHEAD_BYTES
    (snapshot,) = (seed.lab.root / "target" / "snapshots").glob("*.img")
    assert same(seed.disk, snapshot)
    assert list((seed.lab.source / ".dmcore-snapshots").glob("*")) == []
