"""Durable before it is told, told until somebody has it, and never more than there are points."""

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from dmcore.api.points import MAX_POINTS, PointFact
from dmcore.connector import outbox as module
from dmcore.connector.outbox import Outbox, OutboxSender, pages
from dmcore.node.backoff import Backoff
from dmcore.shadow.storage import Storage
from dmcore.wire.errors import PeerGone
from tests.connector.kit import until
from tests.connector.points import a_fact
from tests.shadow.faults import PowerCut, SteppedStorage, Trigger, cut


def box_at(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox", Storage())


@pytest.fixture
def box(tmp_path: Path) -> Outbox:
    box = box_at(tmp_path)
    assert box.begin_restating()
    return box


def test_it_is_there_after_a_restart(box: Outbox, tmp_path: Path) -> None:
    facts = [a_fact(number) for number in range(3)]
    for fact in facts:
        box.put(fact)
    again = box_at(tmp_path)
    assert again.waiting == 3
    assert sorted(again.page(), key=lambda fact: fact.source_time) == facts


def test_what_was_said_is_gone(box: Outbox, tmp_path: Path) -> None:
    box.put(a_fact(1))
    box.put(a_fact(2))
    box.said([a_fact(1)])
    assert box.page() == [a_fact(2)]
    assert box_at(tmp_path).page() == [a_fact(2)]
    box.said([a_fact(1)])


def test_the_newest_of_a_point_counts(box: Outbox) -> None:
    for revision in (1, 3, 2):
        box.put(a_fact(1, revision))
    assert box.page() == [a_fact(1, 3)]


def test_what_is_put_while_an_older_one_is_told_stays(box: Outbox) -> None:
    box.put(a_fact(1, 1))
    told = box.page()
    box.put(a_fact(1, 2))
    box.said(told)
    assert box.page() == [a_fact(1, 2)]


def test_a_page_is_what_one_message_takes(box: Outbox) -> None:
    for number in range(MAX_POINTS + 5):
        box.put(a_fact(number))
    page = box.page()
    assert len(page) == MAX_POINTS
    box.said(page)
    assert len(box.page()) == 5
    assert [len(page) for page in pages(a_fact(1) for _ in range(2 * MAX_POINTS + 1))] == [MAX_POINTS, MAX_POINTS, 1]


def test_it_does_not_grow_without_bound(box: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ENTRIES", 3)
    for number in range(3):
        box.put(a_fact(number))
    box.put(a_fact(2, 1))  # of a point that it has
    assert not box.begin_restating()
    box.put(a_fact(4))
    assert (box.waiting, box.begin_restating()) == (0, True)
    assert list((tmp_path / "outbox").glob("*.json")) == []


def test_put_is_durable_when_it_returns(tmp_path: Path) -> None:
    found = []
    for at in itertools.count(1):
        folder = tmp_path / f"outbox-{at}"
        try:
            Outbox(folder, SteppedStorage(Trigger(at, cut))).put(a_fact(1))
        except PowerCut:
            found.append(Outbox(folder, Storage()).page())
        else:
            break
    assert found[0] == []
    assert all(each in ([], [a_fact(1)]) for each in found)
    assert Outbox(folder, Storage()).page() == [a_fact(1)]


@pytest.mark.parametrize("content", [b"rot", b"{}"], ids=["rot", "another"])
def test_a_damaged_entry_is_dropped_and_all_is_stated(box: Outbox, tmp_path: Path, content: bytes) -> None:
    box.put(a_fact(1))
    box.put(a_fact(2))
    (tmp_path / "outbox" / f"{a_fact(1).id}.json").write_bytes(content)
    again = box_at(tmp_path)
    assert (again.page(), again.begin_restating()) == ([a_fact(2)], True)
    assert (box.page(), box.begin_restating()) == ([a_fact(2)], True)


def test_an_entry_under_another_name(box: Outbox, tmp_path: Path) -> None:
    (tmp_path / "outbox" / f"{a_fact(2).id}.json").write_text(a_fact(1).model_dump_json())
    assert box_at(tmp_path).waiting == 0


def test_a_full_disk_is_told(tmp_path: Path, box: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(box._storage, "replace", full)
    with pytest.raises(OSError, match="No space"):
        box.put(a_fact(1))
    assert box.waiting == 0


# The sender


class FakeStater:
    """Notes what is stated; fails as often as it is told to."""

    def __init__(self) -> None:
        self.pages: list[list[PointFact]] = []
        self.failures: list[Exception] = []
        self.act: Callable[[], None] = lambda: None

    def points(self, facts: Sequence[PointFact]) -> None:
        self.act()
        if self.failures:
            raise self.failures.pop(0)
        self.pages.append(list(facts))

    @property
    def stated(self) -> list[PointFact]:
        return [fact for page in self.pages for fact in page]


@pytest.fixture
def stater() -> FakeStater:
    return FakeStater()


@pytest.fixture
def catalogue() -> list[PointFact]:
    return []


@pytest.fixture
def sender(tmp_path: Path, stater: FakeStater, catalogue: list[PointFact]) -> Iterator[OutboxSender]:
    backoff = Backoff(first_s=0.001, cap_s=0.01)
    sender = OutboxSender(box_at(tmp_path), stater, lambda: iter(catalogue), backoff)
    yield sender
    sender.stop()


GONE = PeerGone(peer="control", problem="gone")


def test_a_start_states_the_whole_catalogue(
    sender: OutboxSender, stater: FakeStater, catalogue: list[PointFact]
) -> None:
    catalogue += [a_fact(number) for number in range(MAX_POINTS + 1)]
    sender.start()
    until(lambda: len(stater.stated) == MAX_POINTS + 1)
    assert stater.stated == catalogue


def test_a_lost_control_plane_gets_all_of_it_later(
    sender: OutboxSender, stater: FakeStater, catalogue: list[PointFact], capsys: pytest.CaptureFixture[str]
) -> None:
    catalogue.append(a_fact(1))
    stater.failures = [GONE, ZeroDivisionError("a fault"), GONE]
    sender.start()
    until(lambda: stater.stated == [a_fact(1)])
    stater.failures = [GONE, GONE]
    sender._outbox.put(a_fact(2))
    until(lambda: not sender._outbox.waiting)
    assert stater.stated == [a_fact(1), a_fact(2)]
    assert "wire.gone" in capsys.readouterr().out


def test_nothing_is_removed_before_it_is_there(sender: OutboxSender, stater: FakeStater, tmp_path: Path) -> None:
    stater.act = lambda: seen.append(len(list((tmp_path / "outbox").glob("*.json"))))
    seen: list[int] = []
    sender._outbox.put(a_fact(1))
    sender.start()
    until(lambda: not sender._outbox.waiting)
    assert seen == [1]


def test_a_stop_in_the_midst_leaves_the_rest(sender: OutboxSender, stater: FakeStater) -> None:
    before = set(threading.enumerate())
    inside, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        inside.set()
        assert go_on.wait(20)

    for number in range(MAX_POINTS + 1):
        sender._outbox.put(a_fact(number))
    stater.act = wait
    sender.start()
    assert inside.wait(20)
    sender._stopping.set()
    go_on.set()
    sender.stop()
    sender.stop()
    assert (len(stater.pages), sender._outbox.waiting) == (1, 1)
    assert set(threading.enumerate()) == before


def test_a_stop_while_the_catalogue_is_stated(
    sender: OutboxSender, stater: FakeStater, catalogue: list[PointFact]
) -> None:
    catalogue += [a_fact(number) for number in range(2 * MAX_POINTS)]
    stater.act = sender._stopping.set
    sender.start()
    sender._thread.join()
    assert len(stater.pages) == 1


def test_a_stop_does_not_wait_for_the_next_try(tmp_path: Path, stater: FakeStater) -> None:
    stater.failures = [GONE] * 1000
    sender = OutboxSender(box_at(tmp_path), stater, lambda: iter([a_fact(1)]), Backoff(first_s=3600, cap_s=3600))
    sender.start()
    until(lambda: len(stater.failures) < 1000)
    sender.stop()
