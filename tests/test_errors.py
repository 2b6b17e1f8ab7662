"""The error tree as a whole: codes, exit codes and messages are what operators and scripts rely on."""

import importlib
import pkgutil
import re
from collections import Counter
from dataclasses import fields
from typing import Any

import pytest

import dmcore
import dmcore.errors
from dmcore.errors import DmcoreError, ExitCode, all_errors
from tests.source_tree import ROOT, calls, parsed, product_files

CODE = re.compile(r"internal|[a-z]+(-[a-z]+)*\.[a-z]+(-[a-z]+)*")


def import_everything() -> None:
    for module in pkgutil.walk_packages(dmcore.__path__, "dmcore."):
        importlib.import_module(module.name)


import_everything()
ERRORS = sorted((e for e in all_errors() if e.__module__.startswith("dmcore.")), key=lambda e: e.code)
FAMILIES = {
    cls.__name__
    for cls in vars(dmcore.errors).values()
    if isinstance(cls, type) and issubclass(cls, DmcoreError) and cls.__module__ == "dmcore.errors"
}


def sample(error: type[DmcoreError]) -> DmcoreError:
    """An instance with a telling value in every field. Numbers fit every format specification."""
    values: dict[str, Any] = {
        f.name: 7 if f.type in {int, float, "int", "float"} else f"<{f.name}>" for f in fields(error)
    }
    return error(**values)


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: e.code)
class TestEveryError:
    def test_code_is_a_stable_dotted_name(self, error: type[DmcoreError]) -> None:
        assert CODE.fullmatch(error.code)

    def test_message_fills_from_the_fields(self, error: type[DmcoreError]) -> None:
        message = str(sample(error))
        assert message
        assert "{" not in message

    def test_exit_code_says_failure(self, error: type[DmcoreError]) -> None:
        assert error.exit_code in set(ExitCode) - {ExitCode.OK}

    def test_docstring_says_what_happened(self, error: type[DmcoreError]) -> None:
        assert error.__doc__
        assert not error.__doc__.startswith(f"{error.__name__}(")  # what dataclass makes up for a missing one

    def test_is_raised_and_caught_like_any_exception(self, error: type[DmcoreError]) -> None:
        """An error is an exception first: it can be raised, caught by its family and printed."""
        with pytest.raises(DmcoreError) as caught:
            raise sample(error)
        assert type(caught.value) is error


def test_codes_are_unique() -> None:
    assert [code for code, count in Counter(e.code for e in ERRORS).items() if count > 1] == []


def test_every_error_but_the_families_has_a_code_of_its_own() -> None:
    def nameless(root: type[DmcoreError]) -> list[str]:
        below = [name for child in root.__subclasses__() for name in nameless(child)]
        own = "code" in vars(root) or root.__name__ in FAMILIES or not root.__module__.startswith("dmcore.")
        return below if own else [root.__name__, *below]

    assert nameless(DmcoreError) == []


def test_a_family_is_never_raised_itself() -> None:
    raised = {f"{path.name}: {name}" for path in product_files() for name, _ in calls(parsed(path)) if name in FAMILIES}
    assert raised == set()


def test_every_error_is_reached_by_a_test() -> None:
    tests = "\n".join(p.read_text() for p in (ROOT / "tests").rglob("*.py"))
    words = set(re.findall(r"\w+", tests))
    assert [e.__name__ for e in ERRORS if e.__name__ not in words] == []


def test_correlation_defaults_to_none_known() -> None:
    assert sample(ERRORS[0]).correlation == "<correlation>"
    assert DmcoreError().correlation == ""


def test_base_class_has_a_message() -> None:
    assert str(DmcoreError()) == "internal error"


def test_readme_documents_every_exit_code() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert {int(number): name for number, name in rows} == {code.value: code.name for code in ExitCode}
