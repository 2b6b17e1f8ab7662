"""What a torture suite is: scenarios that a seed alone decides, a few in `make test`, many in `make torture`.

make torture MINUTES=30 SEED=7          every suite in turn, until the time is over
make torture REPLAY=crash-states:1234   one scenario again
"""

from abc import ABC, abstractmethod
from collections import Counter
from pathlib import Path


class Suite(ABC):
    """A kind of fault. Its modules are named in tests/torture/__main__.py."""

    name: str

    @abstractmethod
    def run(self, seed: int, folder: Path) -> Counter[str]:
        """One scenario in an empty folder. Returns what was injected and checked, by name.

        Raises:
            AssertionError: a promise was broken; the message says which.
        """


class Broken(Exception):
    """A scenario that broke a promise, and how to see it again."""

    def __init__(self, suite: Suite, seed: int) -> None:
        super().__init__(f"repeat it with: make torture REPLAY={suite.name}:{seed}")


def run_scenario(suite: Suite, seed: int, folder: Path) -> Counter[str]:
    """As `Suite.run`; what fails says how to repeat it."""
    try:
        return suite.run(seed, folder)
    except Exception as error:
        raise Broken(suite, seed) from error
