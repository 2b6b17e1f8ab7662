"""`dmctl appliance enroll` and `dmctl connector enroll`: the same for both kinds of node."""

import sys
from collections.abc import Callable
from pathlib import Path

import click

from dmcore.host.lock import StateLock
from dmcore.model.enums import Role
from dmcore.node.enrolment import enroll
from dmcore.node.identity import load_identity
from dmcore.node.settings import NodeSettings
from dmctl.options import config_option, json_option
from dmctl.output import print_json, print_pairs

MAX_TOKEN_BYTES = 64 << 10

HELP = """Enroll this {role} at the control plane that made TOKEN. `-` reads it from standard input.

The node must not be running. What it is told of its control plane is kept in its state directory; a second enrolment
takes the first one's place, at another control plane only with --force.

An argument can be seen by every user of this machine while the command runs: better pipe the token, or name a file.

\b
Example:
  dmctl {role} enroll - --config {role}.toml < token
  dmctl {role} enroll --token-file token --ca-file company-ca.pem --config {role}.toml
"""


def enroll_command(role: Role, load: Callable[[Path], NodeSettings]) -> click.Command:
    """The command of one kind of node."""

    @click.command("enroll", help=HELP.format(role=role))
    @click.argument("token", required=False)
    @click.option("--token-file", type=click.Path(path_type=Path), help="A file that holds the token.")
    @click.option(
        "--ca-file", type=click.Path(path_type=Path),
        help="Know the control plane by this CA (PEM) and its name, not by the certificate that the token names.",
    )  # fmt: skip
    @click.option("--force", is_flag=True, help="Leave another control plane: its plans and jobs are forgotten.")
    @config_option
    @json_option
    def command(
        token: str | None, token_file: Path | None, ca_file: Path | None, force: bool, config: Path, as_json: bool
    ) -> None:
        text = token_text(token, token_file)
        settings = load(config)
        with StateLock(settings.state_dir):
            identity = load_identity(settings.state_dir)
            made = enroll(text, identity, settings.site, role, settings.state_dir, ca_file, force=force)
        facts = {"control": str(made.control), "url": made.urls[0], "node": identity.node, "site": made.site}
        if as_json:
            print_json(dict(facts))
            return
        click.echo("Enrolled.")
        print_pairs(dict(facts))

    return command


def token_text(token: str | None, token_file: Path | None) -> str:
    """The token that was given one way or another, or a usage error."""
    if (token is None) == (token_file is None):
        raise click.UsageError("give the token once: as TOKEN, as - for standard input, or with --token-file")
    if token_file is not None:
        with token_file.open(encoding="utf-8", errors="replace") as file:
            return file.read(MAX_TOKEN_BYTES).strip()
    return sys.stdin.read(MAX_TOKEN_BYTES).strip() if token == "-" else str(token)  # noqa: S105 - no secret
