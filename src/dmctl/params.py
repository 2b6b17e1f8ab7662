"""What quantities and names are on a command line: read where click reads, refused as a usage error."""

from collections.abc import Callable
from enum import StrEnum
from typing import Any

import click

from dmctl import quantities


class Parsed(click.ParamType):  # type: ignore[type-arg] # generic in the newest click only
    """A word that a function of `quantities` reads."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name, self._parse = name, parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value, or a usage error that says what is accepted."""
        try:
            return self._parse(value)
        except ValueError as refused:
            self.fail(str(refused), param, ctx)


def values(kind: type[StrEnum]) -> list[str]:
    """What a choice among them offers: click would offer an enum's names."""
    return [each.value for each in kind]


DURATION = Parsed("duration", quantities.parse_duration)
RATE = Parsed("rate", quantities.parse_limit)
SHARE = Parsed("share", quantities.parse_share)
PERCENT = Parsed("percent", quantities.parse_percent)
TIERS = Parsed("tiers", quantities.parse_tiers)
WINDOW = Parsed("window", lambda text: None if text == quantities.NO_RATE else quantities.parse_window(text))
