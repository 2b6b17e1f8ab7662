"""What a check of a node has found, and how bad that is."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from dmcore.errors import DmcoreError


class Level(StrEnum):
    """From good to bad."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """One line of `doctor`."""

    check: str
    level: Level
    found: str
    advice: str = ""
    """What to do about it."""


Check = Callable[[], Iterable[Finding]]


def ok(check: str, found: str) -> Finding:
    """Nothing to do."""
    return Finding(check, Level.OK, found)


def warn(check: str, found: str, advice: str) -> Finding:
    """It works, and somebody should look."""
    return Finding(check, Level.WARN, found, advice)


def fail(check: str, found: str, advice: str) -> Finding:
    """It does not work."""
    return Finding(check, Level.FAIL, found, advice)


def results(checks: Mapping[str, Check]) -> Iterator[Finding]:
    """Of all checks, by name. One that cannot be made is a finding itself, and keeps no other from being made."""
    for name, check in checks.items():
        try:
            yield from check()
        except DmcoreError as error:
            yield fail(name, str(error), f"its code is {error.code}")
        except OSError as error:
            yield fail(name, f"{error.filename or name}: {error.strerror or error}", "see to it that it can be read")


def worst(findings: Iterable[Finding]) -> Level:
    """How bad it is as a whole."""
    levels = {each.level for each in findings}
    return next((level for level in (Level.FAIL, Level.WARN) if level in levels), Level.OK)
