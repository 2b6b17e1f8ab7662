"""`dmctl connector`: run one, and ask the one that runs through its local socket."""

import os
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from dmcore.connector.daemon import Connector
from dmcore.connector.operator import (
    DropRequest,
    PointsRequest,
    RecoverRequest,
    StatusRequest,
    VerifyRequest,
    ask,
)
from dmcore.host import logs
from dmcore.model.enums import Role
from dmcore.node.settings import load_connector
from dmctl import connector_points, connector_trust
from dmctl.asking import socket_of
from dmctl.doctor import connector_doctor
from dmctl.enrolling import enroll_command
from dmctl.names import find_group, find_point
from dmctl.options import config_option, json_option
from dmctl.output import age, moment, print_json, print_pairs, print_table, short_ids, size
from dmctl.stopping import Stop
from dmctl.views import byte_bar


@click.group()
def connector() -> None:
    """The Cloud Connector: run it, and look after its recovery points. No control plane is needed.

    A POINT is an id, the beginning of one that no other has, or `latest`.

    \b
    Example:
      dmctl connector serve --config connector.toml
      dmctl connector recover latest --to /srv/recovered --config connector.toml
    """


@connector.command()
@config_option
@click.pass_context
def serve(ctx: click.Context, config: Path) -> None:
    """Run the connector in the foreground until SIGTERM (exit code 0) or Ctrl-C (130). Its log goes to standard error.

    \b
    Example:
      dmctl connector serve --config connector.toml
    """
    settings = load_connector(config)
    logs.configure(settings.logging)
    problems: list[Exception] = []

    def ended(problem: Exception) -> None:
        """Called in another thread: wakes the wait below."""
        problems.append(problem)
        os.kill(os.getpid(), signal.SIGTERM)

    with Stop() as stop:
        with Connector(settings, ended=ended) as running:
            click.echo(f"connector {running.trust.identity.node} at {settings.site}")
            click.echo(f"serves appliances on {running.server.address}, pairing on {running.pairing.address}")
            stop.wait()
        for problem in problems:
            raise problem
        ctx.exit(stop.exit_code)


@connector.command()
@config_option
@json_option
def points(config: Path, as_json: bool) -> None:
    """List the recovery points, newest last.

    \b
    Example:
      dmctl connector points --config connector.toml
      dmctl connector points --json
    """
    found = ask(socket_of(config), PointsRequest())
    if as_json:
        print_json({"points": found})
        return
    now = datetime.now(UTC)
    names = short_ids([point["id"] for point in found])
    columns = ["point", "source time", "age", "consistency", "disks", "size", "rung", "state", "verified"]
    rows = [[names[point["id"]], *_point_row(point, now)] for point in found]
    print_table(f"Recovery points: {len(found)}", columns, rows, ["age", "disks", "size"])


def _point_row(point: dict[str, Any], now: datetime) -> list[str]:
    disks, time = point["disks"], point["source_time"]
    total = size(sum(disk["disk_bytes"] for disk in disks))
    rungs = ", ".join(sorted({disk["rung"] for disk in disks}))
    row = [moment(time), age(time, now), point["consistency"], str(len(disks)), total, rungs]
    return [*row, _state(point), age(point["verified_at"], now) if point["verified_at"] else "-"]


def _state(point: dict[str, Any]) -> str:
    state = "expiring" if point["expiring"] else point["state"]
    return ", ".join([state, *(flag for flag in ("preserved", "locked") if point[flag])])


@connector.command()
@config_option
@json_option
def status(config: Path, as_json: bool) -> None:
    """Show every group: its disks, the cycle that is under way, and what is wrong with it.

    \b
    Example:
      dmctl connector status --config connector.toml
      dmctl connector status --json
    """
    found = ask(socket_of(config), StatusRequest())
    if as_json:
        print_json({"groups": found})
        return
    columns = ["group", "points", "disks", "size", "epoch", "cycle", "phase", "problem"]
    rows = [_group_row(group) for group in found]
    print_table(f"Groups: {len(found)}", columns, rows, ["points", "disks", "size", "epoch"])


def _group_row(group: dict[str, Any]) -> list[object]:
    if "disks" not in group:  # it could not be opened: only its name and the problem are known
        return [group["group"], *["-"] * 6, group["problem"]]
    total = size(sum(disk["disk_bytes"] for disk in group["disks"]))
    cycle, phase = group["cycle"] or "-", group["phase"] or "-"
    return [group["group"], group["points"], len(group["disks"]), total, group["epoch"], cycle, phase, group["problem"]]


@connector.command()
@click.argument("point")
@config_option
@json_option
def verify(point: str, config: Path, as_json: bool) -> None:
    """Read POINT whole and check every block against the digests it was committed with.

    \b
    Example:
      dmctl connector verify latest --config connector.toml
    """
    path = socket_of(config)
    chosen = find_point(ask(path, PointsRequest()), point)
    total = sum(disk["disk_bytes"] for disk in chosen["disks"])
    with byte_bar("verify", total, shown=not as_json) as advance:
        answer = ask(path, VerifyRequest(point=chosen["id"]), advance)
    if as_json:
        print_json(answer)
        return
    click.echo(f"Point {answer['point']} is whole: {answer['disks']} disks, {size(answer['checked_bytes'])} checked.")


@connector.command()
@click.argument("point")
@click.option("--to", "folder", type=click.Path(path_type=Path), required=True, help="Made if it is not there.")
@config_option
@json_option
def recover(point: str, folder: Path, config: Path, as_json: bool) -> None:
    """Write the disks of POINT as raw, sparse files into a folder. Nothing is overwritten.

    \b
    Example:
      dmctl connector recover latest --to /srv/recovered --config connector.toml
      dmctl connector recover b74c18 --to /srv/recovered --json
    """
    path = socket_of(config)
    chosen = find_point(ask(path, PointsRequest()), point)
    request = RecoverRequest(point=chosen["id"], folder=folder.absolute())  # the connector lives elsewhere
    with byte_bar("recover", None, shown=not as_json) as advance:
        disks = ask(path, request, advance)
    if as_json:
        print_json({"point": chosen["id"], "source_time": chosen["source_time"], "disks": disks})
        return
    columns = ["machine", "disk", "size", "file"]
    rows = [[disk["machine"], disk["label"], size(disk["disk_bytes"]), disk["path"]] for disk in disks]
    title = f"Point {chosen['id']} of {moment(chosen['source_time'])}"
    print_table(title, columns, rows, ["size"])


@connector.command()
@click.argument("group")
@click.option("--force", is_flag=True, help="Give up what is damaged of a staging log (log.corrupt), too.")
@config_option
@json_option
def drop(group: str, force: bool, config: Path, as_json: bool) -> None:
    """Give up the cycle that GROUP is receiving. Its points stay as they are, and what its shadows hold is known.

    With --force, also what cannot be read of a cycle's staging logs, where that keeps it from going on: such a disk
    is sent whole by its next cycle, and this one becomes no point.

    A GROUP is an id as `status` shows it, or the beginning of one that no other has.

    \b
    Example:
      dmctl connector drop 240928ec --config connector.toml
    """
    path = socket_of(config)
    chosen = find_group(ask(path, StatusRequest()), group)
    answer = ask(path, DropRequest(group=chosen["group"], lost=force))
    if as_json:
        print_json(answer)
        return
    print_pairs({name: answer[name] or "-" for name in ("group", "cycle", "phase", "problem", "points")})


for command in (*connector_trust.COMMANDS, *connector_points.COMMANDS):
    connector.add_command(command)
connector.add_command(connector_doctor)
connector.add_command(enroll_command(Role.CONNECTOR, load_connector))
