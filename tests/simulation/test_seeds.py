"""The protocol under chance: thousands of seeds, and every rule switched off is seen to matter.

A failing seed prints its schedule; `python -m tests.simulation.run SEED` prints it again.
"""

import pytest

from metering.domain.errors import ProtocolViolation
from tests.simulation.engines import Broken
from tests.simulation.run import schedule, simulate
from tests.simulation.variants import VARIANTS

SEEDS = 3000
CHUNKS = 6  # so that several test processes share them
VARIANT_SEEDS = 600


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_event_is_counted_once_whatever_happens(chunk: int, pytestconfig: pytest.Config) -> None:
    seeds = pytestconfig.getoption("--seeds") or SEEDS
    for seed in range(chunk, seeds, CHUNKS):
        simulate(seed)


@pytest.mark.parametrize("name", VARIANTS)
def test_each_rule_is_needed(name: str) -> None:
    variant = VARIANTS[name]
    for seed in range(VARIANT_SEEDS):
        try:
            simulate(seed, rules=variant.rules, protocol=variant.protocol)
        except (Broken, ProtocolViolation) as error:
            assert "is given p0" in str(error), "the schedule comes with it"  # noqa: PT017
            return
    pytest.fail(f"{name}: no seed of {VARIANT_SEEDS} shows that this rule is needed")


def test_a_seed_is_one_schedule() -> None:
    assert schedule(simulate(11)) == schedule(simulate(11))


def test_the_simulator_meets_what_it_is_for() -> None:
    """Over some seeds: hung writes, zombies that get fenced, lost stores, restarts, changes of the registry."""
    traces = "\n".join(schedule(simulate(seed)) for seed in range(60))
    for sign in (
        "now happens what hung",
        "is fenced",
        "is lost",
        "ClickHouse restarts",
        "registry at revision 3",
        "completes its store",
        "p0.1",
        "bill with cut",
        "SendTick",
        "has a leader whose clock is off by -",
    ):
        assert sign in traces, sign
