"""How a running cycle is shown: bars on a terminal, lines in a log, events or a report for a script."""

import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO, cast

import click
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.text import Text

from dmcore.appliance.progress import CycleProgress, CycleReport
from dmcore.model.enums import Stage
from dmctl import failures
from dmctl.output import print_report, printable, size, stdout

LINE_S = 10.0
"""Where there is no terminal, a long stage says this often how far it is."""


class View(Protocol):
    """Who is shown a run. All calls come from the main thread."""

    def show(self, progress: CycleProgress) -> None:
        """How far the cycle is."""
        ...

    def rest(self) -> None:
        """The cycle has ended, however. Idempotent."""
        ...

    def finish(self, report: CycleReport) -> None:
        """There is a recovery point."""
        ...

    def fail(self, error: Exception) -> None:
        """There is none. The error itself is told elsewhere, to people."""
        ...


class ReportView:
    """`--json`: the report and nothing else."""

    def show(self, progress: CycleProgress) -> None:
        """Nothing."""

    def rest(self) -> None:
        """Nothing."""

    def finish(self, report: CycleReport) -> None:
        """One object a line."""
        click.echo(json.dumps(report.as_dict()))

    def fail(self, error: Exception) -> None:
        """Nothing."""


class EventsView(ReportView):
    """`--events`: progress, then the report or the error, one object a line."""

    def show(self, progress: CycleProgress) -> None:
        """One event."""
        click.echo(json.dumps({"event": "progress", **progress.as_dict()}))

    def finish(self, report: CycleReport) -> None:
        """The last event of a job."""
        click.echo(json.dumps({"event": "report", **report.as_dict()}))

    def fail(self, error: Exception) -> None:
        """The last event of a job, or of a run that did not get to one."""
        click.echo(json.dumps({"event": "error", **failures.fields(error)}))


class LinesView:
    """No terminal: a line a stage, and now and then one in between."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._stage: Stage | None = None
        self._said = 0.0

    def show(self, progress: CycleProgress) -> None:
        """A line, if there is something new to say."""
        now = self._clock()
        if progress.stage is self._stage and now - self._said < LINE_S:
            return
        self._stage, self._said = progress.stage, now
        self._console.print(f"{progress.stage}{_amount(progress)}", highlight=False)

    def rest(self) -> None:
        """The next job begins anew."""
        self._stage = None

    def finish(self, report: CycleReport) -> None:
        """The report's table."""
        print_report(report.as_dict())

    def fail(self, error: Exception) -> None:
        """Nothing: the error's message says it."""


def _amount(progress: CycleProgress) -> str:
    if progress.stage is Stage.TRANSFER:
        disks = list(progress.disks.values())
        read, total = sum(d.read_bytes for d in disks), sum(d.to_read_bytes for d in disks)
        return f": {size(read)} of {size(total)} read"
    if progress.stage is Stage.COMMIT and progress.to_apply_bytes:
        return f": {size(progress.applied_bytes)} of {size(progress.to_apply_bytes)} applied"
    return ""


class BarsView:
    """A terminal: the stage, a bar a disk, a bar for what the connector applies."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live: Live | None = None
        self._begin()

    def show(self, progress: CycleProgress) -> None:
        """Draw it."""
        if self._live is None:
            self._live = Live(console=self.console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
            self._live.start()
        for disk in list(progress.disks.values()):
            name = f"{disk.machine}/{disk.label}: {disk.rung} ({disk.reason})"
            self._draw(str(disk.disk), printable(name), disk.read_bytes, disk.to_read_bytes)
        if progress.to_apply_bytes:
            self._draw("apply", "apply at the connector", progress.applied_bytes, progress.to_apply_bytes)
        self._live.update(Group(Text(progress.stage, style="bold"), self._bars), refresh=True)

    def rest(self) -> None:
        """Leave the bars as they are; the next job draws its own."""
        if self._live is not None:
            self._live.stop()
        self._live = None
        self._begin()

    def finish(self, report: CycleReport) -> None:
        """The report's table."""
        print_report(report.as_dict())

    def fail(self, error: Exception) -> None:
        """Nothing: the error's message says it."""

    def _begin(self) -> None:
        self._bars = byte_bars(self.console)
        self._tasks: dict[str, TaskID] = {}

    def _draw(self, key: str, text: str, done_bytes: int, total_bytes: int) -> None:
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(text)
        self._bars.update(self._tasks[key], completed=done_bytes, total=total_bytes)


class AboveBars(io.TextIOBase):
    """Where log lines go while bars are drawn on the same terminal: above them."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def write(self, text: str) -> int:
        """Print it as it is."""
        self._console.out(text, end="", highlight=False)
        return len(text)


def byte_bars(console: Console, *, shown: bool = True) -> Progress:
    """Bars of bytes with their rate; they vanish, but those of a cycle, which are drawn by hand."""
    return Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
        console=console, transient=True, disable=not shown,
    )  # fmt: skip


@contextmanager
def byte_bar(text: str, total_bytes: int | None, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """One bar on standard error, where that is a terminal. Gives what is to be told how many bytes are done."""
    console = Console(stderr=True)
    with byte_bars(console, shown=shown and console.is_terminal) as bars:
        task = bars.add_task(text, total=total_bytes)
        yield lambda done_bytes: bars.update(task, completed=done_bytes)


def make_view(*, as_events: bool, as_json: bool) -> View:
    """The view that the command line asks for."""
    if as_events:
        return EventsView()
    if as_json:
        return ReportView()
    console = stdout()
    return BarsView(console) if console.is_terminal else LinesView(console)


def log_stream(view: View) -> TextIO | None:
    """Where the log goes beside a view; None: standard error as it is."""
    if isinstance(view, BarsView) and sys.stderr.isatty():
        return cast("TextIO", AboveBars(view.console))
    return None


@contextmanager
def failures_shown(view: View) -> Iterator[None]:
    """Let a view know why there is nothing more to show."""
    try:
        yield
    except Exception as error:
        view.fail(error)
        raise
