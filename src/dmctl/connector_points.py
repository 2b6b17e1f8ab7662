"""`dmctl connector`, which points stay: preserve one, or let one go. No control plane is needed."""

from pathlib import Path

import click

from dmcore.connector.operator import ExpireRequest, PointsRequest, PreserveRequest, ask
from dmctl.asking import socket_of
from dmctl.names import find_point
from dmctl.options import config_option, json_option
from dmctl.output import print_json


@click.command()
@click.argument("point")
@click.option("--off", is_flag=True, help="No longer: from now on its age counts again.")
@config_option
@json_option
def preserve(point: str, off: bool, config: Path, as_json: bool) -> None:
    """Keep POINT whatever its age, and whoever asks for its removal.

    \b
    Example:
      dmctl connector preserve latest --config connector.toml
      dmctl connector preserve b74c18 --off
    """
    path = socket_of(config)
    chosen = find_point(ask(path, PointsRequest()), point)
    answer = ask(path, PreserveRequest(point=chosen["id"], preserved=not off))
    if as_json:
        print_json(answer)
        return
    click.echo(f"Point {answer['point']} is {'preserved' if answer['preserved'] else 'no longer preserved'}.")


@click.command()
@click.argument("point")
@config_option
@json_option
def expire(point: str, config: Path, as_json: bool) -> None:
    """Remove POINT and its snapshots. What the connector's own retention keeps, stays: see `[retention]`.

    \b
    Example:
      dmctl connector expire b74c18 --config connector.toml
    """
    path = socket_of(config)
    chosen = find_point(ask(path, PointsRequest()), point)
    answer = ask(path, ExpireRequest(point=chosen["id"]))
    if as_json:
        print_json(answer)
        return
    click.echo(f"Point {answer['point']} is gone.")


COMMANDS = (preserve, expire)
