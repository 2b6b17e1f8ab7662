"""Failing calls in the quick size, and that a promise broken by one is seen."""

from unittest import mock

import pytest

from dmcore.shadow.digestmap import DigestMap
from tests.torture import mutants, mutants_group, mutants_log
from tests.torture.io_faults import sweep
from tests.torture.judge import Violation

STRIDE = 3
"""Every third call of a story; other seeds begin at another one."""


@pytest.mark.parametrize("seed", range(1, 13))
def test_every_failing_call_ends_in_the_right_image_or_a_clean_error(seed: int) -> None:
    counts = sweep(seed, STRIDE)
    assert counts["faults"] > counts["calls"] / STRIDE
    assert counts["checks"] >= counts["faults"]
    assert counts["restarts"] > 0


def sweep_many() -> None:
    for seed in range(1, 20):
        sweep(seed)


@pytest.mark.parametrize("name", ["a_failed_sync_is_tried_again"])
def test_a_broken_rule_is_found(name: str) -> None:
    assert name in vars(mutants_log)
    with mutants.applied(name), pytest.raises(Violation):
        sweep_many()


def test_a_map_whose_failed_flush_is_hidden_is_found() -> None:
    real = DigestMap.flush

    def flush(self: DigestMap) -> None:
        try:
            real(self)
        except OSError:
            return

    assert mutants_group
    with mock.patch.object(DigestMap, "flush", flush), pytest.raises(Violation):
        sweep_many()
