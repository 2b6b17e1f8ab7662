"""`dmctl version`."""

import platform
from importlib.metadata import version as version_of

import click

from dmcore.native import libraries
from dmcore.seal.constants import FRAME_VERSION
from dmcore.wire.versions import VERSIONS
from dmctl.options import json_option
from dmctl.output import print_json, print_pairs


@click.command()
@json_option
def version(as_json: bool) -> None:
    """Show the versions of dmcore, of the libraries it is linked with, and of what it reads and speaks.

    \b
    Example:
      dmctl version
      dmctl version --json
    """
    dmcore, python, linked = version_of("dmcore"), platform.python_version(), libraries.versions()
    if as_json:
        wire = list(VERSIONS)
        print_json({"dmcore": dmcore, "python": python, "libraries": linked, "wire": wire, "format": FRAME_VERSION})
        return
    rows: dict[str, object] = {"dmcore": dmcore, "python": python, **linked}
    rows |= {"wire protocol": ", ".join(map(str, VERSIONS)), "sealed format": FRAME_VERSION}
    print_pairs(rows)
