"""How long to wait before asking again: longer each time, never all nodes at once."""

import random
from dataclasses import dataclass, field


@dataclass
class Backoff:
    """Doubles from `first_s` to `cap_s`; each wait is between a half and the whole of that."""

    first_s: float = 1.0
    cap_s: float = 30.0
    chance: random.Random = field(default_factory=random.SystemRandom, repr=False)
    failures: int = 0

    def next_s(self) -> float:
        """The wait after one more failure."""
        whole = min(self.first_s * 2.0 ** min(self.failures, 30), self.cap_s)
        self.failures += 1
        return whole * self.chance.uniform(0.5, 1.0)

    def reset(self) -> None:
        """It worked."""
        self.failures = 0
