"""A process's configuration: one TOML file. Unknown keys are errors; relative paths are relative to the file."""

import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, ValidationInfo

from dmcore.host.address import AddressText
from dmcore.host.errors import SettingsRefused


def _anchored(path: Path, info: ValidationInfo) -> Path:
    base: Path = (info.context or {}).get("base", Path())
    return base / path


ConfiguredPath = Annotated[Path, AfterValidator(_anchored)]


class Section(BaseModel):
    """Base of every table of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LogFormat(StrEnum):
    """For people, or for machines."""

    CONSOLE = "console"
    JSON = "json"


class LogLevel(StrEnum):
    """The least severe lines that are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogSettings(Section):
    """`[logging]`: lines go to standard error."""

    format: LogFormat = LogFormat.CONSOLE
    level: LogLevel = LogLevel.INFO


class MetricsSettings(Section):
    """`[metrics]`: where Prometheus may ask; nowhere, if it is not set."""

    listen: AddressText | None = None


SomeSettings = TypeVar("SomeSettings", bound=Section)


def load_settings(path: Path, kind: type[SomeSettings]) -> SomeSettings:
    """A configuration of this kind.

    Raises:
        SettingsRefused: missing, not TOML, an unknown key, or a wrong value; the file and each key are named.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return kind.model_validate(tomllib.loads(text), context={"base": path.absolute().parent})
    except OSError as problem:
        raise SettingsRefused(path=str(path), problem=problem.strerror or str(problem)) from problem
    except ValidationError as refused:
        problems = "; ".join(_problem(error["loc"], error["type"], error["msg"]) for error in refused.errors())
        raise SettingsRefused(path=str(path), problem=problems) from refused
    except ValueError as problem:  # not TOML, or not UTF-8
        raise SettingsRefused(path=str(path), problem=str(problem)) from problem


def _problem(location: tuple[int | str, ...], kind: str, message: str) -> str:
    key = ".".join(map(str, location))
    if kind == "extra_forbidden":
        return f"unknown key {key}"
    return f"{key}: {message[0].lower()}{message[1:]}"
