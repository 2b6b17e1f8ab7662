"""`dmctl control`: make and run the control plane on this machine."""

from pathlib import Path

import click

from dmcore.api.operators import NewToken, OperatorRole, TokenSpec
from dmcore.control.access import audit, operators
from dmcore.control.certificates import open_certificate
from dmcore.control.plane import Plane, initialise, upgrade_store
from dmcore.control.server import ControlServer
from dmcore.control.settings import load_control
from dmcore.host import logs
from dmcore.host.clock import utc_now
from dmctl.asking import request_of
from dmctl.errors import AuditBroken
from dmctl.options import config_option, json_option
from dmctl.output import moment, print_json
from dmctl.params import values
from dmctl.stopping import Stop

CHECK_S = 1.0
"""How soon a server that ended by itself is noticed."""


@click.group()
def control() -> None:
    """The control plane, on its own machine: make it, run it, get back in when all tokens are lost. No login is needed.

    \b
    Example:
      dmctl control init --config control.toml
      dmctl control serve --config control.toml
    """


@control.command()
@config_option
@json_option
def init(config: Path, as_json: bool) -> None:
    """Make a new control plane: its keys, its database, and the first admin token, which is shown this once.

    Only the token goes to standard output, so that it can be piped. A control plane that is there stays as it is.

    \b
    Example:
      dmctl control init --config control.toml > admin.token
    """
    settings = load_control(config)
    made = initialise(settings)
    with Plane.open(settings) as plane:
        facts = {"control": str(plane.control), "fingerprint": plane.certificate.fingerprint}
    if as_json:
        print_json({**facts, "token": made.model_dump(mode="json")})
        return
    _show_token(made)
    click.echo(f"Made control plane {facts['control']}.", err=True)
    click.echo(f"The SHA-256 fingerprint of its certificate is {facts['fingerprint']}", err=True)


@control.command()
@config_option
@json_option
def upgrade(config: Path, as_json: bool) -> None:
    """Bring the database's tables to this version, with no server running. Repeating it changes nothing.

    \b
    Example:
      dmctl control upgrade --config control.toml
    """
    upgrade_store(load_control(config))
    if as_json:
        print_json({"upgraded": True})
        return
    click.echo("The database is at this version.")


@control.command()
@config_option
@click.pass_context
def serve(ctx: click.Context, config: Path) -> None:
    """Run the control plane in the foreground until SIGTERM (exit code 0) or Ctrl-C (130). It logs to standard error.

    \b
    Example:
      dmctl control serve --config control.toml
    """
    settings = load_control(config)
    logs.configure(settings.logging)
    with Stop() as stop:
        with ControlServer(settings) as running:
            click.echo(f"control plane {running.plane.control} serves on {running.address}")
            click.echo(f"fingerprint {running.plane.certificate.fingerprint}")
            while not stop.wait(CHECK_S):
                running.check()
        ctx.exit(stop.exit_code)


@control.command()
@click.option("--name", required=True, help="Whose it is, for the audit log.")
@click.option("--role", type=click.Choice(values(OperatorRole)), default=OperatorRole.ADMIN.value, show_default=True)
@click.option("--days", type=int, default=90, show_default=True, help="How long it is good.")
@config_option
@json_option
def token(name: str, role: str, days: int, config: Path, as_json: bool) -> None:
    """Make a token here, without one: when all admin tokens are lost or expired. It is shown this once.

    \b
    Example:
      dmctl control token --name rescue --config control.toml > admin.token
    """
    spec = request_of(TokenSpec, name=name, role=role, days=days)
    with Plane.open(load_control(config)) as plane, plane.database.write() as connection:
        made = operators.create(connection, plane.database.now(connection), spec, operators.LOCAL)
    if as_json:
        print_json(made.model_dump(mode="json"))
        return
    _show_token(made)


@control.command()
@config_option
@json_option
def fingerprint(config: Path, as_json: bool) -> None:
    """Show the SHA-256 fingerprint of the certificate, for `dmctl login --fingerprint`.

    \b
    Example:
      dmctl control fingerprint --config control.toml
    """
    found = open_certificate(load_control(config), utc_now).fingerprint
    if as_json:
        print_json({"fingerprint": found})
        return
    click.echo(found)


@control.group("audit")
def audit_group() -> None:
    """The audit log, as it lies in the database.

    \b
    Example:
      dmctl control audit verify --config control.toml
    """


@audit_group.command()
@config_option
@json_option
def verify(config: Path, as_json: bool) -> None:
    """Check that no entry was changed or taken out, and show the last one's number and hash: keep a copy elsewhere.

    \b
    Example:
      dmctl control audit verify --config control.toml
    """
    with Plane.open(load_control(config)) as plane, plane.database.read() as connection:
        broken = audit.verify_chain(connection)
        last = audit.list_entries(connection, limit=1).entries[0]
    if broken is not None:
        raise AuditBroken(number=broken)
    if as_json:
        print_json({"entries": last.number, "last": last.model_dump(mode="json")})
        return
    click.echo(f"All {last.number} entries are as they were written; the last one, of {moment(last.at)}, has the hash")
    click.echo(last.hash)


def _show_token(made: NewToken) -> None:
    click.echo(made.secret)
    click.echo(f"Good until {moment(made.expires_at)}, as {made.role}: dmctl login URL --token-file -", err=True)
