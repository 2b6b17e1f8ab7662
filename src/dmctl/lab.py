"""`dmctl lab`: a whole deployment in one directory, to try, to show, to test."""

import json
from datetime import UTC, datetime
from pathlib import Path

import click

from dmcore.appliance.agent import open_alias
from dmcore.lab import layout, processes
from dmcore.lab.layout import SOURCE, Lab
from dmcore.model.enums import Rung
from dmcore.node.settings import load_appliance
from dmctl.output import print_report
from dmctl.stopping import Stop

WATCH_S = 0.5

DIRECTORY = click.argument("directory", type=click.Path(path_type=Path, file_okay=False))


@click.group()
def lab() -> None:
    """A lab: an appliance and a connector on this machine, made in one directory.

    \b
    Example:
      dmctl lab init /tmp/lab
      dmctl lab up /tmp/lab
    """


@lab.command()
@DIRECTORY
@click.option("--source", "kind", type=click.Choice(["tracked", "image"]), default="tracked", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def init(directory: Path, kind: str, as_json: bool) -> None:
    """Make a lab in a new or empty DIRECTORY: settings, keys, a source and a target.

    \b
    Example:
      dmctl lab init /tmp/lab
    """
    made = layout.make_lab(directory, kind)
    if as_json:
        click.echo(json.dumps({"directory": str(made.root), "source": str(made.source), "kind": kind}))
        return
    click.echo(f"Made a lab in {made.root}.")
    click.echo(f"Put each machine's raw disks in a folder of its own: {made.source}/MACHINE/disk0.img")
    click.echo(f"Then: dmctl lab up {made.root}")


@lab.command()
@DIRECTORY
def up(directory: Path) -> None:
    """Run the lab's connector and appliance until Ctrl-C. The appliance takes the jobs that `lab cycle` makes.

    \b
    Example:
      dmctl lab up /tmp/lab
    """
    held = layout.open_lab(directory)
    with Stop() as stop, processes.running_connector(held) as connector:
        if not processes.is_paired(held):
            processes.pair_appliance(held)
            click.echo("Paired the appliance with the connector.")
        appliance = processes.start_node(
            held, "appliance", "appliance", "run", "--config", str(held.appliance_config), "--follow", str(held.jobs)
        )
        try:
            click.echo(f"Both nodes run; their logs are in {held.root / 'logs'}. Ctrl-C stops them.")
            while not stop.wait(WATCH_S):
                connector.require_running()
                appliance.require_running()
        finally:
            appliance.stop()
    raise SystemExit(stop.exit_code)


@lab.command()
@DIRECTORY
@click.argument("machines", nargs=-1)
@click.option("--resync", type=click.Choice([Rung.COMPARE.value]), help="Compare whole disks, whatever is tracked.")
@click.option("--json", "as_json", is_flag=True, help="Print the cycle's report as one JSON object.")
def cycle(directory: Path, machines: tuple[str, ...], resync: str | None, as_json: bool) -> None:
    """Run one cycle of MACHINES (all, if none is named) in a lab that is up, and show its report.

    \b
    Example:
      dmctl lab cycle /tmp/lab
      dmctl lab cycle /tmp/lab web1 --json
    """
    held = layout.open_lab(directory)
    processes.require_up(held)  # before a job is made that nobody would take
    wish = Rung(resync) if resync else None
    _, path = held.new_job(list(machines) or all_machines(held), datetime.now(UTC), resync=wish)
    report = processes.wait_for_report(held, path)
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        print_report(report)


def all_machines(held: Lab) -> list[str]:
    """The labels of the machines of the lab's source that can be protected."""
    source = open_alias(load_appliance(held.appliance_config), SOURCE)
    try:
        found = [machine.label for machine in source.machines() if not machine.problem]
    finally:
        source.close()
    if not found:
        raise click.UsageError(f"no machine to protect: put raw disks in {held.source}/MACHINE/")
    return found
