"""Options and parameters that several commands have."""

from pathlib import Path

import click

CONFIG_VARIABLE = "DMCTL_CONFIG"

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    required=True,
    envvar=CONFIG_VARIABLE,
    show_envvar=True,
    help="The node's configuration file.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with exact numbers.")
wait_option = click.option("--wait", is_flag=True, help="Show how far it is, and exit with what came of it.")
