"""A whole appliance from its settings: what it opens, what it refuses, and that one failure does not hurt the next."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dmcore.appliance.agent import Appliance, load_job, make_pools, open_alias
from dmcore.appliance.errors import Cancelled, JobUnreadable
from dmcore.appliance.progress import CycleProgress
from dmcore.appliance.queue import PAGE_BYTES
from dmcore.appliance.reading import BATCH_BYTES
from dmcore.host.errors import NodeRunning
from dmcore.keys import local
from dmcore.keys.errors import KekNotPinned, WrongKek
from dmcore.keys.local import LocalKek
from dmcore.model.enums import Stage
from dmcore.native.sealing import worst_case_bytes
from dmcore.node.errors import AliasUnknown, PathOutsideRoots
from dmcore.node.pairing_errors import NotPaired
from dmcore.node.settings import ApplianceSettings, KekSettings, load_appliance
from dmcore.sources.tracking import start_tracking
from dmcore.sources.writer import TrackedWriter
from dmcore.wire.disk_channel import DiskChannel
from tests.appliance.cycle_lab import MIB, CycleLab, only, text


@pytest.fixture
def disk(lab: CycleLab) -> Path:
    path = lab.lab.source / "vm" / "a.img"
    path.parent.mkdir()
    path.write_bytes(text(MIB))
    start_tracking(path)
    return path


@pytest.fixture
def appliance(lab: CycleLab) -> Iterator[Appliance]:
    with Appliance(lab.settings) as made:
        yield made


def changed(settings: ApplianceSettings, **changes: Any) -> ApplianceSettings:
    return settings.model_copy(update=changes)


class TestRuns:
    def test_jobs_one_after_the_other(self, lab: CycleLab, disk: Path, appliance: Appliance) -> None:
        progress = CycleProgress()
        assert lab.image(appliance.run(lab.job(), progress)) == disk.read_bytes()
        assert progress.stage is Stage.DONE
        assert set(progress.seconds) == set(Stage) - {Stage.DONE}
        lab.settle()
        with TrackedWriter(disk) as writer:
            writer.write(70_000, b"new")
        report = appliance.run(lab.job(), CycleProgress())
        assert (only(report).read_bytes, lab.image(report)) == (65536, disk.read_bytes())

    def test_a_job_from_its_file(self, lab: CycleLab, disk: Path, appliance: Appliance) -> None:
        assert disk.exists()
        job = lab.job()
        assert load_job(lab.lab.jobs / f"{job.epoch:08d}.json") == job

    def test_two_on_one_state_directory(self, lab: CycleLab, appliance: Appliance) -> None:
        assert appliance.identity.node == lab.identity.node
        with pytest.raises(NodeRunning):
            Appliance(lab.settings)

    def test_closing_lets_another_one_in(self, lab: CycleLab) -> None:
        first = Appliance(lab.settings)
        first.close()
        first.close()
        with Appliance(lab.settings):
            pass

    def test_a_cycle_can_be_cancelled_by_whoever_was_given_it(
        self, lab: CycleLab, disk: Path, appliance: Appliance
    ) -> None:
        with pytest.raises(Cancelled, match="the node stops"):
            appliance.run(lab.job(), CycleProgress(), lambda cycle: cycle.cancel("the node stops"))
        assert lab.image(appliance.run(lab.job(), CycleProgress())) == disk.read_bytes()


class TestRefusals:
    def test_an_alias_that_the_node_does_not_have(self, lab: CycleLab, appliance: Appliance) -> None:
        job = lab.job().model_copy(update={"source": "elsewhere"})
        with pytest.raises(AliasUnknown, match="it has: machines"):
            appliance.run(job, CycleProgress())

    @pytest.mark.parametrize("path", ["/etc", "link"])
    def test_a_path_outside_its_roots(self, lab: CycleLab, path: str) -> None:
        (lab.lab.source / "link").symlink_to("/etc")
        sources = {"machines": lab.settings.sources["machines"].model_copy(update={"path": lab.lab.source / path})}
        with pytest.raises(PathOutsideRoots, match="'machines'"):
            open_alias(changed(lab.settings, sources=sources), "machines")

    def test_a_connector_it_is_not_paired_with(self, lab: CycleLab, disk: Path, appliance: Appliance) -> None:
        with pytest.raises(NotPaired):
            appliance.run(lab.job().model_copy(update={"connector": "f" * 64}), CycleProgress())
        assert disk.exists()

    def test_a_kek_file_that_is_not_the_pinned_one(self, lab: CycleLab, tmp_path: Path) -> None:
        local.create(tmp_path / "other.key")
        kek = KekSettings(file=tmp_path / "other.key", fingerprint=lab.settings.kek.fingerprint)
        with pytest.raises(KekNotPinned):
            Appliance(changed(lab.settings, kek=kek))
        with Appliance(lab.settings):  # the state directory is free again
            pass

    def test_a_kek_that_is_not_the_connectors(
        self, lab: CycleLab, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its own error, before anything is decrypted or sent."""
        fingerprint = local.create(tmp_path / "other.key")
        kek = KekSettings(file=tmp_path / "other.key", fingerprint=fingerprint)
        for owner, name in ((LocalKek, "unwrap"), (DiskChannel, "start")):
            monkeypatch.setattr(owner, name, lambda *_: pytest.fail("it went on"))
        with Appliance(changed(lab.settings, kek=kek)) as other, pytest.raises(WrongKek) as caught:
            other.run(lab.job(), CycleProgress())
        assert caught.value.code == "key.wrong-kek"
        assert caught.value.pinned == fingerprint
        assert disk.exists()
        assert lab.points() == []


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file"),
        (b"", "job: Invalid JSON"),
        (b"{}", "job: Field required"),
        (b'{"epoch": 1', "job: Invalid JSON"),
        (b"\xff\xfe", "job: Invalid JSON"),
    ],
)
def test_a_file_that_is_no_job(tmp_path: Path, content: bytes | None, problem: str) -> None:
    path = tmp_path / "job.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(JobUnreadable, match=problem) as caught:
        load_job(path)
    assert str(path) in str(caught.value)


class TestMemory:
    @pytest.mark.parametrize("buffer_bytes", [16 * MIB, 17 * MIB, 50 * MIB, 96 * MIB, 1024 * MIB])
    def test_stays_within_the_nodes_limit(self, buffer_bytes: int) -> None:
        pools = make_pools(buffer_bytes)
        assert pools.raw.count == pools.sealed.count >= 1
        taken = sum(pool.count * (pool.size + PAGE_BYTES) for pool in (pools.raw, pools.sealed))
        assert taken <= buffer_bytes
        assert buffer_bytes - taken < taken / pools.raw.count  # and uses what it may

    @pytest.mark.parametrize("block_bytes", [1 << shift for shift in range(12, 23)])
    def test_a_batch_fits_whatever_the_block_size(self, block_bytes: int) -> None:
        """A shadow keeps the block size it was made with, whatever the settings say now."""
        pools = make_pools(96 * MIB)
        blocks = BATCH_BYTES // block_bytes
        assert blocks * block_bytes <= pools.raw.size
        assert worst_case_bytes(blocks, block_bytes) <= pools.sealed.size


def test_settings_of_the_lab_are_what_is_tested(lab: CycleLab) -> None:
    assert load_appliance(lab.lab.appliance_config) == lab.settings
