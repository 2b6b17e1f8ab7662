"""What every command prints with: consoles, JSON, sizes, ages, tables."""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 1000
"""Where there is no terminal, tables are as wide as they are: a pager or grep sees whole rows."""
NOTHING = "-"
"""What a cell says where there is nothing to say."""
SHORT_ID_LENGTHS = (8, 13, 18, 23, 36)
"""An id is cut where a group of its digits ends."""


def stdout() -> Console:
    """Standard output, plain unless it is a terminal."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def print_json(value: dict[str, Any]) -> None:
    """One object."""
    click.echo(json.dumps(value, indent=2))


def printable(text: str) -> str:
    """Names come from sources and peers: nothing in them may steer a terminal."""
    return "".join(sign if sign.isprintable() or sign == "\n" else "?" for sign in text)


def size(count: int) -> str:
    """Bytes for people: `67.1 MB`."""
    return decimal(count) if count >= 1000 else f"{count} B"


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], numbers: Sequence[str]) -> None:
    """A table on standard output; the columns of `numbers` are set to the right and never broken."""
    console = stdout()
    console.print(heading(title), soft_wrap=True)
    console.print(make_table(columns, rows, numbers))


def heading(title: str) -> Text:
    """What stands above a table."""
    return Text(printable(title), style="bold")


def make_table(columns: Sequence[str], rows: Iterable[Sequence[object]], numbers: Sequence[str]) -> Table:
    """The table of `print_table`, to be drawn elsewhere."""
    made = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        right = column in numbers
        made.add_column(column, justify="right" if right else "left", overflow="fold", no_wrap=right)
    for row in rows:
        made.add_row(*(Text(printable(str(cell))) for cell in row))
    return made


def print_pairs(rows: dict[str, object]) -> None:
    """Names and values under each other, on standard output."""
    made = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        made.add_row(Text(name, style="dim"), Text(printable(str(value))))
    stdout().print(made)


def print_report(report: dict[str, Any]) -> None:
    """A cycle's report (`CycleReport.as_dict`), a row a disk. It fits a terminal of 80 columns."""
    numbers = ("read", "changed", "zero", "sealed", "wire")
    rows = [
        [f"{disk['machine']}/{disk['label']}", f"{disk['rung']}, {disk['reason']}"]
        + [size(disk[f"{name}_bytes"]) for name in numbers]
        for disk in report["disks"]
    ]
    title = f"Recovery point {report['point']} in {sum(report['seconds'].values()):.2f} s"
    print_table(title, ["disk", "rung", *numbers], rows, numbers)


def short_ids(ids: Sequence[str]) -> dict[str, str]:
    """Each id cut to what still tells it from the others."""
    for length in SHORT_ID_LENGTHS:
        if len({each[:length] for each in ids}) == len(set(ids)):
            return {each: each[:length] for each in ids}
    return {each: each for each in ids}


def moment(time: datetime | str | None) -> str:
    """A time (as text: one of a JSON answer), in UTC, to the second."""
    if time is None:
        return NOTHING
    at = datetime.fromisoformat(time) if isinstance(time, str) else time
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def age(time: datetime | str | None, now: datetime) -> str:
    """How long ago a time is."""
    if time is None:
        return NOTHING
    at = datetime.fromisoformat(time) if isinstance(time, str) else time
    return span((now - at).total_seconds())


def span(seconds: float | None) -> str:
    """A length of time for people: `12 min`."""
    if seconds is None:
        return NOTHING
    seconds = max(seconds, 0)
    for unit, unit_seconds in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * unit_seconds:
            return f"{seconds / unit_seconds:.0f} {unit}"
    return f"{seconds:.0f} s"
