"""The quick size of the kill loop, and whether its judges can tell right from wrong."""

import random
from pathlib import Path

import pytest

from tests.filesystems import why_not
from tests.torture.aftermath import temporary_files, users_of
from tests.torture.kill_loop import VICTIMS, KillLoop
from tests.torture.suite import run_scenario
from tests.torture.writer import KIB, Machine, Rhythm, Writers, sums

KILLS = 30


@pytest.mark.processes
@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", [1, 2], ids=["own-file-system", "xfs"])
def test_kill_9_again_and_again(seed: int, tmp_path: Path) -> None:
    if seed % 2 == 0 and (reason := why_not()):
        pytest.skip(f"NOT RUN on XFS with reflinks: {reason}")
    tally = run_scenario(KillLoop(KILLS), seed, tmp_path)
    assert tally["kills"] >= KILLS
    assert all(tally[f"kills of {name}"] for name in VICTIMS)
    assert tally["kills while blocks are staged"]
    assert tally["points compared"] > 4


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path / "web1", 256 * KIB, seed=3)
    made.make()
    return made


def now_on(machine: Machine) -> dict[str, str]:
    return sums({path.name: bytearray(path.read_bytes()) for path in machine.folder.glob("*.img")})


class TestWriter:
    def test_it_knows_what_was_on_its_disks_at_any_time(self, machine: Machine) -> None:
        rng = random.Random(1)
        seen = [(0.0, now_on(machine))]
        for _ in range(40):
            machine.write(rng)
            seen.append((machine.writes[-1].done, now_on(machine)))
        times, contents = zip(*seen, strict=True)
        for possible, content in zip(machine.possible(list(times)), contents, strict=True):
            assert content in possible
        assert len({content["a.img"] for content in contents}) > 10

    def test_between_two_writes_there_is_one_answer_and_during_one_there_are_two(self, machine: Machine) -> None:
        rng = random.Random(2)
        for _ in range(2):
            machine.write(rng)
        first, second = machine.writes
        during = (second.begun + second.done) / 2
        assert [len(found) for found in machine.possible([first.done, during, second.done])] == [1, 2, 1]

    def test_a_byte_more_is_another_content(self, machine: Machine) -> None:
        machine.write(random.Random(3))
        before, after = next(machine.possible([0.0])), next(machine.possible([machine.writes[0].done]))
        assert before != after
        path = machine.folder / "b.img"
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        assert now_on(machine) not in after

    def test_what_ends_a_writer_is_told(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(_: random.Random) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(machine, "write", fail)
        writers = Writers([machine], Rhythm(burst=1, rest_s=0.0), seed=1)
        writers.start()
        for thread in writers._threads:
            thread.join()
        with pytest.raises(ZeroDivisionError):
            writers.stop()


def test_leftovers_are_seen(tmp_path: Path) -> None:
    for name in (".f.json.1-0123456789abcdef", "state.json.new", ".disk.tmp", "f.json", ".dmcore-lock"):
        (tmp_path / name).touch()
    found = {path.name for path in temporary_files(tmp_path)}
    assert found == {".f.json.1-0123456789abcdef", "state.json.new", ".disk.tmp"}


def test_users_of_files_are_seen(tmp_path: Path) -> None:
    with (tmp_path / "f").open("w"):
        assert len(list(users_of(tmp_path))) == 1
    assert list(users_of(tmp_path)) == []
