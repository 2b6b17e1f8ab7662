"""docs/staging-log.md is true: its tables, and the commit table against what a cycle really writes."""

import re
import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from dmcore.blocks import extents as ex
from dmcore.blocks.constants import DIGEST_BYTES
from dmcore.blocks.extents import EXTENT_BYTES
from dmcore.connector import intake
from dmcore.connector.errors import ClockJumped
from dmcore.connector.facts import fact_of, fact_of_gone
from dmcore.connector.outbox import MAX_ENTRIES, Outbox
from dmcore.errors import all_errors
from dmcore.model.phase import TRANSITIONS, Phase
from dmcore.seal import constants
from dmcore.shadow import (
    allocating,
    checkpoint,
    errors,
    expiry,
    logsalt,
    old_digests,
    records,
    redo,
    segments,
    staging,
)
from dmcore.shadow.marking import Damage
from dmcore.shadow.places import GroupPlaces
from dmcore.shadow.points import PointFlags
from dmcore.shadow.records import RecordType
from dmcore.shadow.state import STATE_FILE, Cycle, CycleDisk, GroupState, ShadowImage, StateModel, load_state
from dmcore.shadow.storage import Storage
from dmcore.targets.errors import SnapshotMissing
from tests.shadow.faults import SteppedStorage, SteppedTarget, Trigger, cut
from tests.shadow.group_lab import (
    BLOCK,
    DISK_A,
    DISK_B,
    GROUP,
    DiskContent,
    GroupLab,
    Sender,
    content,
    coverage_of,
    cycle_id,
    run_cycle,
    send_disk,
)
from tests.shadow.test_crash_gaps import FAILED, GIVEN_UP, WAY, send_spoiled

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/staging-log.md").read_text()
SIZE = 8 * BLOCK

Call = tuple[str, str]
"""The phase that the state file had, and the call."""


def section(number: int) -> str:
    return TEXT.split(f"\n## {number}. ")[1].split("\n## ")[0]


def tables(number: int, columns: str) -> Iterator[list[str]]:
    """The rows of all the section's tables that have these columns."""
    for part in section(number).split(f"| {columns} |\n")[1:]:
        for row in part.split("\n", 1)[1].split("\n\n")[0].splitlines():
            yield [cell.strip() for cell in row.strip("|").split("|")]


# Formats


def generic(path: Path) -> str:
    values = {str(GROUP): "<group>", str(cycle_id(1)): "<cycle>", str(DISK_A): "<disk>", "0000000a": "<number>"}
    return re.sub("|".join(values), lambda found: values[found[0]], str(path))


def test_the_flags() -> None:
    said = section(7).split("is in its flags")[1].split("Flags\n")[0]
    assert set(re.findall(r"`(\w+)`", said)) - {"available", "degraded"} == set(PointFlags.model_fields) - {"version"}
    assert f"more than {MAX_ENTRIES:,} files" in section(7)


def test_the_places() -> None:
    named = {row[0].strip("`") for row in tables(1, "place | holds")}
    places = GroupPlaces(Path("<state_dir>/groups/<group>"), Path("<staging>"), GROUP)
    segment = segments.segment_path(places.log(cycle_id(1), DISK_A), 10)
    assert segment.name == "seg-0000000a.log"
    log = segment.parent
    expected = {places.folder / STATE_FILE, places.digest_map(DISK_A), places.points / "<point>.json", segment}
    expected |= {log / logsalt.SALT_FILE, log / checkpoint.CHECKPOINT_FILE}
    expected |= {places.staging / staging.SPARE_FOLDER / "<number>"}
    expected |= {places.old_digests(DISK_A) / "<cycle>.old"}
    assert old_digests.file_of(Path(), 10) == Path("000000000000000a.old")
    assert {generic(path) for path in expected} <= named
    assert places.volume(DISK_A) == str(DISK_A)


def test_the_record_header() -> None:
    rows = list(tables(2, "offset | size | field | value"))
    sizes = [struct.calcsize(f">{code}") for code in re.findall(r"\d*[a-zA-Z]", records.HEADER.format.lstrip(">"))]
    flat = [4, 1, 1, 2, 8, 8, 8, 16, 8, 8]
    assert sum(sizes) == sum(flat) == records.HEADER_BYTES
    at = 0
    for (offset, size, *_), expected in zip(rows, flat, strict=True):
        assert (int(offset), int(size)) == (at, expected)
        at += expected
    values = {row[2]: row[3] for row in rows}
    assert values["magic"] == f"`{records.MAGIC.decode()}`"
    assert int(values["version"]) == records.VERSION
    assert values["type"] == ", ".join(f"{kind.value} {kind.name}" for kind in RecordType)
    assert int(values["reserved"]) == 0
    assert records.MAX_BODY_BYTES == (8 << 20) + 2048 * 72
    assert values["body length"].endswith("8 MiB + 2,048 x 72")
    assert f"A record is a header of {records.HEADER_BYTES} bytes" in section(2)


def test_a_record_has_its_fields_where_the_table_says() -> None:
    header, chain = records.pack(RecordType.BATCH, b"body", 4096, 2048, b"s" * 16, 7)
    at = {row[2]: (int(row[0]), int(row[1])) for row in tables(2, "offset | size | field | value")}
    found = {field: header[offset : offset + size] for field, (offset, size) in at.items()}
    assert (found["magic"], found["salt"]) == (b"DMLR", b"s" * 16)
    numbers = {field: int.from_bytes(value, "big") for field, value in found.items()}
    assert [numbers[field] for field in ("type", "body length", "position", "durable_to")] == [2, 4, 4096, 2048]
    assert (numbers["body hash"], numbers["chain"]) == (records.body_hash(b"body"), chain)
    assert chain == records.chain_of(7, header)


def test_the_old_digests() -> None:
    rows = list(tables(6, "offset | size | field"))
    fixed = [(int(offset), int(size)) for offset, size, _ in rows[:6]]
    ends = [offset + size for offset, size in fixed]
    assert [offset for offset, _ in fixed] == [0, *ends[:-1]]
    assert (ends[4], ends[5]) == (old_digests.PREFIX.size, old_digests.HEADER_BYTES)
    assert f"`{old_digests.MAGIC.decode()}`" in rows[0][2]
    assert rows[1][2] == f"version, {old_digests.VERSION}"
    assert [row[1] for row in rows[6:]] == [f"{old_digests.RUN_BYTES} a run", f"{DIGEST_BYTES} a block"]
    assert int(rows[6][0]) == old_digests.HEADER_BYTES


def test_the_marks_that_a_verification_makes(tmp_path: Path) -> None:
    """V2 to V4 in their order: a crash between any two is in test_marking.py."""
    lab = GroupLab(tmp_path)
    held = content(1, SIZE)
    shadow = lab.open()
    run_cycle(shadow, lab.plan(shadow, 1, {DISK_A: held}), {DISK_A: (held, ex.whole(SIZE))})
    trigger = Trigger(None, cut)
    shadow._kit = replace(shadow._kit, storage=SteppedStorage(trigger))
    point = shadow.catalogue.all()[0]
    with closing(shadow.maps_of(point)[DISK_A]) as digest_map:
        assert shadow.mark_damaged({DISK_A: Damage(ex.from_pairs([(0, BLOCK)]), digest_map)}, 1.0) == 1
    shadow.close()
    lab.close()
    steps = [step for step in trigger.steps if step in {"create", "pwritev", "fdatasync", "rename state.json"}]
    marking = ["create", "pwritev", "fdatasync", "pwritev", "fdatasync", "rename state.json", "pwritev", "fdatasync"]
    assert steps == marking
    assert [row[0] for row in tables(6, "step | what | a crash behind it")] == ["V1", "V2", "V3", "V4"]


def test_the_stream_record() -> None:
    rows = list(tables(2, "offset | size | field"))
    header = constants.STREAM_HEADER_BYTES
    assert [row[:2] for row in rows] == [["0", str(header)], [str(header), "8"], [str(header + 8), "the rest"]]


def test_the_checkpoint() -> None:
    """And what stands in the module that writes it."""
    rows = list(tables(4, "offset | size | field"))
    fixed = [struct.calcsize(f">{code}") for code in re.findall(r"\d*[a-zA-Z]", checkpoint.FIXED.format.lstrip(">"))]
    sizes = [4, *fixed[1:]] if fixed[0] == 4 else fixed
    offsets = [sum(sizes[:n]) for n in range(len(sizes))]
    flat = [[str(offset), str(size)] for offset, size in zip(offsets, sizes, strict=True)]
    assert [row[:2] for row in rows][: len(flat)] == flat
    size = checkpoint.FIXED.size
    assert [row[:2] for row in rows][len(flat) :] == [
        [str(size), "32 n"], [f"{size} + 32 n", "16 m"], ["the end", str(checkpoint.CHECKSUM.size)],
    ]  # fmt: skip
    assert (checkpoint.STREAM_SALT_BYTES, EXTENT_BYTES) == (32, 16)


def test_the_salt() -> None:
    said = re.findall(r"\((\d+)\)", section(2).split("### The salt")[1])
    codes = re.findall(r"\d*[a-zA-Z]", logsalt.LAYOUT.format.lstrip(">") + logsalt.CHECKSUM.format.lstrip(">"))
    assert list(map(int, said)) == [struct.calcsize(f">{code}") for code in codes]


def test_the_limits() -> None:
    assert segments.SEGMENT_BYTES == 64 << 20
    assert "the first record that would end behind its 64 MiB" in section(2)
    assert allocating.FIRST_BYTES == 256 << 10
    assert "from 256 KiB on, doubling" in section(2)
    assert staging.MAX_SPARES == 16
    assert "up to 16 of all logs together" in section(2)
    assert intake.RETRY_S == 5
    assert "every five seconds" in section(3)
    assert (redo.ROUND_BYTES, redo.ROUND_FRAMES) == (256 << 20, 65_536)
    assert "at most 256 MiB or 65,536 frames" in section(9)
    assert section(6).strip().split("\n", 1)[1].strip().startswith(f"{DIGEST_BYTES} bytes a block")


def test_the_state_file() -> None:
    named = {row[0]: set(re.findall(r"`(\w+)`", row[1])) for row in tables(5, "in | fields")}
    models: dict[str, type[StateModel]] = {
        "the state": GroupState,
        "an image": ShadowImage,
        "the cycle": Cycle,
        "a disk of the cycle": CycleDisk,
    }
    assert named == {name: set(model.model_fields) for name, model in models.items()}
    assert GroupState.model_fields["version"].default == 1


def test_the_error_codes() -> None:
    codes = {error.code for error in all_errors() if error.__module__ == errors.__name__} | {ClockJumped.code}
    named = set(re.findall(r"`([a-z]+\.[a-z]+(?:-[a-z]+)*)`", TEXT)) - {"state.json", "staging.path"}
    assert named <= codes


# Phases


def phase_of(name: str) -> Phase:
    return Phase[name.strip()]


def test_the_phases() -> None:
    rows = list(tables(8, "phase | promise | may become"))
    found = {phase_of(row[0]): frozenset(map(phase_of, filter(None, row[2].split(",")))) for row in rows}
    assert found == TRANSITIONS


# The commit table

COLUMNS = "step | what | call | phase | a crash behind it: what is there, and what the next start does"
STEPS = {row[0]: (row[3], row[2].strip("`")) for row in tables(9, COLUMNS)}
ALWAYS = {
    "pwritev", "fdatasync", "fallocate", "sync_dir", "delete volume", "volume created", "snapshot made", "unlink",
}  # fmt: skip
"""Calls that come many times, or are parts of another: the table names some of them, each must come in its place."""


class Recorder(Trigger):
    """Every durable call, with the phase that the state file had."""

    def __init__(self, root: Path) -> None:
        super().__init__(None, cut)
        self.root = root
        self.calls: list[Call] = []

    def step(self, what: str) -> None:
        super().step(what)
        phase = "none"
        if (self.root / "state" / STATE_FILE).exists():
            cycle = load_state(Storage(), self.root / "state").cycle
            phase = cycle.phase if cycle else "none"
        name = what.replace(str(DISK_A), "<disk>")
        name = re.sub(r"rename (seg-)?[0-9a-f]{8}(\.log)?$", "rename <segment>", name)
        self.calls.append((phase, re.sub(r"[0-9a-f-]{36}\.(json|flags)", r"<point>.\1", name)))


class Recorded:
    """A lab of one disk that is recorded."""

    def __init__(self, root: Path) -> None:
        self.recorder = Recorder(root)
        storage = SteppedStorage(self.recorder)
        self.lab = GroupLab(root, storage)
        (root / "target").mkdir()
        self.lab.target = SteppedTarget(root / "target", storage)
        self.shadow = self.lab.open()
        assert self.shadow._kit.room.used_bytes == 0  # a connector opens it when it starts
        self.disk = content(1, SIZE)
        self.recorder.calls.clear()

    def begin(self, number: int) -> Cycle:
        cycle = self.lab.plan(self.shadow, number, {DISK_A: self.disk})
        self.shadow.begin(cycle)
        return cycle

    def seal(self, cycle: Cycle, extents: ex.Extents) -> None:
        self.shadow.commit(cycle.id, cycle.epoch, {DISK_A: coverage_of(self.disk, extents)})

    def roll_forward(self) -> None:
        outbox = Outbox(self.lab.root / "outbox", self.lab.storage)
        while self.shadow.advance(lambda point: outbox.put(fact_of(point, PointFlags()))) is not None:
            pass

    def seed(self) -> list[Call]:
        """A seed of one batch."""
        cycle = self.begin(1)
        sender = Sender(self.shadow, cycle, DISK_A, self.disk)
        sender.start()
        sender.send(ex.whole(SIZE), batch_blocks=8)
        self.seal(cycle, ex.whole(SIZE))
        self.roll_forward()
        return self.recorder.calls

    def close(self) -> None:
        self.shadow.close()
        self.lab.close()
        assert isinstance(self.lab.storage, SteppedStorage)
        self.lab.storage.cache.end(lambda _: False)


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[Recorded]:
    held = Recorded(tmp_path)
    yield held
    held.close()


def steps(*names: str) -> list[Call]:
    return [STEPS[name] for name in names]


def in_order(expected: list[Call], calls: list[Call]) -> bool:
    left = iter(calls)
    return all(call in left for call in expected)


def telling(calls: list[Call], always: set[str] = ALWAYS) -> list[Call]:
    return [call for call in calls if call[1] not in always]


def numbers(first: int, last: int) -> list[str]:
    return [str(number) for number in range(first, last + 1)]


CHECKPOINT = "15"
"""Left out by a log of one segment."""
KEPT = "12a"
"""Left out where there is no point."""


def test_a_seed_makes_exactly_the_steps_of_the_table(recorded: Recorded) -> None:
    calls = recorded.seed()
    table = steps(*numbers(1, 14), *numbers(16, 23))
    assert telling(calls) == telling(table)
    assert in_order(table, calls)


def test_a_delta_leaves_the_first_steps_out(recorded: Recorded) -> None:
    recorded.seed().clear()
    cycle = recorded.begin(2)
    sender = Sender(recorded.shadow, cycle, DISK_A, recorded.disk)
    changed = recorded.disk.change(2)
    sender.start()
    sender.send(changed)
    recorded.seal(cycle, changed)
    recorded.roll_forward()
    before = Phase.RECLAIMED
    table = [(before, STEPS["3"][1]), *steps(*numbers(4, 12), KEPT, "13", "14", *numbers(16, 23))]
    assert telling(recorded.recorder.calls) == telling(table)
    assert in_order(table, recorded.recorder.calls)


def test_a_cycle_without_changes_makes_no_log(recorded: Recorded) -> None:
    recorded.seed().clear()
    recorded.seal(recorded.begin(2), ex.empty())
    recorded.roll_forward()
    table = steps("10", *numbers(16, 23))
    assert telling(recorded.recorder.calls)[1:] == telling(table)


@pytest.fixture
def small_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 2 * BLOCK)
    monkeypatch.setattr(redo, "ROUND_BYTES", BLOCK)


@pytest.mark.usefixtures("small_rounds")
def test_a_log_of_several_segments_has_checkpoints(recorded: Recorded) -> None:
    recorded.seed().clear()
    cycle = recorded.begin(2)
    send_disk(recorded.shadow, cycle, DISK_A, recorded.disk, changed := recorded.disk.change(2))
    recorded.seal(cycle, changed)
    recorded.roll_forward()
    table = steps(*numbers(4, 12), KEPT, *numbers(13, 15), *numbers(11, 14), *numbers(16, 23))
    assert in_order(table, recorded.recorder.calls)
    assert STEPS[CHECKPOINT] in telling(table)


@pytest.mark.usefixtures("small_rounds")
def test_a_disk_goes_direct(recorded: Recorded) -> None:
    recorded.seed().clear()
    cycle, changed = recorded.begin(2), recorded.disk.change(2)
    send_disk(recorded.shadow, cycle, DISK_A, recorded.disk, changed)
    recorded.recorder.calls.clear()
    recorded.shadow.go_direct(DISK_A)
    while recorded.shadow.drain():
        pass
    table = steps("G1", "G2", "G3", "G3a", "G4", "G5", "G6", "G7")
    assert in_order(table, recorded.recorder.calls)
    found = telling(recorded.recorder.calls)
    assert sorted(set(found)) == sorted(set(telling(table)))
    assert found.index(STEPS["G6"]) < found.index(STEPS["G7"])


@pytest.mark.usefixtures("small_rounds")
def test_a_direct_cycle_is_given_up(recorded: Recorded) -> None:
    recorded.seed().clear()
    cycle = recorded.begin(2)
    send_disk(recorded.shadow, cycle, DISK_A, recorded.disk, recorded.disk.change(2))
    recorded.shadow.go_direct(DISK_A)
    recorded.recorder.calls.clear()
    recorded.shadow.drop("an operator dropped it")
    recorded.roll_forward()
    table = steps(*(f"A{number}" for number in range(1, 8)))
    assert in_order(table, recorded.recorder.calls)
    within = ALWAYS | {
        "truncate",
        "create",
        "rename checkpoint",
        "rename <segment>",
    }  # of A2 and A3
    assert telling(recorded.recorder.calls, within) == telling(table)


def test_the_exits(recorded: Recorded) -> None:
    recorded.seed().clear()
    cycle = recorded.begin(2)
    Sender(recorded.shadow, cycle, DISK_A, recorded.disk)
    recorded.recorder.calls.clear()
    recorded.shadow.drop("an operator dropped it")
    assert telling(recorded.recorder.calls) == steps("D1", "D2")
    cycle = recorded.begin(3)
    send_spoiled(recorded.shadow, cycle, DISK_A, DiskContent(recorded.disk.data), ex.whole(2 * BLOCK))
    recorded.seal(cycle, ex.whole(2 * BLOCK))
    recorded.recorder.calls.clear()
    recorded.roll_forward()
    assert telling(recorded.recorder.calls, ALWAYS | {"create"}) == steps("F1", "F2")  # F1 is steps 11 to 15, too


def test_a_snapshot_that_is_refused(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another disk: that of the first one is made, and removed."""
    snapshot, other = SteppedTarget.snapshot, content(2, SIZE)

    def refused(self: SteppedTarget, volume: str, tag: str) -> str:
        if volume == str(DISK_B):
            raise SnapshotMissing(path="/shadows", snapshot="any")
        return snapshot(self, volume, tag)

    monkeypatch.setattr(SteppedTarget, "snapshot", refused)
    cycle = recorded.lab.plan(recorded.shadow, 1, {DISK_A: recorded.disk, DISK_B: other})
    changes = {DISK_A: (recorded.disk, ex.whole(SIZE)), DISK_B: (other, ex.whole(SIZE))}
    assert run_cycle(recorded.shadow, cycle, changes) is Phase.FAILED
    found = telling(recorded.recorder.calls)
    assert found[found.index(STEPS["S1"]) :] == steps("S1", "S2", "S3")


def test_removing_a_point_makes_exactly_the_steps_of_its_table(recorded: Recorded) -> None:
    recorded.seed().clear()
    outbox = Outbox(recorded.lab.root / "outbox", recorded.lab.storage)
    recorded.recorder.calls.clear()
    catalogue, target = recorded.shadow.catalogue, recorded.lab.target
    (point,) = catalogue.all()
    assert target is not None
    expiry.mark(catalogue, point)
    expiry.finish(catalogue, target, point, lambda gone, flags: outbox.put(fact_of_gone(gone, flags)))
    columns = "step | what | call | a crash behind it: what is there, and what the next start does"
    calls = [call for _, call in telling(recorded.recorder.calls, ALWAYS - {"unlink"})]
    assert calls == [row[2].strip("`") for row in tables(7, columns)]


def test_every_phase_of_the_table_is_one_that_the_sweeps_stop_in() -> None:
    """And the other way round: what the sweeps of test_crash_gaps.py must find is all that the table has."""
    in_table = {Phase(phase) for phase, _ in STEPS.values() if phase != "none"}
    found = WAY | GIVEN_UP | FAILED
    assert in_table <= found
    assert set(Phase) == found
    assert set(Phase) - in_table == {Phase.RECLAIMED}
