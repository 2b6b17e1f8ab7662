"""Each toxic in each state of each kind of connection, and some seeds of all at once."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmcore.wire.messages import ConnectionKind
from dmcore.wire.states import State
from tests.torture.network import MOMENTS, Fault, Network, NetworkLab
from tests.torture.suite import run_scenario
from tests.torture.toxics import Toxic


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[NetworkLab]:
    made = NetworkLab(tmp_path / "lab")
    yield made
    made.close()


def test_every_state_is_one_of_the_moments() -> None:
    assert {state for _, state in MOMENTS} == set(State) - {State.CONNECTED, State.ENDED}
    assert {kind for kind, _ in MOMENTS} == set(ConnectionKind)


@pytest.mark.parametrize("toxic", Toxic)
def test_every_state_meets_every_toxic(lab: NetworkLab, toxic: Toxic) -> None:
    rng = random.Random(toxic)
    for moment in MOMENTS:
        lab.change(rng)
        fault = Fault(moment, toxic)
        lab.run([fault])
        assert fault.met, f"{moment} was never reached"


@pytest.mark.parametrize("toxic", sorted(set(Toxic) - {Toxic.SPOIL}))
def test_a_handshake_meets_every_toxic(lab: NetworkLab, toxic: Toxic) -> None:
    """But a spoiled one: TLS cannot tell that from a peer that is not who it says it is."""
    for before in range(4):
        lab.change(random.Random(before))
        lab.relay.at_accept.extend([*[None] * before, toxic])
        lab.run([])
        assert not lab.relay.at_accept


@pytest.mark.parametrize("seed", range(4))
def test_many_at_once(seed: int, tmp_path: Path) -> None:
    tally = run_scenario(Network(), seed, tmp_path)
    assert tally["cycles"] == 4
    assert tally["frames"] > 500
