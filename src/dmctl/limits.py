"""The three options of a bandwidth limit, as one value for the command that has them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import click

from dmcore.api.limits import Limit, Window
from dmctl.asking import request_of
from dmctl.params import RATE, WINDOW

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class LimitOptions:
    """What was typed of a limit."""

    rate: Limit | None
    windows: tuple[Window | None, ...]
    """A None among them is `none`: no windows."""
    zone: str | None

    @property
    def given(self) -> bool:
        """Whether anything was."""
        return self.rate is not None or bool(self.windows) or self.zone is not None

    def over(self, base: Limit) -> Limit:
        """The limit with what was typed, and the rest of `base`. A usage error if it is none."""
        return request_of(
            Limit,
            bytes_s=base.bytes_s if self.rate is None else self.rate.bytes_s,
            windows=tuple(filter(None, self.windows)) if self.windows else base.windows,
            zone=self.zone or base.zone,
        )


def limit_options(command: Command) -> Command:
    """Gives the command `limit`, a LimitOptions."""

    @click.option("--limit", "limit_rate", type=RATE, help="On the wire, in bytes or bits a second: 100MB/s, or none.")
    @click.option(
        "--limit-window", "limit_windows", type=WINDOW, multiple=True,
        help="Another rate at some hours: 'mon-fri 08:00-18:00 20MB/s'. The first that fits holds. none: no windows.",
    )  # fmt: skip
    @click.option("--limit-zone", help="The windows' time zone: Europe/Paris. UTC, if it was never given.")
    @wraps(command)
    def run(
        *, limit_rate: Limit | None, limit_windows: tuple[Window | None, ...], limit_zone: str | None, **rest: Any
    ) -> Any:
        return command(limit=LimitOptions(limit_rate, limit_windows, limit_zone), **rest)

    return run  # type: ignore[return-value] # click calls it by keyword
