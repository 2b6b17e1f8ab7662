"""All three contestants of a stage do the same work, and are caught if they do not."""

import os
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmcore.bench import libraries, replay
from dmcore.bench.bounds import Bounds
from dmcore.bench.compare import Comparison, ratio
from dmcore.bench.content import Recipe
from dmcore.bench.errors import CompilerFailed, LibraryCallFailed, LibraryDiffers
from dmcore.bench.libraries import Bytes
from dmcore.bench.reference import Reference, merge, seconds_of, subtract
from dmcore.bench.stages import Stages, memory_file
from dmcore.bench.workload import Workload, frames_of, prepare
from dmcore.blocks import extents as ex
from dmcore.native import libraries as linked
from dmcore.seal import constants as c
from dmcore.seal.stream import Codec

BLOCK = 65536
BLOCKS = 160  # a whole batch and a part of one
PAIRS = st.lists(st.tuples(st.integers(0, 500), st.integers(1, 40)), max_size=12)


def mixed_content() -> Bytes:
    """Blocks of every kind: text, noise, zeros, and runs of each."""
    noise = np.random.default_rng(1).integers(0, 256, BLOCKS * BLOCK, dtype=np.uint8)
    content = noise.reshape(BLOCKS, BLOCK)
    content[::3] = np.resize(np.frombuffer(b"the same words again, ", dtype=np.uint8), BLOCK)
    content[40:60] = 0
    content[-1] = 0
    return noise


@pytest.fixture(scope="module", params=[Codec.LZ4, Codec.ZSTD], ids=["lz4", "zstd"])
def workload(request: pytest.FixtureRequest) -> Workload:
    return prepare(mixed_content(), Recipe(BLOCKS * BLOCK, BLOCK), request.param)


@pytest.fixture
def target() -> Iterator[int]:
    fd = memory_file(np.full(BLOCKS * BLOCK, 0xAA, dtype=np.uint8))
    yield fd
    os.close(fd)


def content_of(fd: int) -> bytes:
    return os.pread(fd, BLOCKS * BLOCK, 0)


class TestEveryContestantWritesTheContent:
    def test_ours(self, workload: Workload, target: int) -> None:
        Stages(workload).apply(target)
        assert content_of(target) == workload.content.tobytes()

    def test_the_libraries_alone(self, workload: Workload, target: int) -> None:
        assert replay.Replay(Bounds(workload).apply(target)).seconds() > 0
        assert content_of(target) == workload.content.tobytes()

    def test_pure_python(self, workload: Workload, target: int) -> None:
        assert Reference(workload).apply(target) > 0
        assert content_of(target) == workload.content.tobytes()


@pytest.mark.parametrize("stage", ["scan", "seal", "verify", "open"])
def test_every_stage_has_all_three_contestants(workload: Workload, stage: str) -> None:
    getattr(Stages(workload), stage)()
    assert replay.Replay(getattr(Bounds(workload), stage)()).seconds() > 0
    assert getattr(Reference(workload), stage)() > 0


def test_the_libraries_compress_to_the_same_lengths(workload: Workload) -> None:
    """The bound encrypts what its own compressor gave: as many bytes as ours, or it would be another amount of work."""
    lengths = [length for call in Bounds(workload).seal() if (length := sealed_text_length(call))]
    ours = [f.sealed_length for b in workload.batches for f in frames_of(workload, b) if f.type == c.TYPE_DATA]
    assert lengths == ours


def sealed_text_length(call: libraries.Call) -> int:
    function, arguments = call
    in_place = function.__name__ == "EVP_CipherUpdate" and arguments[1] is not None
    return int(arguments[4]) if in_place else 0


def test_bounds_notice_a_tag_that_does_not_hold(workload: Workload) -> None:
    batch = workload.batches[0]
    bent = batch.sealed.copy()
    bent[c.FRAME_HEADER_BYTES] ^= 1
    broken = replace(workload, batches=[batch._replace(sealed=bent)])
    with pytest.raises(LibraryCallFailed, match="EVP_CipherFinal_ex failed"):
        Bounds(broken).verify()


def test_a_key_that_libcrypto_refuses_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries.crypto, "EVP_CipherInit_ex", lambda *_: 0)
    with pytest.raises(LibraryCallFailed, match="EVP_CipherInit_ex failed"):
        libraries.Gcm(bytes(32), encrypt=True)


def test_the_libraries_are_those_that_the_extensions_are_linked_with() -> None:
    libraries.check_versions()


def test_another_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linked, "versions", lambda: {"liblz4": "0.1"})
    with pytest.raises(LibraryDiffers, match=r"liblz4 loads as version .*linked with 0\.1"):
        libraries.check_versions()


@pytest.mark.parametrize(("compiler", "problem"), [("no-such-cc", "not found"), ("false", "build-essential")])
def test_a_missing_compiler_is_named(compiler: str, problem: str) -> None:
    with pytest.raises(CompilerFailed, match=f"{compiler}: .*{problem}"):
        replay.compiled(compiler)


@given(PAIRS)
def test_python_merges_as_we_do(pairs: list[tuple[int, int]]) -> None:
    assert merge([list(pair) for pair in pairs]) == ex.from_pairs(pairs).tolist()


@given(PAIRS, PAIRS)
def test_python_subtracts_as_we_do(extents: list[tuple[int, int]], taken: list[tuple[int, int]]) -> None:
    a, b = ex.from_pairs(extents), ex.from_pairs(taken)
    assert subtract(a.tolist(), b.tolist()) == ex.subtract(a, b).tolist()


def test_ratios_are_paired_by_round() -> None:
    """A round in which everything took ten times as long changes nothing."""
    comparison = Comparison("seal", 2.0, ours_s=[2.0, 20.0, 2.0], libraries_s=[1.0, 10.0, 1.0])
    assert comparison.of_bound == pytest.approx(0.5)
    assert comparison.rate(comparison.ours_s) == pytest.approx(1.0)


def test_who_took_no_part_has_no_figures() -> None:
    comparison = Comparison("seal", 2.0)
    comparison.turn(None, None)
    assert (comparison.of_bound, comparison.times_reference, comparison.rate([])) == (None, None, None)
    assert ratio([], [1.0]) is None


def test_a_turn_times_its_work() -> None:
    done: list[int] = []
    assert seconds_of(lambda: done.append(1))() >= 0
    assert done == [1]
