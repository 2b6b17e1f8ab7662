"""`dmctl audit`: who did what."""

import click

from dmcore.api.operators import AuditEntry
from dmctl.options import json_option
from dmctl.output import NOTHING, moment, print_json, print_table
from dmctl.session import session


@click.group()
def audit() -> None:
    """The audit log: who did what, and when. Needs the role admin.

    \b
    Example:
      dmctl audit list
    """


@audit.command("list")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="At most so many.")
@click.option("--before", type=click.IntRange(1), help="Only those with a smaller number.")
@json_option
def list_(limit: int, before: int | None, as_json: bool) -> None:
    """List the entries, newest first. --json has their hashes too.

    \b
    Example:
      dmctl audit list
      dmctl audit list --limit 500 --json
    """
    with session() as control:
        found = control.audit(limit=limit, before=before)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    rows = [_row(each) for each in found.entries]
    title = f"Audit log: {len(rows)}{', and older ones' if found.more else ''}"
    print_table(title, ["number", "time", "who", "did", "to", "detail"], rows, ["number"])


def _row(each: AuditEntry) -> list[str]:
    detail = ", ".join(f"{name}={value}" for name, value in each.detail.items()) or NOTHING
    return [str(each.number), moment(each.at), each.actor, each.action, each.object, detail]
