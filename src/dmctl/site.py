"""`dmctl site`: the places where nodes live."""

import click

from dmcore.api.limits import NO_LIMIT
from dmcore.api.plans import SiteEdit, SiteSpec, SiteView
from dmctl.asking import request_of
from dmctl.finding import find_site
from dmctl.limits import LimitOptions, limit_options
from dmctl.options import json_option
from dmctl.output import print_json, print_pairs, print_table
from dmctl.quantities import limit_text
from dmctl.session import session


@click.group()
def site() -> None:
    """Sites: the places where nodes live. Nodes are enrolled at one; a plan's appliances are all of one.

    \b
    Example:
      dmctl site create paris --limit 100MB/s
      dmctl site list
    """


@site.command()
@click.argument("name")
@limit_options
@json_option
def create(name: str, limit: LimitOptions, as_json: bool) -> None:
    """Make a site called NAME: lower-case letters, digits and inner dashes. Needs the role admin.

    A limit is of all that the site's appliances send together.

    \b
    Example:
      dmctl site create paris
      dmctl site create paris --limit 200MB/s --limit-window 'mon-fri 08:00-18:00 20MB/s' --limit-zone Europe/Paris
    """
    spec = request_of(SiteSpec, name=name, limit=limit.over(NO_LIMIT))
    with session() as control:
        made = control.create_site(spec)
    _show(made, as_json=as_json)


@site.command()
@click.argument("name")
@limit_options
@json_option
def edit(name: str, limit: LimitOptions, as_json: bool) -> None:
    """Change what the appliances of the site NAME may send together. What is not given stays. Needs the role admin.

    \b
    Example:
      dmctl site edit paris --limit 50MB/s
      dmctl site edit paris --limit none --limit-window none
    """
    if not limit.given:
        raise click.UsageError("nothing to change; give --limit, --limit-window or --limit-zone")
    with session() as control:
        before = find_site(control, name)
        made = control.edit_site(before.name, SiteEdit(limit=limit.over(before.limit)))
    _show(made, as_json=as_json)


@site.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the sites.

    \b
    Example:
      dmctl site list
      dmctl site list --json
    """
    with session() as control:
        found = control.sites()
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    rows = [[each.name, each.appliances, each.connectors, limit_text(each.limit)] for each in found.sites]
    columns = ["site", "appliances", "connectors", "limit"]
    print_table(f"Sites: {len(found.sites)}", columns, rows, ["appliances", "connectors"])


def _show(made: SiteView, *, as_json: bool) -> None:
    if as_json:
        print_json(made.model_dump(mode="json"))
        return
    print_pairs({"site": made.name, "limit": limit_text(made.limit)})
