"""`dmctl key`: key files, which both nodes of a plan hold and pin."""

from pathlib import Path

import click

from dmcore.keys import local
from dmctl.options import json_option
from dmctl.output import print_json

PATH = click.argument("path", type=click.Path(path_type=Path))


@click.group()
def key() -> None:
    """Key files: the KEK that a node's configuration names and pins.

    \b
    Example:
      dmctl key create kek.key
      dmctl key fingerprint kek.key
    """


@key.command()
@PATH
@json_option
def create(path: Path, as_json: bool) -> None:
    """Make a key file at PATH, for its owner only. An existing file is never replaced.

    Give a copy to the other node, and keep one where it outlives both: without it nobody can read what is sealed.

    \b
    Example:
      dmctl key create /etc/dmcore/kek.key
    """
    made = local.create(path)
    if as_json:
        print_json({"path": str(path), "fingerprint": made})
        return
    click.echo(f"Made {path}. Pin it in both nodes' configuration:\n")
    click.echo(f'[kek]\nfile = "{path}"\nfingerprint = "{made}"')


@key.command()
@PATH
@json_option
def fingerprint(path: Path, as_json: bool) -> None:
    """Show the fingerprint of the key file at PATH: what `kek.fingerprint` of both nodes' configuration must be.

    \b
    Example:
      dmctl key fingerprint /etc/dmcore/kek.key
    """
    found = local.fingerprint(path)
    if as_json:
        print_json({"path": str(path), "fingerprint": found})
    else:
        click.echo(found)
