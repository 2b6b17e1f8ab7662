"""What an error's code that came from elsewhere says to an operator here: its family, and so the exit code."""

import pkgutil
from functools import cache
from importlib import import_module

import dmcore
from dmcore.errors import ExitCode, all_errors


@cache
def _families() -> dict[str, ExitCode]:
    """Of every error class of this version: those of a node are not imported by who only asks for its jobs."""
    for module in pkgutil.walk_packages(dmcore.__path__, "dmcore."):
        if module.name.endswith("errors"):
            import_module(module.name)
    return {error.code: error.exit_code for error in all_errors()}


def exit_code_of(code: str) -> ExitCode:
    """What to exit with for a job that ended with this code; 1 if it is another version's."""
    return _families().get(code, ExitCode.INTERNAL)
