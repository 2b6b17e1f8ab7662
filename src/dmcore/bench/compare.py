"""Contestants over the same work, in turns within one run: ratios that a busy machine bends least."""

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median


@dataclass
class Comparison:
    """What one stage took, round by round: ours, the libraries' calls alone, and pure Python."""

    stage: str
    work: float
    """How much one pass does, in `unit`."""
    unit: str = "GB"
    ours_s: list[float] = field(default_factory=list)
    libraries_s: list[float] = field(default_factory=list)
    reference_s: list[float] = field(default_factory=list)

    def rate(self, seconds: list[float]) -> float | None:
        """Units a second in the median round, None where nobody took part."""
        return self.work / median(seconds) if seconds else None

    @property
    def of_bound(self) -> float | None:
        """How near to the libraries alone we are: 1 is all of it. Paired by round."""
        return ratio(self.libraries_s, self.ours_s)

    @property
    def times_reference(self) -> float | None:
        """How many times faster than pure Python we are. Paired by round."""
        return ratio(self.reference_s, self.ours_s)

    def turn(self, libraries: Callable[[], float] | None, reference: Callable[[], float] | None) -> None:
        """Let the others take their turn; ours follows at once, timed by the caller."""
        if libraries is not None:
            self.libraries_s.append(libraries())
        if reference is not None:
            self.reference_s.append(reference())


def ratio(others: list[float], ours: list[float]) -> float | None:
    """The median of the rounds' ratios: noise that lasts longer than a round hits both sides of one."""
    pairs = list(zip(others, ours, strict=False))
    return median(other / own for other, own in pairs) if pairs else None
