"""`dmctl demo`: the main job on a real disk, told in tables."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.table import Table

from dmcore.lab import demo as lab_demo
from dmcore.lab.demo import Demo, ShownPoint
from dmctl.codes import exit_code_of

BYTES = {
    "read_bytes": "read from the source",
    "changed_bytes": "changed blocks",
    "zero_bytes": "of them zeros",
    "sealed_bytes": "sealed",
    "wire_bytes": "on the wire",
}


class ConsoleNarrator:
    """Steps as lines; a bar while a cycle runs. On a terminal the bars move, elsewhere only the lines are printed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("  {task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
            console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}

    def step(self, title: str) -> None:
        """The next thing begins."""
        for task in self._tasks.values():
            self._bars.remove_task(task)
        self._tasks = {}
        self._console.print(f"[bold]>[/] {title}", highlight=False)

    def note(self, text: str) -> None:
        """Something worth knowing about it."""
        self._console.print(f"  {text}", highlight=False)

    def progress(self, event: dict[str, Any]) -> None:
        """How far the running cycle is."""
        for disk in event["disks"]:
            self._bar(f"send {disk['label']}", disk["read_bytes"], disk["to_read_bytes"])
        if event["to_apply_bytes"]:
            self._bar("apply", event["applied_bytes"], event["to_apply_bytes"])

    @contextmanager
    def live(self) -> Iterator[None]:
        """Draw bars inside."""
        with self._bars:
            yield

    def _bar(self, name: str, done: int, total: int) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total)
        self._bars.update(self._tasks[name], completed=done, total=total or None)


@click.command()
@click.option(
    "--image",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A raw disk to copy; it is only ever read.",
)
@click.option("--workdir", type=click.Path(path_type=Path), help="A new or empty directory. [default: a temporary one]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
@click.option("--keep", is_flag=True, help="Leave the lab's directory, and say how to go on from there.")
def demo(image: Path | None, workdir: Path | None, as_json: bool, keep: bool) -> None:
    """Replicate a real disk twice through a control plane, an appliance and a connector, recover both points, compare.

    By default the disk is an ext4 file system made of this machine's files (about 3 GiB of free space are needed).

    \b
    Example:
      dmctl demo
      dmctl demo --image /var/lib/images/web1.raw --workdir /tmp/try --keep
    """
    console = Console(stderr=as_json)
    made = workdir is None
    folder = Path(tempfile.mkdtemp(prefix="dmcore-demo-")) if workdir is None else workdir
    try:
        narrator = ConsoleNarrator(console)
        with narrator.live():
            points = Demo(folder, image, narrator, exit_code_of).run()
    except KeyboardInterrupt:
        if made and not keep:
            lab_demo.clean(folder)
        raise
    except Exception:
        if folder.exists():
            console.print(f"What was made is kept in {folder}", highlight=False)
        raise
    show(points, folder, as_json=as_json, console=console)
    if keep:
        console.print(next_steps(folder), highlight=False)
    else:
        lab_demo.clean(folder)


def show(points: list[ShownPoint], folder: Path, *, as_json: bool, console: Console) -> None:
    """The result: one object, or tables."""
    if as_json:
        click.echo(json.dumps({"workdir": str(folder), "points": [point.as_dict() for point in points]}, indent=2))
        return
    console.print(bytes_table(points), time_table(points), points_table(points))
    console.print("[bold green]Both points give back the source exactly as it was.[/]")


def bytes_table(points: list[ShownPoint]) -> Table:
    """What was read, changed, sealed, sent."""
    table = Table(title="Bytes", title_justify="left")
    table.add_column("")
    for point in points:
        table.add_column(f"{point.report['disks'][0]['rung']} ({point.report['disks'][0]['reason']})", justify="right")
    for name, words in BYTES.items():
        table.add_row(words, *(decimal(point.report["disks"][0][name]) for point in points))
    return table


def time_table(points: list[ShownPoint]) -> Table:
    """Seconds by stage."""
    table = Table(title="Seconds", title_justify="left")
    table.add_column("stage")
    for point in points:
        table.add_column(point.report["disks"][0]["rung"], justify="right")
    for stage in points[0].report["seconds"]:
        table.add_row(stage, *(f"{point.report['seconds'].get(stage, 0):.2f}" for point in points))
    return table


def points_table(points: list[ShownPoint]) -> Table:
    """The points and what they gave back."""
    table = Table(title="Recovery points", title_justify="left")
    for name in ("point", "source time", "SHA-256 of source and of recovered disk", "e2fsck -fn"):
        table.add_column(name, overflow="fold")
    for point in points:
        same = "[green]equal[/]" if point.equal else "[red]DIFFERENT[/]"
        when = point.report["source_time"][:19].replace("T", " ")
        table.add_row(
            point.report["point"][:8], when, f"{point.source_sha256[:16]}… {same}", "clean" if point.fsck else "-"
        )
    return table


def next_steps(folder: Path) -> str:
    """How to go on from a kept directory."""
    config = f"--config {folder}/connector.toml"
    return "\n".join(
        [
            f"\nThe lab is in {folder}. Go on from there:",
            f"  dmctl lab up {folder}                       # all three roles, until Ctrl-C",
            f"  export DMCTL_PROFILE={folder}/login.json    # in another terminal: its operator",
            "  dmctl plan run demo --wait                  # one more cycle",
            "  dmctl status",
            f"  dmctl connector recover latest --to DIR {config}",
        ]
    )
