"""Replicas of one control plane as docs/operations.md describes them: one database, the same `state_dir` content."""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.control.channel import Server
from dmcore.api.server_trust import pinned_context
from dmcore.control.certificates import open_certificate
from dmcore.control.plane import control_id, initialise
from dmcore.control.reports.metrics import TICK_SECONDS
from dmcore.control.settings import load_control
from dmcore.control.store.database import Database
from dmcore.host.clock import utc_now

SETTINGS = """
state_dir = "{home}/state"
listen = "127.0.0.1:0"
database = "{url}"
[logging]
level = "warning"
[metrics]
listen = "127.0.0.1:{metrics}"
"""
CLOCK_HZ = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Replica:
    """One process of the control plane."""

    server: Server
    process: int
    metrics: int
    """The port of its `/metrics`."""

    def cpu_s(self) -> float:
        return cpu_s(self.process)

    def ticks(self) -> "Ticks":
        """Those since it began."""
        with urlopen(f"http://127.0.0.1:{self.metrics}/metrics") as answer:
            families = text_string_to_metric_families(answer.read().decode())
            (found,) = (family for family in families if family.name == TICK_SECONDS)
        counts = {float(each.labels["le"]): int(each.value) for each in found.samples if each.name.endswith("_bucket")}
        (sum_s,) = (each.value for each in found.samples if each.name.endswith("_sum"))
        return Ticks(counts, sum_s)


@dataclass(frozen=True)
class Ticks:
    """A histogram: how many took at most so long."""

    counts: dict[float, int]
    sum_s: float

    def __add__(self, other: "Ticks") -> "Ticks":
        return Ticks({bound: n + other.counts[bound] for bound, n in self.counts.items()}, self.sum_s + other.sum_s)

    def __sub__(self, other: "Ticks") -> "Ticks":
        return Ticks({bound: n - other.counts[bound] for bound, n in self.counts.items()}, self.sum_s - other.sum_s)

    @property
    def mean_ms(self) -> float:
        return 1000 * self.sum_s / max(self.counts.values())

    @property
    def longest_ms(self) -> float:
        """The bound of the bucket that the longest is in."""
        return 1000 * min(bound for bound, count in self.counts.items() if count == max(self.counts.values()))


@contextmanager
def serving(home: Path, url: str, count: int) -> Iterator[list[Replica]]:
    """So many processes over this database."""
    configs = [_configured(home / f"replica-{number}", url) for number in range(count)]
    initialise(load_control(configs[0]))
    for config in configs[1:]:
        shutil.copytree(configs[0].parent / "state", config.parent / "state")
    with ExitStack() as stack:
        yield [stack.enter_context(_running(config)) for config in configs]


def _configured(home: Path, url: str) -> Path:
    home.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as found:  # free again, and free still when the process takes it
        metrics = found.getsockname()[1]
    config = home / "control.toml"
    config.write_text(SETTINGS.format(home=home, url=url, metrics=metrics))
    return config


@contextmanager
def _running(config: Path) -> Iterator[Replica]:
    command = [str(Path(sys.executable).parent / "dmctl"), "control", "serve", "--config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"serves on (\S+):(\d+)", process.stdout.readline())
            assert found, "the control plane does not start"
            yield _replica(config, found[1], int(found[2]), process.pid)
        finally:
            process.terminate()
            process.wait(60)


def _replica(config: Path, host: str, port: int, process: int) -> Replica:
    settings = load_control(config)
    database = Database(settings.database_url)
    with database.read() as connection:
        control = control_id(connection)
    database.close()
    assert control is not None
    assert settings.metrics.listen is not None
    context = pinned_context(open_certificate(settings, utc_now).certificate.read_text(), "benchmark")
    return Replica(Server(host, port, control, context), process, settings.metrics.listen.port)


def cpu_s(process: int) -> float:
    """What a process has used, of user's and of system's time."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_HZ


def family_cpu_s(process: int) -> float:
    """What a process and its children that run now have used."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return cpu_s(process) + sum(map(cpu_s, map(int, children)))


def machine_cpu_s() -> tuple[float, float]:
    """What everybody has used on this machine, and what its host has kept from it."""
    line = Path("/proc/stat").read_text().partition("\n")[0]
    user, nice, system, _, _, irq, softirq, steal, *_ = map(int, line.split()[1:])
    return (user + nice + system + irq + softirq) / CLOCK_HZ, steal / CLOCK_HZ
