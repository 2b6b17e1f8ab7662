"""A real appliance that kills itself (SIGKILL) when its cycle enters a stage, or after it has sent some batches.

python -m tests.lab.killed_appliance CONFIG JOB stage STAGE
python -m tests.lab.killed_appliance CONFIG JOB batch N
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dmcore.appliance.agent import Appliance, load_job
from dmcore.appliance.progress import CycleProgress
from dmcore.host.logs import configure
from dmcore.host.settings import LogSettings
from dmcore.model.enums import Stage
from dmcore.node.settings import load_appliance
from dmcore.wire.disk_channel import DiskChannel


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class DyingProgress(CycleProgress):
    fatal: str = ""

    @contextmanager
    def during(self, stage: Stage) -> Iterator[None]:
        if stage == self.fatal:
            die()
        with super().during(stage):
            yield


def die_at_batch(number: int) -> None:
    send = DiskChannel.send_batch

    def send_or_die(self: DiskChannel, data: memoryview, timeout_s: float) -> int:
        if self.sent_batches == number:
            self.wait_durable(number - 1, timeout_s)  # something is durable: there is something to go on from
            die()
        return send(self, data, timeout_s)

    DiskChannel.send_batch = send_or_die  # type: ignore[method-assign] # this process is made to be killed


def main() -> None:
    config, job, what, which = sys.argv[1:]
    configure(LogSettings())
    progress = DyingProgress(fatal=which if what == "stage" else "")
    if what == "batch":
        die_at_batch(int(which))
    with Appliance(load_appliance(Path(config))) as appliance:
        appliance.run(load_job(Path(job)), progress)


if __name__ == "__main__":
    main()
