"""`dmctl token`: who may ask the control plane what."""

from datetime import UTC, datetime

import click

from dmcore.api.operators import OperatorRole, TokenSpec, TokenView
from dmctl.asking import request_of
from dmctl.confirming import confirm, yes_option
from dmctl.finding import find_token
from dmctl.options import json_option
from dmctl.output import age, moment, print_json, print_table, short_ids
from dmctl.params import values
from dmctl.session import session


@click.group()
def token() -> None:
    """Tokens: who may ask the control plane what. All of it needs the role admin.

    A TOKEN is its name, its id, or the beginning of an id that no other has.

    \b
    Example:
      dmctl token create monitoring --role viewer
      dmctl token list
    """


@token.command()
@click.argument("name")
@click.option(
    "--role", type=click.Choice(values(OperatorRole)), required=True,
    help="viewer looks; operator also works with plans, jobs and points; admin may all.",
)  # fmt: skip
@click.option("--days", type=int, default=90, show_default=True, help="How long it is good.")
@json_option
def create(name: str, role: str, days: int, as_json: bool) -> None:
    """Make a token called NAME, for a person or a script. It is shown this once.

    Only the token goes to standard output, so that it can be piped into a file or a secret store.

    \b
    Example:
      dmctl token create alice --role operator --days 30
      dmctl token create monitoring --role viewer | ssh monitor 'umask 077; cat >dmctl.token'
    """
    spec = request_of(TokenSpec, name=name, role=role, days=days)
    with session() as control:
        made = control.create_token(spec)
    if as_json:
        print_json(made.model_dump(mode="json"))
        return
    click.echo(made.secret)
    click.echo(f"Good until {moment(made.expires_at)}, as {made.role}: dmctl login URL --token-file -", err=True)


@token.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the tokens, without what is secret about them.

    \b
    Example:
      dmctl token list
      dmctl token list --json
    """
    with session() as control:
        found = control.tokens()
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    now, names = datetime.now(UTC), short_ids([str(each.id) for each in found.tokens])
    rows = [[names[str(each.id)], *_row(each, now)] for each in found.tokens]
    print_table(f"Tokens: {len(found.tokens)}", ["token", "name", "role", "state", "until", "used"], rows, ["used"])


def _row(each: TokenView, now: datetime) -> list[str]:
    state = "revoked" if each.revoked else "good" if each.expires_at > now else "expired"
    return [each.name, each.role, state, moment(each.expires_at), age(each.used_at, now)]


@token.command()
@click.argument("name", metavar="TOKEN")
@yes_option
@json_option
def revoke(name: str, yes: bool, as_json: bool) -> None:
    """Let nobody in with TOKEN any more, from now on.

    \b
    Example:
      dmctl token revoke alice --yes
    """
    with session() as control:
        chosen = find_token(control, name)
        confirm("token", f"{chosen.name} ({chosen.id})", chosen.name, yes=yes)
        control.revoke_token(chosen.id)
    if as_json:
        print_json({"id": str(chosen.id), "name": chosen.name, "revoked": True})
        return
    click.echo(f"Revoked the token {chosen.name}.")
