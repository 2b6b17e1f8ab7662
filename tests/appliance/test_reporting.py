"""What may cross, and what becomes of an error."""

from typing import Any
from uuid import uuid4

import pytest

from dmcore.api.jobs import MAX_DISKS
from dmcore.appliance import reporting
from dmcore.appliance.errors import ConnectorBusy, CycleFailed, EpochBehind
from dmcore.appliance.progress import CycleProgress, DiskStats
from dmcore.errors import ExitCode
from dmcore.model.enums import Reason, Rung, Stage
from dmcore.model.ids import DiskId
from dmcore.sources.errors import SourceReadFailed
from dmcore.wire.errors import PeerRefused
from tests.node.control_kit import new_job

OWN = "0" * 32


def disk(**counters: Any) -> DiskStats:
    return DiskStats(DiskId(uuid4()), "machine", "label", 1 << 40, Rung.DELTA, Reason.TRACKED, **counters)


def live(*disks: DiskStats, **fields: Any) -> CycleProgress:
    return CycleProgress(Stage.TRANSFER, {each.disk: each for each in disks}, **fields)


def refused(code: str, correlation: str = "") -> PeerRefused:
    return PeerRefused(
        peer="10.0.0.1:7443", message="disk /dev/sdq", peer_code=code, peer_exit_code=ExitCode.REFUSED,
        peer_permanent=True, correlation=correlation,
    )  # fmt: skip


class TestProgress:
    def test_is_the_sum_of_the_disks(self) -> None:
        running = live(disk(to_read_bytes=100, read_bytes=40), disk(to_read_bytes=10, read_bytes=10))
        told = reporting.progress_of(running)
        assert (told.done_bytes, told.total_bytes, told.stage) == (50, 110, Stage.TRANSFER)
        assert len(told.disks) == 2

    def test_knows_no_total_below_what_is_done(self) -> None:
        assert reporting.progress_of(live(disk(read_bytes=7))).total_bytes == 7

    @pytest.mark.parametrize("name", ["read_bytes", "zero_bytes", "sealed_bytes", "wire_bytes"])
    def test_counts_whatever_a_disk_gets_done(self, name: str) -> None:
        assert reporting.progress_of(live(disk(**{name: 1}))).counter == 1

    def test_counts_bytes_of_an_open_connection(self) -> None:
        """A batch under a slow limit takes longer than the stall limit: its bytes count one by one."""
        slow = disk(wire_bytes=5)
        slow.meter = lambda: 9
        told = reporting.progress_of(live(slow))
        assert (told.counter, told.disks[0].wire_bytes) == (9, 9)

    @pytest.mark.parametrize("name", ["applied_bytes", "answers"])
    def test_counts_the_commit(self, name: str) -> None:
        assert reporting.progress_of(live(**{name: 3})).counter == 3

    def test_names_no_machine_or_label(self) -> None:
        assert "label" not in reporting.progress_of(live(disk())).model_dump_json()
        assert "machine" not in reporting.progress_of(live(disk())).model_dump_json()

    def test_of_a_connector_that_claims_more_than_there_can_be(self) -> None:
        """Its numbers go up to 2^63 on the wire: they must not end the thread that keeps all leases."""
        told = reporting.progress_of(live(applied_bytes=(1 << 63) - 1, to_apply_bytes=(1 << 63) - 1))
        assert (told.counter, told.applied_bytes, told.to_apply_bytes) == (reporting.MOST,) * 3

    def test_leaves_out_disks_that_do_not_fit(self) -> None:
        told = reporting.progress_of(live(*(disk(read_bytes=1) for _ in range(MAX_DISKS + 1))))
        assert (len(told.disks), told.done_bytes) == (MAX_DISKS, MAX_DISKS + 1)


class TestProblems:
    def test_are_codes(self) -> None:
        error = SourceReadFailed(path="/secret/a.img", offset=77, length=4096, problem="media error")
        told = reporting.problem_of(error, OWN)
        assert (told.code, told.permanent, told.correlation) == (error.code, error.permanent, OWN)
        assert "secret" not in told.model_dump_json()

    def test_of_a_peer_carry_its_correlation(self) -> None:
        told = reporting.problem_of(refused("cycle.dropped", "a" * 32), OWN)
        assert (told.code, told.permanent, told.correlation) == ("cycle.dropped", True, "a" * 32)

    @pytest.mark.parametrize("correlation", ["", "not one", "A" * 32])
    def test_of_a_peer_that_names_none_have_ours(self, correlation: str) -> None:
        assert reporting.problem_of(refused("x.y", correlation), OWN).correlation == OWN

    @pytest.mark.parametrize("code", ["/dev/sdq", "", "x" * 65, "Upper.case"])
    def test_of_a_peer_with_a_code_that_is_none(self, code: str) -> None:
        assert reporting.problem_of(refused(code), OWN).code == "peer.refused"

    def test_of_a_cycle_that_the_connector_ended_are_for_good(self) -> None:
        """Trying again helps, but with another cycle."""
        assert not CycleFailed.permanent
        assert reporting.problem_of(CycleFailed(cycle="c", phase="failed", problem="p"), OWN).permanent

    def test_that_may_pass_are_said_to(self) -> None:
        assert not reporting.problem_of(ConnectorBusy(group="g"), OWN).permanent

    @pytest.mark.parametrize(("error", "permanent"), [(OSError(28, "full"), False), (KeyError("a bug"), True)])
    def test_that_have_no_code(self, error: Exception, permanent: bool) -> None:
        told = reporting.problem_of(error, OWN)
        assert (told.code, told.permanent) == ("internal", permanent)


def test_an_epoch_that_is_behind_names_the_connectors() -> None:
    error = EpochBehind(group="g", epoch=3, current=9)
    told = reporting.failed(new_job(epoch=3), live(), reporting.problem_of(error, OWN), error)
    assert (told.epoch, told.epoch_floor) == (3, 9)
    other = ConnectorBusy(group="g")
    assert reporting.failed(new_job(), live(), reporting.problem_of(other, OWN), other).epoch_floor == 0


def test_an_epoch_that_no_group_has_is_said_as_far_as_it_can_be() -> None:
    error = EpochBehind(group="g", epoch=3, current=(1 << 63) - 1)
    told = reporting.failed(new_job(epoch=3), live(), reporting.problem_of(error, OWN), error)
    assert told.epoch_floor == reporting.MOST
