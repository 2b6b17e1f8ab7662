"""`make torture`: every suite in turn with growing seeds until the time is over, or one scenario again.

python -m tests.torture --minutes 30 --seed 1 [--suite NAME]...
python -m tests.torture --replay crash-states:1234
"""

import argparse
import os
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from dmcore.host.logs import configure
from dmcore.host.settings import LogSettings
from tests.torture.crash_states import CrashStates
from tests.torture.io_faults import IoFaults
from tests.torture.kill_loop import KillLoop
from tests.torture.network import Network
from tests.torture.suite import Broken, Suite, run_scenario

SUITES: Sequence[type[Suite]] = (CrashStates, IoFaults, KillLoop, Network)


def show(text: object) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    options = arguments()
    configure(LogSettings(level="error"))
    suites = {kind.name: kind for kind in SUITES}
    if options.replay:
        name, seed = options.replay.split(":")
        show(dict(scenario(suites[name](), int(seed))))
        return 0
    chosen = [suites[name]() for name in options.suite or suites]
    return torture(chosen, options.seed, time.monotonic() + 60 * options.minutes)


def torture(suites: list[Suite], seed: int, until: float) -> int:
    """Every suite gets the same share of the time. The exit code is the number of failures, at most 100."""
    tallies: dict[str, Counter[str]] = defaultdict(Counter)
    spent: dict[str, float] = dict.fromkeys((suite.name for suite in suites), 0.0)
    seeds = dict.fromkeys(spent, seed)
    failures = 0
    while time.monotonic() < until and failures < 100:
        suite = min(suites, key=lambda each: spent[each.name])
        began = time.monotonic()
        try:
            tallies[suite.name] += scenario(suite, seeds[suite.name])
        except Broken as broken:  # shown with all that led to it, and the others go on
            failures += 1
            show("".join(traceback.format_exception(broken)))
        spent[suite.name] += time.monotonic() - began
        seeds[suite.name] += 1
    for name, tally in tallies.items():
        shown = ", ".join(f"{what} {count:,}" for what, count in sorted(tally.items()))
        show(f"{name}: seeds {seed} to {seeds[name] - 1}, {spent[name]:.0f} s: {shown}")
    show(f"{failures} failures")
    return failures


def scenario(suite: Suite, seed: int) -> Counter[str]:
    with tempfile.TemporaryDirectory(prefix="dmcore-torture-", dir=os.environ.get("TORTURE_DIR")) as folder:
        return run_scenario(suite, seed, Path(folder))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make torture", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--suite", action="append", help="only this one; may be given again")
    parser.add_argument("--replay", help="NAME:SEED, as a failure has printed it")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
