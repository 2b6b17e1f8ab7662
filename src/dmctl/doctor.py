"""`doctor` of both kinds of node: a table of checks, and the repair of what may be removed."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from dmcore.appliance.doctor import ApplianceDoctor
from dmcore.connector.doctor import ConnectorDoctor
from dmcore.errors import ExitCode
from dmcore.node.findings import Finding, Level, worst
from dmcore.node.settings import load_appliance, load_connector
from dmctl.confirming import confirm, yes_option
from dmctl.options import config_option, json_option
from dmctl.output import print_json, print_table

repair_option = click.option("--repair", is_flag=True, help="Remove the leftovers that may go, after showing them.")

Removed = Sequence[dict[str, Any]]


@click.command("doctor")
@repair_option
@yes_option
@config_option
@json_option
@click.pass_context
def appliance_doctor(ctx: click.Context, repair: bool, yes: bool, config: Path, as_json: bool) -> None:
    """Check this appliance: folders, keys, sources, clock, control plane, connectors, source snapshots that were left.

    Whether it runs or not. With --repair, snapshots that nobody needs are removed; one that runs does so by itself.

    The exit code is 1 if a check has failed.

    \b
    Example:
      dmctl appliance doctor --config appliance.toml
      dmctl appliance doctor --repair --yes --json
    """
    doctor = ApplianceDoctor(load_appliance(config))

    def remove() -> Removed:
        return [
            {"name": each.name, "where": each.source, "removed": doctor.remove(each)} for each in doctor.removable()
        ]

    found = doctor.findings()
    names = [f"{each.name} at {each.source}" for each in doctor.removable()] if repair else []
    ctx.exit(_tell(found, names, remove, yes=yes, as_json=as_json))


@click.command("doctor")
@repair_option
@yes_option
@config_option
@json_option
@click.pass_context
def connector_doctor(ctx: click.Context, repair: bool, yes: bool, config: Path, as_json: bool) -> None:
    """Check this connector: folders, room, keys, certificates, clock, control plane, groups, points, leftovers.

    The one that runs is asked; one that is stopped is looked at. With --repair, what nobody needs is removed: staged
    blocks of groups that are not here, target snapshots that no point holds. Shadows and snapshots of no group stay.

    The exit code is 1 if a check has failed.

    \b
    Example:
      dmctl connector doctor --config connector.toml
      dmctl connector doctor --repair --yes --json
    """
    doctor = ConnectorDoctor(load_connector(config))

    def remove() -> Removed:
        told = [each for each in doctor.leftovers(remove=True) if each["removable"]]
        return [{name: each[name] for name in ("name", "where", "removed")} for each in told]

    found = doctor.findings()
    names = [f"{each['name']} at {each['where']}" for each in doctor.removable()] if repair else []
    ctx.exit(_tell(found, names, remove, yes=yes, as_json=as_json))


def _tell(
    found: list[Finding], names: Sequence[str], remove: Callable[[], Removed], *, yes: bool, as_json: bool
) -> int:
    """Show what was found, then repair it. Returns the exit code."""
    if not as_json:
        rows = [[each.level, each.check, each.found, each.advice] for each in found]
        print_table(f"Checks: {len(found)}", ["", "check", "found", "what to do"], rows, [])
    done: Removed = []
    if names:
        for name in names if not as_json else ():
            click.echo(f"may go: {name}")
        confirm(f"{len(names)} leftovers,", "listed above", "remove", yes=yes)
        done = remove()
    stayed = [each["name"] for each in done if not each["removed"]]
    if as_json:
        print_json({"findings": [asdict(each) for each in found], "repaired": list(done), "worst": worst(found)})
    else:
        for each in done:
            click.echo(f"{'removed' if each['removed'] else 'stays'}: {each['name']}")
    return ExitCode.INTERNAL if stayed or worst(found) is Level.FAIL else ExitCode.OK
