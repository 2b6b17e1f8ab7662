"""What is told of a point, and what is not."""

from datetime import UTC, datetime

from dmcore.api.base import MAX_BODY_BYTES
from dmcore.api.points import MAX_POINTS, PointsReport
from dmcore.connector.facts import fact_of, fact_of_gone
from dmcore.model.enums import Consistency, Rung
from dmcore.model.points import PointState
from dmcore.shadow.points import PointFlags
from tests.connector.points import a_point, disk

VERIFIED = datetime(2026, 5, 2, tzinfo=UTC)


def test_a_new_point() -> None:
    point = a_point(1)
    fact = fact_of(point, PointFlags())
    assert (fact.id, fact.plan, fact.group, fact.cycle) == (point.id, point.plan, point.group, point.cycle)
    assert (fact.source_time, fact.consistency, fact.state) == (point.source_time, point.consistency, "available")
    assert (fact.disks, fact.lacking, fact.rungs) == (2, 1, (Rung.DELTA, Rung.SEED))
    assert (fact.preserved, fact.verified_at, fact.revision) == (False, None, 0)


def test_its_flags() -> None:
    flags = PointFlags(preserved=True, verified_at=VERIFIED, state=PointState.DEGRADED, revision=3)
    fact = fact_of(a_point(1), flags)
    assert (fact.preserved, fact.verified_at, fact.state, fact.revision) == (True, VERIFIED, "degraded", 3)


def test_a_point_is_told_to_be_gone_only_when_it_is() -> None:
    flags = PointFlags(expiring=True, revision=4)
    assert fact_of(a_point(1), flags).state is PointState.AVAILABLE
    gone = fact_of_gone(a_point(1), flags)
    assert (gone.state, gone.revision) == (PointState.EXPIRED, 5)


def test_no_words_and_no_sizes_of_the_data_plane() -> None:
    point = a_point(1)
    text = fact_of(point, PointFlags()).model_dump_json()
    assert "canary" not in text
    for number in (each for held in point.disks for each in (held.disk_bytes, held.covered_bytes, held.block_bytes)):
        assert str(number) not in text
    for held in point.disks:
        assert str(held.disk) not in text


def test_a_full_page_fits_a_message() -> None:
    point = a_point(1).model_copy(
        update={
            "consistency": Consistency.APPLICATION,
            "source_time": datetime(2026, 5, 2, 12, 34, 56, 123456, tzinfo=UTC),
            "disks": [disk(number, rung) for number, rung in enumerate([*Rung] * 300)],
            "lacking": ["x"] * 1000,
        }
    )
    flags = PointFlags(state=PointState.DEGRADED, verified_at=point.source_time, revision=(1 << 53) - 1)
    report = PointsReport(points=(fact_of(point, flags),) * MAX_POINTS)
    assert len(report.model_dump_json()) < MAX_BODY_BYTES
