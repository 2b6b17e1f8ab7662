"""Keys belong to one process: what holds one is wiped in a forked child before that runs anything else."""

import os
import weakref
from typing import Protocol


class KeyHolder(Protocol):
    """An object of the native core that keeps key schedules."""

    def wipe_forked(self) -> None:
        """Free and cleanse the keys at once: no other thread came along into this process."""


_holders: "weakref.WeakSet[KeyHolder]" = weakref.WeakSet()


def wipe_at_fork(holder: KeyHolder) -> None:
    """Wipe this object in every child forked from now on, as long as it lives."""
    _holders.add(holder)


def _wipe_all() -> None:
    for holder in list(_holders):
        holder.wipe_forked()


os.register_at_fork(after_in_child=_wipe_all)
