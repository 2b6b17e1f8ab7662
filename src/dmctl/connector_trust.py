"""`dmctl connector`, whom it trusts: pairing tokens, paired appliances, what a plan is bound to."""

from pathlib import Path

import click

from dmcore.connector.errors import GroupBroken
from dmcore.connector.operator import (
    PairedRequest,
    PairTokenRequest,
    RebindRequest,
    StatusRequest,
    UnpairRequest,
    ask,
)
from dmctl.asking import request_of, socket_of
from dmctl.names import find_group, find_node
from dmctl.options import config_option, json_option
from dmctl.output import moment, print_json, print_pairs, print_table


@click.command("pair-token")
@click.option("--site", required=True, help="The `site` of the appliance's configuration.")
@config_option
@json_option
def pair_token(site: str, config: Path, as_json: bool) -> None:
    """Make a token that pairs one appliance with this connector: good once, for an hour.

    Only the token goes to standard output, so that it can be piped. Who has it can pair: hand it over like a password.

    \b
    Example:
      dmctl connector pair-token --site paris --config connector.toml
      dmctl connector pair-token --site paris | ssh appliance dmctl appliance pair -
    """
    answer = ask(socket_of(config), request_of(PairTokenRequest, site=site))
    if as_json:
        print_json(answer)
        return
    click.echo(answer["token"])
    click.echo(f"Good once, for an hour, at site {site}: dmctl appliance pair -", err=True)


@click.command()
@config_option
@json_option
def paired(config: Path, as_json: bool) -> None:
    """List the appliances that may connect.

    \b
    Example:
      dmctl connector paired --config connector.toml
    """
    found = ask(socket_of(config), PairedRequest())
    if as_json:
        print_json({"paired": found})
        return
    rows = [[each["node"], each["site"], moment(each["since"])] for each in found]
    print_table(f"Paired appliances: {len(found)}", ["node", "site", "since"], rows, [])


@click.command()
@click.argument("node")
@config_option
@json_option
def unpair(node: str, config: Path, as_json: bool) -> None:
    """Let the appliance NODE connect no more, and end what it is sending. What is durable stays.

    A NODE is an id as `paired` shows it, or the beginning of one that no other has.

    \b
    Example:
      dmctl connector unpair 3fa1c0 --config connector.toml
    """
    path = socket_of(config)
    chosen = find_node(ask(path, PairedRequest()), node)
    answer = ask(path, UnpairRequest(node=chosen["node"]))
    if as_json:
        print_json(answer)
        return
    click.echo(f"Unpaired {answer['node']}; {answer['connections_cut']} connections cut.")


@click.command()
@click.argument("group")
@click.argument("machines", nargs=-1, required=True)
@click.option("--site", required=True, help="Where the plan's appliance is from now on.")
@click.option("--source", help="What that appliance calls the machines' source. Not given: as before.")
@config_option
@json_option
def rebind(group: str, machines: tuple[str, ...], site: str, source: str | None, config: Path, as_json: bool) -> None:
    """Bind the plan of GROUP to a site and source, and GROUP to MACHINES: only their disks may be sent to its shadows.

    A plan's first cycle binds it. What it is bound to afterwards is decided here, never by a control plane.

    \b
    Example:
      dmctl connector rebind 240928ec web1 web2 --site paris --config connector.toml
    """
    path = socket_of(config)
    chosen = find_group(ask(path, StatusRequest()), group)
    if "plan" not in chosen:
        raise GroupBroken(group=chosen["group"], problem=chosen["problem"])
    asked = {"site": site, "machines": machines, "source": source}
    request = request_of(RebindRequest, plan=chosen["plan"], group=chosen["group"], **asked)
    answer = ask(path, request)
    if as_json:
        print_json(answer)
        return
    bound = answer["groups"][chosen["group"]]
    told = {name: answer[name] for name in ("plan", "site", "source")}
    print_pairs({**told, "machines": ", ".join(sorted(bound))})


COMMANDS = (pair_token, paired, unpair, rebind)
