"""`dmctl source`: what an appliance could protect."""

from contextlib import closing
from pathlib import Path

import click

from dmcore.appliance.agent import open_alias
from dmcore.model.enums import SnapshotKind
from dmcore.node.settings import load_appliance
from dmcore.sources.base import MachineInfo, SourceCaps
from dmctl.options import config_option, json_option
from dmctl.output import print_json, print_table, size


@click.group()
def source() -> None:
    """Sources: where an appliance finds the machines that it protects.

    \b
    Example:
      dmctl source list machines --config appliance.toml
    """


@source.command("list")
@click.argument("alias")
@config_option
@json_option
def list_(alias: str, config: Path, as_json: bool) -> None:
    """List the machines and disks of the source that this appliance's configuration calls ALIAS.

    \b
    Example:
      dmctl source list machines --config appliance.toml
      dmctl source list machines --json
    """
    with closing(open_alias(load_appliance(config), alias)) as opened:
        machines, caps = opened.machines(), opened.caps
    if as_json:
        print_json(
            {
                "source": alias,
                "snapshots": caps.snapshots,
                "tracking": caps.tracking,
                "machines": [_as_dict(machine) for machine in machines],
            }
        )
        return
    rows = [row for machine in machines for row in _rows(machine)]
    print_table(f"Source {alias}", ["machine", "disk", "size", "problem"], rows, ["size"])
    click.echo(capabilities(caps))


def _as_dict(machine: MachineInfo) -> dict[str, object]:
    return {
        "machine": machine.identity,
        "label": machine.label,
        "problem": machine.problem,
        "disks": [{"disk": d.identity, "label": d.label, "disk_bytes": d.disk_bytes} for d in machine.disks],
    }


def _rows(machine: MachineInfo) -> list[list[str]]:
    """A row a disk; the machine and its problem stand once."""
    disks = [[disk.label, size(disk.disk_bytes)] for disk in machine.disks] or [["-", "-"]]
    return [
        [machine.label if number == 0 else "", *disk, machine.problem if number == 0 else ""]
        for number, disk in enumerate(disks)
    ]


def capabilities(caps: SourceCaps) -> str:
    """What a source can do, as a sentence."""
    tracking = "knows what changed since a point" if caps.tracking else "does not track changes: disks are compared"
    if caps.snapshots is SnapshotKind.NONE:
        return f"This source {tracking}; it makes no snapshots: a disk must be idle while it is read."
    return f"This source {tracking}; its snapshots are made by {caps.snapshots}."
