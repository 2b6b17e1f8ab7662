"""Source snapshots that no attempt has come back to: they must not fill a source for ever."""

from collections.abc import Callable, Collection
from contextlib import closing
from datetime import datetime

import structlog

from dmcore.appliance import offline
from dmcore.appliance.offline import GroupRecord
from dmcore.appliance.offline_state import OfflineState
from dmcore.errors import DmcoreError
from dmcore.model.ids import GroupId
from dmcore.sources.base import Source

OpenSource = Callable[[str], Source]
"""From an alias."""

log = structlog.get_logger()


def remove_leftovers(state: OfflineState, busy: Collection[GroupId], now: datetime, open_source: OpenSource) -> None:
    """Delete those of groups that do not run. What cannot be deleted now is tried again the next time.

    A group's next cycle removes what earlier ones have left; this is for groups that have none: of a plan that was
    deleted, paused or given to another appliance after an attempt was cancelled or lost. A lease that comes back after
    that finds no snapshot and begins its cycle anew.
    """
    for record in state.records():
        if record.job.group not in busy and offline.is_leftover(record, now):
            _remove(state, record, open_source)


def _remove(state: OfflineState, record: GroupRecord, open_source: OpenSource) -> None:
    ids = {"group": str(record.job.group), "snapshot": record.snapshot_name}
    try:
        with closing(open_source(record.job.source)) as source:
            source.delete_snapshot(record.snapshot_name)
    except DmcoreError as error:
        log.warning("leftover source snapshot stays", **ids, code=error.code, problem=str(error))
        return
    log.info("source snapshot of an abandoned attempt is removed", **ids)
    if state.record(record.job.group) == record:
        state.keep_record(offline.given_up(record, snapshot_left=False))
