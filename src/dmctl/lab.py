"""`dmctl lab`: a whole deployment in one directory, to try, to show, to test."""

import json
import os
import sys
from pathlib import Path

import click

from dmcore.lab import deployment, leftovers, running, setup, sovereign
from dmcore.lab.deployment import Deployment
from dmcore.lab.errors import LabDown
from dmcore.lab.processes import dmctl
from dmctl.stopping import Stop

WATCH_S = 0.5

DIRECTORY = click.argument("directory", type=click.Path(path_type=Path, file_okay=False))


@click.group()
def lab() -> None:
    """A lab: a control plane, an appliance and a connector on this machine, made in one directory.

    \b
    Example:
      dmctl lab init /tmp/lab
      dmctl lab up /tmp/lab
    """


@lab.command()
@DIRECTORY
@click.option("--source", "kind", type=click.Choice(["tracked", "image"]), default="tracked", show_default=True)
@click.option("--database", metavar="URL", help="PostgreSQL, as postgresql+psycopg://... [default: SQLite in the lab]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def init(directory: Path, kind: str, database: str | None, as_json: bool) -> None:
    """Make a lab in a new or empty DIRECTORY: settings, keys, a source and a target.

    \b
    Example:
      dmctl lab init /tmp/lab
      dmctl lab init /tmp/lab --database 'postgresql+psycopg://me@/lab?host=/run/postgresql'
    """
    made = deployment.make_deployment(directory, kind, database)
    if as_json:
        facts = {"directory": made.root, "source": made.source, "kind": kind, "profile": made.profile}
        click.echo(json.dumps({name: str(value) for name, value in facts.items()}))
        return
    click.echo(f"Made a lab in {made.root}.")
    click.echo(f"Put each machine's raw disks in a folder of its own: {made.source}/MACHINE/disk0.img")
    click.echo(f"Then: dmctl lab up {made.root}")


@lab.command()
@DIRECTORY
@click.option("--sovereign", "alone", is_flag=True, help="In a network of its own, with no way out and none in.")
@click.option("--in-namespace", is_flag=True, hidden=True)
def up(directory: Path, alone: bool, in_namespace: bool) -> None:
    """Run the lab's control plane, connector and appliance until Ctrl-C. The first start sets them up.

    In another terminal, as the lab's operator: export DMCTL_PROFILE=DIRECTORY/login.json, or `dmctl lab exec`.

    \b
    Example:
      dmctl lab up /tmp/lab
      dmctl lab up /tmp/lab --sovereign
    """
    held = deployment.open_deployment(directory)
    if alone:
        command = sovereign.isolated(dmctl("lab", "up", str(held.root), "--in-namespace"))
        os.execv(command[0], command)  # noqa: S606 - this very program, in another namespace
    if in_namespace:
        sovereign.bring_loopback_up()
    with Stop() as stop, running.running(held, click.echo) as lab_running:
        click.echo(_hint(held, alone=in_namespace))
        sys.stdout.flush()
        while not stop.wait(WATCH_S):
            lab_running.require_running()
    raise SystemExit(stop.exit_code)


def _hint(held: Deployment, *, alone: bool) -> str:
    reach = f"dmctl lab exec {held.root} dmctl status" if alone else f"export DMCTL_PROFILE={held.profile}"
    where = "All three roles run, in a network of their own" if alone else "All three roles run"
    return f"{where}; their logs are in {held.logs}. Ctrl-C stops them.\nIn another terminal: {reach}"


@lab.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@DIRECTORY
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(directory: Path, command: tuple[str, ...]) -> None:
    """Run COMMAND as the operator of a lab that is up: logged in, and inside its network if that is its own.

    \b
    Example:
      dmctl lab exec /tmp/lab dmctl status
      dmctl lab exec /tmp/lab bash
    """
    held = deployment.open_deployment(directory)
    pid = leftovers.recorded(held.run_dir, "control")
    if pid is None:
        raise LabDown(path=str(held.root))
    line = sovereign.inside(pid, command) if sovereign.has_own_network(pid) else list(command)
    try:
        os.execvpe(line[0], line, setup.operator_environment(held))  # noqa: S606 - what the user has typed
    except OSError as problem:
        raise click.UsageError(f"{line[0]}: {problem.strerror}") from problem
