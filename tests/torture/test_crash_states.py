"""Crash states in the quick size, and that every broken rule is found by them."""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from dmcore.blocks.grid import Grid
from dmcore.seal.header import StreamHeader
from dmcore.shadow.digestmap import DigestMap
from dmcore.shadow.log import LogWriter
from dmcore.shadow.logsalt import SALT_FILE
from dmcore.shadow.old_digests import OldDigests
from dmcore.shadow.records import StreamRecord
from dmcore.shadow.segments import LogReader
from tests.shadow.group_lab import BLOCK, DISK_A, PLAN, WRAPPED, cycle_id
from tests.torture import mutants, mutants_group, mutants_log
from tests.torture.crash_states import CrashStates, enumerate_states
from tests.torture.loss import AllBut, Everything
from tests.torture.medium import Medium
from tests.torture.memory_storage import MemoryStorage
from tests.torture.mutants import MUTANTS
from tests.torture.story import Story, a_story
from tests.torture.suite import Broken, run_scenario

BLOCKS = 8
BLOCK_STATES = 3_000
"""Times BLOCKS: 24,000 states."""
FIRST_SEED = 1_000
MUTANT_STATES = 80_000
"""Within so many states a mutant must be caught; most are within a few hundred."""
MUTANT_RECOVERIES = 400
"""Of one story."""


@pytest.mark.parametrize("block", range(BLOCKS))
def test_every_crash_leads_to_what_was_promised(block: int) -> None:
    counts: Counter[str] = Counter()
    for seed in count(FIRST_SEED + block, BLOCKS):
        counts += enumerate_states(seed)
        if counts["states"] >= BLOCK_STATES:
            break
    assert counts["recoveries"] == counts["distinct states"] > BLOCK_STATES / 10
    assert counts["failed syncs"] > 0


def stories(mutant: mutants.Mutant) -> Iterator[int]:
    return (seed for seed in count(1) if mutant.needs(a_story(seed)))


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_rule_is_found(name: str) -> None:
    states = 0
    with mutants.applied(name):
        for seed in stories(MUTANTS[name]):
            try:
                states += enumerate_states(seed, MUTANT_RECOVERIES)["states"]
            except Exception:  # noqa: BLE001 - whatever shows it: a violation, or what the broken code ends in itself
                return
            assert states < MUTANT_STATES, "not found"


def test_the_mutants_are_all_there() -> None:
    assert {make.__module__ for make in (each.make for each in MUTANTS.values())} == {
        mutants_group.__name__,
        mutants_log.__name__,
    }
    assert len(MUTANTS) >= 12


def killed_behind(step: str, work: Callable[[MemoryStorage], object]) -> Medium:
    """What a process leaves that is killed behind its first step of this name."""
    medium, left = Medium(), []
    medium.after = lambda what: left.append(medium.clone()) if what == step else None
    work(MemoryStorage(medium))
    return left[0]


def test_a_salt_that_a_killed_process_renamed_is_made_durable_first() -> None:
    """Else segments may be there without it, and the log cannot be read."""
    log = Path("/log")
    medium = killed_behind(f"rename {SALT_FILE}", lambda storage: LogWriter(storage, log))
    again = MemoryStorage(medium)
    writer = LogWriter(again, log, LogReader(again, log).end)
    cuts = []
    medium.after = lambda what: cuts.append(medium.cut(AllBut(max(medium.unsynced(), default=0))))
    writer.start_stream(StreamRecord(StreamHeader(1, PLAN, DISK_A, cycle_id(1), 1, 1, BLOCK), 0, WRAPPED))
    for image in cuts:
        LogReader(MemoryStorage(Medium(image)), log)


def test_a_file_of_old_digests_that_a_killed_process_made_is_made_durable_first() -> None:
    path, maps = Path("/old/1.old"), Path("/map")

    def keep(storage: MemoryStorage) -> None:
        DigestMap.create(storage, maps, Grid(BLOCK, BLOCK))
        held = DigestMap(storage, maps, Grid(BLOCK, BLOCK))
        OldDigests(storage, path, held).keep([np.array([[0, BLOCK]], dtype=np.int64)])

    medium = killed_behind(f"make {path.name}", keep)
    keep(MemoryStorage(medium))
    assert str(path) in medium.cut(Everything())


def test_a_failure_says_how_to_repeat_it(tmp_path: Path) -> None:
    with mutants.applied("redone_before_it_is_sealed"), pytest.raises(Broken, match="REPLAY=crash-states:1"):
        run_scenario(CrashStates(), 1, tmp_path)


def test_a_seed_alone_decides(tmp_path: Path) -> None:
    assert enumerate_states(3, 50) == enumerate_states(3, 50)


def test_stories_differ() -> None:
    made = [a_story(seed) for seed in range(200)]

    def some(what: str, found: list[Story]) -> None:
        assert found, what

    some("two disks", [story for story in made if len(story.sizes) == 2])
    some("a short last block", [story for story in made if any(size % 4096 for size in story.sizes.values())])
    some("spoiled", [story for story in made if mutants.with_spoiled(story)])
    some("left", [story for story in made if mutants.with_left(story)])
    some("direct", [story for story in made if mutants.with_direct_deltas_left(story)])
    some("little room", [story for story in made if story.quota_bytes])
