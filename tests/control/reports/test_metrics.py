"""What Prometheus reads: the text, parsed as it does."""

import threading
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from dmcore.api.jobs import DiskTotals, Progress
from dmcore.control.reports import tallies
from dmcore.control.reports.metrics import ControlCollector
from dmcore.control.store.database import Database
from dmcore.control.store.tables import groups, nodes
from dmcore.model.enums import Reason, Role, Rung, Stage
from dmcore.model.ids import DiskId
from dmcore.model.jobs import JobKind
from tests.control.queue_kit import NOW, World, after, failed, new_world, with_point
from tests.control.schedule_kit import fact, run_cycle, state, ticked


class Scrapes:
    """A registry over a database whose clock stands where the test puts it."""

    def __init__(self, database: Database) -> None:
        self.now = NOW
        self.database = Database(database.engine.url.render_as_string(hide_password=False), clock=lambda _: self.now)
        self.registry = CollectorRegistry()
        self.registry.register(ControlCollector(self.database))

    def at(self, seconds: float = 0.0) -> dict[tuple[str, ...], float]:
        """Every sample by its name and the values of its labels, by the labels' names."""
        self.now = after(seconds)
        text = generate_latest(self.registry).decode()
        families = text_string_to_metric_families(text)
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
        }


@pytest.fixture
def world(database: Database) -> World:
    return new_world(database)


@pytest.fixture
def scrapes(database: Database) -> Iterator[Scrapes]:
    made = Scrapes(database)
    yield made
    made.database.close()


def test_registering_asks_nothing_of_the_database(sqlite_database: Database) -> None:
    sqlite_database.close()
    registry = CollectorRegistry()
    registry.register(ControlCollector(Database("sqlite:////nowhere/at/all.db")))


def test_plans_and_nodes(world: World, scrapes: Scrapes) -> None:
    (group,) = world.plan(name="crm", rpo_s=60)
    world.plan(name="new")
    state(world, [fact(world, group, at=after(-100), verified_at=after(-2 * 86_400))])
    ticked(world, NOW)
    world.appliance("a")
    world.node("e" * 64, Role.APPLIANCE)
    world.change(nodes, "e" * 64, revoked_at=NOW)
    found = scrapes.at(20)
    assert found["dmcore_store_up",] == 1
    assert found["dmcore_plan_lag_seconds", "crm"] == 120
    assert ("dmcore_plan_lag_seconds", "new") not in found
    assert (found["dmcore_plan_rpo_breached", "crm"], found["dmcore_plan_rpo_breached", "new"]) == (1, 0)
    assert found["dmcore_days_since_verification", "crm"] == pytest.approx(2 + 20 / 86_400)
    assert found["dmcore_days_since_verification", "new"] == pytest.approx(20 / 86_400)
    assert (found["dmcore_nodes_live", "appliance"], found["dmcore_nodes_live", "connector"]) == (1, 1)


def test_days_since_a_sample_are_those_of_the_group_that_waits_longest(world: World, scrapes: Scrapes) -> None:
    first, second = world.plan(groups_count=2, name="crm", verify_percent=1.0)
    world.plan(name="none")
    world.change(groups, first, sampled_at=after(10))
    found = scrapes.at(20)
    assert found["dmcore_days_since_sample", "crm"] == pytest.approx(20 / 86_400)  # never: since the plan was made
    assert ("dmcore_days_since_sample", "none") not in found
    world.change(groups, second, sampled_at=after(15))
    assert scrapes.at(20)["dmcore_days_since_sample", "crm"] == pytest.approx(10 / 86_400)


def test_jobs_leases_and_backlog(world: World, scrapes: Scrapes) -> None:
    world.plan(groups_count=3, name="crm")
    ticked(world, NOW)
    appliance = world.appliance()
    job = appliance.cycle()
    appliance.heartbeat(job, after(1), stage=Stage.TRANSFER, counter=1, total_bytes=100, done_bytes=30)
    world.work(JobKind.INDEX)
    found = scrapes.at(2)
    assert found["dmcore_jobs", "cycle", "queued"] == 2
    assert found["dmcore_jobs", "cycle", "running"] == 1
    assert found["dmcore_jobs", "index", "queued"] == 1
    assert found["dmcore_leases",] == 1
    assert found["dmcore_backlog_bytes", "crm"] == 70


def disk(rung: Rung, reason: Reason, **totals: int) -> DiskTotals:
    return DiskTotals(disk=DiskId(uuid4()), rung=rung, reason=reason, **totals)


def finish_with_disks(world: World, group: Any, begin_s: float) -> None:
    appliance = world.appliance(f"{int(begin_s) % 10}")
    world.enqueue(group, after(begin_s))
    disks = (
        disk(Rung.DELTA, Reason.TRACKED, read_bytes=100, wire_bytes=50, sealed_bytes=40),
        disk(Rung.SEED, Reason.NO_IMAGE, read_bytes=1000, zero_bytes=7),
    )
    outcome = with_point(after(begin_s + 1)) | {
        "progress": Progress(stage=Stage.DONE, disks=disks), "seconds": {Stage.TRANSFER: 4.0, Stage.COMMIT: 0.5},
    }  # fmt: skip
    appliance.finish(appliance.cycle(after(begin_s)), after(begin_s + 10), **outcome)


def test_what_has_ended_is_counted_once(world: World, scrapes: Scrapes) -> None:
    first, second = world.plan(groups_count=2)
    scrapes.at()
    finish_with_disks(world, first, 1)
    scrapes.at(20)
    finish_with_disks(world, second, 22)
    for _ in range(2):
        found = scrapes.at(40)
    assert found["dmcore_jobs_finished_total", "cycle", "completed"] == 2
    assert found["dmcore_bytes_total", "read"] == 2200
    assert found["dmcore_bytes_total", "wire"] == 100
    assert found["dmcore_bytes_total", "zero"] == 14
    assert found["dmcore_disks_total", "tracked", "delta"] == 2
    assert found["dmcore_disks_total", "no-image", "seed"] == 2
    assert found["dmcore_cycle_seconds_bucket", "1.0", "transfer"] == 0
    assert found["dmcore_cycle_seconds_bucket", "5.0", "transfer"] == 2
    assert found["dmcore_cycle_seconds_bucket", "1.0", "commit"] == 2
    assert found["dmcore_cycle_seconds_sum", "transfer"] == 8.0
    assert found["dmcore_cycle_seconds_count", "whole"] == 2
    assert found["dmcore_cycle_seconds_sum", "whole"] == 20.0


def test_retries_failures_and_lost_leases_are_counted(world: World, scrapes: Scrapes) -> None:
    (group,) = world.plan()
    scrapes.at()
    appliance = world.appliance()
    world.enqueue(group, after(1))
    appliance.cycle(after(1))
    world.reap(after(62))
    appliance.finish(appliance.cycle(after(90)), after(91), **failed(permanent=True))
    world.work(JobKind.INDEX, after(92))
    found = scrapes.at(95)
    assert found["dmcore_retries_total",] == 1
    assert found["dmcore_lease_losses_total",] == 1
    assert found["dmcore_jobs_finished_total", "cycle", "failed"] == 1
    assert ("dmcore_cycle_seconds_count", "whole") in found
    assert found["dmcore_cycle_seconds_count", "whole"] == 0


def test_what_ended_before_this_process_is_not_counted(world: World, scrapes: Scrapes) -> None:
    (group,) = world.plan()
    run_cycle(world.appliance(), group, begin_s=0, took_s=10)
    assert ("dmcore_jobs_finished_total", "cycle", "completed") not in scrapes.at(11)


def test_what_is_committed_late_is_counted_all_the_same(world: World, scrapes: Scrapes) -> None:
    """Its time is from the beginning of its transaction."""
    early, late = world.plan(groups_count=2)
    scrapes.at()
    finish_with_disks(world, late, 23)
    assert scrapes.at(60)["dmcore_jobs_finished_total", "cycle", "completed"] == 1
    finish_with_disks(world, early, 2)
    assert scrapes.at(61)["dmcore_jobs_finished_total", "cycle", "completed"] == 2
    finish_with_disks(world, late, 204)
    assert scrapes.at(300)["dmcore_jobs_finished_total", "cycle", "completed"] == 3
    assert scrapes.at(301)["dmcore_jobs_finished_total", "cycle", "completed"] == 3


def test_what_nobody_scraped_for_long_is_left_out(world: World, scrapes: Scrapes) -> None:
    """Rather than to read days of jobs at once."""
    early, late = world.plan(groups_count=2)
    scrapes.at()
    finish_with_disks(world, early, 1)
    finish_with_disks(world, late, 9000)
    assert scrapes.at(9020)["dmcore_jobs_finished_total", "cycle", "completed"] == 1


def test_more_than_one_query_takes_is_counted(world: World, scrapes: Scrapes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallies, "JOBS_AT_ONCE", 2)
    scrapes.at()
    for number in range(5):
        world.cancel(world.work(JobKind.INDEX, after(1)), after(2 + number))
    assert scrapes.at(9)["dmcore_jobs_finished_total", "index", "cancelled"] == 5


def test_a_job_of_a_connector_without_an_outcome_is_counted(world: World, scrapes: Scrapes) -> None:
    scrapes.at()
    world.cancel(world.work(JobKind.INDEX, after(1)), after(2))
    assert scrapes.at(3)["dmcore_jobs_finished_total", "index", "cancelled"] == 1


def test_a_database_that_is_away_is_said(tmp_path: Any) -> None:
    database = Database(f"sqlite:///{tmp_path}/not/there.db")
    registry = CollectorRegistry()
    registry.register(ControlCollector(database))
    lines = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
    database.close()
    assert lines == ["dmcore_store_up 0.0"]


def test_labels_are_plans_and_enums_only(world: World, scrapes: Scrapes) -> None:
    """A thousand disks, groups or jobs of a plan are no more samples than one."""
    (group,) = world.plan(name="crm")
    scrapes.at()
    finish_with_disks(world, group, 1)
    sizes = [len(scrapes.at(20))]
    for number in range(3):
        finish_with_disks(world, group, 100 * number + 133 + number)
    world.change(groups, group, breached=True)
    sizes.append(len(scrapes.at(450)))
    assert sizes[0] == sizes[1]


def test_scrapes_at_once(world: World, scrapes: Scrapes) -> None:
    (group,) = world.plan()
    scrapes.at()
    finish_with_disks(world, group, 1)
    scrapes.now = after(20)
    texts: list[str] = []
    threads = [
        threading.Thread(target=lambda: texts.append(generate_latest(scrapes.registry).decode())) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all('dmcore_jobs_finished_total{kind="cycle",state="completed"} 1.0' in text for text in texts)
    assert len(texts) == 4


def test_a_histograms_buckets_add_up() -> None:
    durations = tallies.Durations()
    for seconds in (0.5, 1.0, 2.0, 1e9):
        durations.add(seconds)
    buckets = dict(durations.buckets())
    assert (buckets["1.0"], buckets["5.0"], buckets["86400.0"], buckets["+Inf"]) == (2, 3, 3, 4)
