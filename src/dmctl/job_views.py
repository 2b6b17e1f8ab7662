"""How jobs that run are shown: bars on a terminal, lines in a log, events for a script."""

import json
import time
from collections.abc import Callable, Sequence
from typing import Protocol
from uuid import UUID

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dmcore.api.jobs import JobView
from dmcore.errors import ExitCode
from dmctl.job_texts import amount, doing, ended, outcome, result, short_id, title
from dmctl.output import printable, size, stdout

LINE_S = 10.0
"""Where there is no terminal, a job in one long stage says this often how far it is."""
TEXT_WIDTH, BAR_WIDTH = 24, 30
SPARE_LINES = 4
"""Of a terminal's height: what Live cuts off cannot be scrolled to."""


class JobsView(Protocol):
    """Who is shown how jobs get on. All calls come from the main thread."""

    def show(self, jobs: Sequence[JobView]) -> None:
        """How far they are."""
        ...

    def rest(self) -> None:
        """Nobody looks any more. Idempotent."""
        ...


class EventsView:
    """`--json`: a job whenever there is news of it, one object a line."""

    def __init__(self) -> None:
        self._said: dict[UUID, JobView] = {}

    def show(self, jobs: Sequence[JobView]) -> None:
        """An event for each that has changed."""
        for job in jobs:
            if self._said.get(job.id) != job:
                click.echo(
                    json.dumps({"event": "ended" if ended(job) else "progress", "job": job.model_dump(mode="json")})
                )
                self._said[job.id] = job

    def rest(self) -> None:
        """Nothing."""


class LinesView:
    """No terminal: a line whenever a job gets to something else, and now and then one in between."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._said: dict[UUID, tuple[str, float]] = {}

    def show(self, jobs: Sequence[JobView]) -> None:
        """A line for each that has something new to say."""
        for job in jobs:
            self._show(job)

    def _show(self, job: JobView) -> None:
        now, words = self._clock(), result(job) if ended(job) else doing(job)
        before, said = self._said.get(job.id, ("", 0.0))
        if words == before and (ended(job) or now - said < LINE_S):
            return
        self._said[job.id] = words, now
        far = "" if ended(job) else amount(job)
        line = f"{short_id(job)} {title(job)}: {words}" + (f": {far}" if far else "")
        self._console.print(Text(printable(line)), soft_wrap=True)

    def rest(self) -> None:
        """Nothing."""


class BarsView:
    """A terminal: a line a job, a bar for each disk of those that run, a bar for what the connector applies."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None

    def show(self, jobs: Sequence[JobView]) -> None:
        """Draw them, those that run first where not all fit."""
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
            self._live.start()
        self._live.update(self._fitting(jobs), refresh=True)

    def rest(self) -> None:
        """Leave what was drawn last."""
        if self._live is not None:
            self._live.stop()
        self._live = None

    def _fitting(self, jobs: Sequence[JobView]) -> RenderableType:
        room = max(self._console.height - SPARE_LINES, 1)
        drawn: list[RenderableType] = []
        lines = 0
        for number, job in enumerate(sorted(jobs, key=_order)):
            bars = _bars(job)
            if lines + 1 + len(bars) > room:
                left = len(jobs) - number
                drawn.append(Text(f"and {left} more job{'s' if left > 1 else ''}", style="dim"))
                break
            drawn += [_line(job), _drawn(bars)] if bars else [_line(job)]
            lines += 1 + len(bars)
        return Group(*drawn)


def _order(job: JobView) -> int:
    """What runs, what waits, what failed, what is done."""
    if not ended(job):
        return 0 if job.progress.disks else 1
    return 3 if outcome(job).exit_code is ExitCode.OK else 2


def _line(job: JobView) -> Text:
    words = result(job) if ended(job) else ", ".join(filter(None, (doing(job), amount(job))))
    style = "" if not ended(job) else "green" if outcome(job).exit_code is ExitCode.OK else "red"
    return Text.assemble((f"{printable(title(job))}: ", "bold"), (words, style), overflow="ellipsis", no_wrap=True)


def _bars(job: JobView) -> list[tuple[str, int, int]]:
    """What each stands for, how much is done, of how much."""
    if ended(job):
        return []
    at = job.progress
    bars = [(f"disk {str(disk.disk)[:8]} {disk.rung}", disk.read_bytes, disk.to_read_bytes) for disk in at.disks]
    if at.to_apply_bytes:
        return [*bars, ("apply", at.applied_bytes, at.to_apply_bytes)]
    return bars if bars or not at.total_bytes else [("done", at.done_bytes, at.total_bytes)]


def _drawn(bars: Sequence[tuple[str, int, int]]) -> RenderableType:
    """A line each, under each other."""
    made = Table.grid(padding=(0, 1))
    made.add_column(width=TEXT_WIDTH, no_wrap=True, overflow="ellipsis")
    made.add_column(ratio=1)
    made.add_column(no_wrap=True, justify="right")
    for text, done, total in bars:
        bar = ProgressBar(total=total, completed=min(done, total), width=BAR_WIDTH)
        made.add_row(Text(f"  {text}"), bar, Text(f"{size(done)} of {size(total)}"))
    return made


def make_jobs_view(*, as_json: bool) -> JobsView:
    """The view that the command line asks for."""
    if as_json:
        return EventsView()
    console = stdout()
    return BarsView(console) if console.is_terminal else LinesView(console)
