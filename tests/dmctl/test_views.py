import io
import json
import sys

import pytest
from rich.console import Console

from dmcore.host.errors import NodeRunning
from dmcore.model.enums import Stage
from dmctl.views import (
    AboveBars,
    BarsView,
    EventsView,
    LinesView,
    ReportView,
    View,
    byte_bar,
    failures_shown,
    log_stream,
    make_view,
)
from tests.dmctl.cycles import POINT, progress, report, stats


class FakeClock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None, legacy_windows=False)


def drawn(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_lines_come_with_each_stage_and_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    clock = FakeClock()
    view = LinesView(Console(), clock)
    disk = stats(to_read_bytes=8000)
    view.show(progress(Stage.CONNECTING))
    view.show(progress(Stage.CONNECTING))
    view.show(progress(Stage.TRANSFER, disk))
    disk.read_bytes = 2000
    view.show(progress(Stage.TRANSFER, disk))
    clock.now += 10
    view.show(progress(Stage.TRANSFER, disk))
    view.show(progress(Stage.COMMIT, disk, applied_bytes=500, to_apply_bytes=4000))
    assert lines(capsys) == [
        "connecting",
        "transfer: 0 B of 8.0 kB read",
        "transfer: 2.0 kB of 8.0 kB read",
        "commit: 500 B of 4.0 kB applied",
    ]


def test_lines_begin_anew_with_the_next_job(capsys: pytest.CaptureFixture[str]) -> None:
    view = LinesView(Console())
    for _ in range(2):
        view.show(progress(Stage.CONNECTING))
        view.rest()
    assert lines(capsys) == ["connecting", "connecting"]


@pytest.mark.parametrize("view", [LinesView(Console()), BarsView(Console())], ids=["lines", "bars"])
def test_people_get_a_table_of_what_was_done(view: View, capsys: pytest.CaptureFixture[str]) -> None:
    view.finish(report(stats(read_bytes=2000, sealed_bytes=1000)))
    view.fail(NodeRunning(path="/x"))  # its message is printed elsewhere
    title, header, row = lines(capsys)
    assert title == f"Recovery point {POINT} in 1.25 s"
    assert header.split() == ["disk", "rung", "read", "changed", "zero", "sealed", "wire"]
    assert row.split() == ["vm1/d0.img", "delta,", "tracked", "2.0", "kB", "0", "B", "0", "B", "1.0", "kB", "0", "B"]
    assert len(header) < 80


def test_bars_show_stage_disks_and_what_is_applied() -> None:
    console = terminal()
    view = BarsView(console)
    view.show(progress(Stage.CONNECTING))
    disks = [stats(0, read_bytes=1000, to_read_bytes=2000), stats(1, to_read_bytes=0)]
    view.show(progress(Stage.COMMIT, *disks, applied_bytes=3000, to_apply_bytes=3000))
    view.rest()
    view.rest()
    last = drawn(console).rsplit("commit", 1)[1].splitlines()
    assert "vm1/d0.img: delta (tracked)" in last[1]
    assert "1.0/2.0 kB" in last[1]
    assert "vm1/d1.img" in last[2]
    assert "apply at the connector" in last[3]
    assert "3.0/3.0 kB" in last[3]


def test_log_lines_go_above_the_bars() -> None:
    console = terminal()
    view = BarsView(console)
    view.show(progress(Stage.TRANSFER, stats(to_read_bytes=1000)))
    before = len(drawn(console))
    AboveBars(console).write("[warning] is [not] markup\n")
    after = drawn(console)[before:]
    assert after.index("[warning] is [not] markup\n") < after.index("vm1/d0.img")
    view.rest()


def test_events_are_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    view = EventsView()
    view.show(progress(Stage.TRANSFER, stats(read_bytes=5)))
    view.rest()
    view.finish(report(stats()))
    view.fail(NodeRunning(path="/x", correlation="abc"))
    going, done, failed = map(json.loads, lines(capsys))
    assert (going["event"], going["stage"], going["disks"][0]["read_bytes"]) == ("progress", "transfer", 5)
    assert (done["event"], done["point"]) == ("report", str(POINT))
    assert (failed["event"], failed["code"], failed["exit_code"]) == ("error", "node.running", 10)
    assert (failed["permanent"], failed["correlation"]) == (False, "abc")


def test_only_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    view = ReportView()
    view.show(progress(Stage.TRANSFER))
    view.rest()
    view.fail(NodeRunning(path="/x"))
    view.finish(report(stats()))
    (only,) = lines(capsys)
    assert json.loads(only) == report(stats()).as_dict()


def test_the_command_line_and_the_terminal_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(make_view(as_events=True, as_json=False)) is EventsView
    assert type(make_view(as_events=False, as_json=True)) is ReportView
    assert type(make_view(as_events=False, as_json=False)) is LinesView
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert type(make_view(as_events=False, as_json=False)) is BarsView


def test_the_log_keeps_out_of_the_bars_on_one_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    bars = BarsView(terminal())
    assert log_stream(bars) is None  # standard error is a file: that is where the log belongs
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert isinstance(log_stream(bars), AboveBars)
    assert log_stream(EventsView()) is None


def test_a_view_hears_of_what_ends_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NodeRunning), failures_shown(EventsView()):
        raise NodeRunning(path="/x")
    assert json.loads(capsys.readouterr().out)["code"] == "node.running"


def test_a_bar_is_drawn_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with byte_bar("verify", 2000, shown=True) as advance:
        advance(1000)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with byte_bar("verify", 2000, shown=True) as advance:
        advance(1000)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "verify" in captured.err
    assert "1.0/2.0 kB" in captured.err
    with byte_bar("verify", 2000, shown=False):
        pass
    assert capsys.readouterr() == ("", "")
