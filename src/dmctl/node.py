"""`dmctl node`: the appliances and connectors that are enrolled."""

from datetime import UTC, datetime

import click

from dmcore.api.nodes import NodeView
from dmctl.confirming import confirm, yes_option
from dmctl.finding import find_node
from dmctl.options import json_option
from dmctl.output import age, print_json, print_table, short_ids
from dmctl.session import session


@click.group()
def node() -> None:
    """Nodes: the appliances and connectors that are enrolled at the control plane.

    A NODE is an id as `list` shows it, or the beginning of one that no other has.

    \b
    Example:
      dmctl node list
      dmctl node revoke 3f9a11c2
    """


@node.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the nodes, what they have, and when they were last heard of.

    \b
    Example:
      dmctl node list
      dmctl node list --json
    """
    with session() as control:
        found = control.nodes()
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    now, names = datetime.now(UTC), short_ids([each.node for each in found.nodes])
    columns = ["node", "site", "role", "state", "seen", "version", "sources", "targets", "recoveries"]
    rows = [[names[each.node], *_row(each, now)] for each in found.nodes]
    print_table(f"Nodes: {len(found.nodes)}", columns, rows, ["seen"])


def _row(each: NodeView, now: datetime) -> list[str]:
    aliases = [", ".join(names) for names in (each.sources, each.targets, each.recoveries)]
    return [each.site, each.role, node_state(each), age(each.seen_at, now), each.version, *aliases]


def node_state(each: NodeView) -> str:
    """One word."""
    if each.revoked:
        return "revoked"
    return "live" if each.live else "silent"


@node.command()
@click.argument("name", metavar="NODE")
@yes_option
@json_option
def revoke(name: str, yes: bool, as_json: bool) -> None:
    """Let NODE speak to the control plane no more. Its pairing with connectors stays: `dmctl connector unpair` ends it.

    To let it in again it is enrolled anew, with a new join token. Needs the role admin.

    \b
    Example:
      dmctl node revoke 3f9a11c2
      dmctl node revoke 3f9a11c2 --yes
    """
    with session() as control:
        chosen = find_node(control, name)
        confirm("node", chosen.node, chosen.node[:8], yes=yes)
        control.revoke_node(chosen.node)
    if as_json:
        print_json({"node": chosen.node, "revoked": True})
        return
    click.echo(f"Revoked {chosen.role} {chosen.node} of site {chosen.site}.")
