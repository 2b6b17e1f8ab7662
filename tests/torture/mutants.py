"""The real code with one rule broken: each must be caught, or the enumeration proves nothing.

A mutant is a function that gives patches: (object, name, value). They are of rules in docs/staging-log.md.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

from tests.shadow.group_lab import BLOCK
from tests.torture.story import Story

Patch = tuple[Any, str, Any]
Make = Callable[[], list[Patch]]
Needs = Callable[[Story], bool]


class Mutant(NamedTuple):
    """A broken rule."""

    make: Make
    needs: Needs
    """In which stories it matters."""


MUTANTS: dict[str, Mutant] = {}


def any_story(_: Story) -> bool:
    return True


def with_left(story: Story) -> bool:
    return any(part.left for part in story.parts.values())


def with_spoiled(story: Story) -> bool:
    return any(part.spoiled for part in story.parts.values())


def with_drains(story: Story) -> bool:
    return story.draining == 1.0 and sum(story.sizes.values()) > 8 * BLOCK


def with_rounds(story: Story) -> bool:
    """Logs of several segments."""
    return story.changing > 3 and story.shrinking == 2 and min(story.sizes.values()) > 5 * BLOCK


def with_direct_deltas(story: Story) -> bool:
    return story.draining == 1.0 and bool(story.going_direct or story.quota_bytes)


def with_direct_deltas_left(story: Story) -> bool:
    return with_direct_deltas(story) and with_left(story) and story.changing > 3 and story.rounds > 1


def mutant(needs: Needs = any_story) -> Callable[[Make], Make]:
    def add(make: Make) -> Make:
        MUTANTS[make.__name__] = Mutant(make, needs)
        return make

    return add


@contextlib.contextmanager
def applied(name: str) -> Iterator[None]:
    """The product with this rule broken."""
    with contextlib.ExitStack() as undo:
        for where, what, value in MUTANTS[name].make():
            undo.enter_context(mock.patch.object(where, what, value, create=True))
        yield


def nothing(*_: object, **__: object) -> None:
    pass
