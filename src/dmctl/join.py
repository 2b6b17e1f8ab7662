"""`dmctl join`: tokens that enrol a node."""

import click

from dmcore.api.operators import JoinSpec
from dmcore.model.enums import Role
from dmctl.asking import request_of
from dmctl.options import json_option
from dmctl.output import moment, print_json
from dmctl.params import values
from dmctl.session import session


@click.group()
def join() -> None:
    """Join tokens: each enrols one node at the control plane.

    \b
    Example:
      dmctl join create --site paris --role appliance
    """


@join.command()
@click.option("--site", required=True, help="Where the node lives; `dmctl site list` lists them.")
@click.option("--role", type=click.Choice(values(Role)), required=True)
@json_option
def create(site: str, role: str, as_json: bool) -> None:
    """Make a token that enrols one node: good once, for an hour. Needs the role admin.

    Only the token goes to standard output, so that it can be piped. Who has it can enrol: hand it over like a password.

    \b
    Example:
      dmctl join create --site paris --role appliance
      dmctl join create --site aws --role connector | ssh connector dmctl connector enroll -
    """
    spec = request_of(JoinSpec, site=site, role=role)
    with session() as control:
        made = control.create_join(spec)
    if as_json:
        print_json(made.model_dump(mode="json"))
        return
    click.echo(made.token)
    click.echo(f"Good once, until {moment(made.expires_at)}, at site {site}: dmctl {role} enroll -", err=True)
