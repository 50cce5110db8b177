"""The rules of balance records, thousands of schedules, and each rule shown to be needed."""

import pytest

from tests.simulation.balance_world import RULES, Broken, simulate

SHARDS = 8
SEEDS_PER_SHARD = 400
SEEDS_WITHOUT_A_RULE = 4000


@pytest.mark.parametrize("shard", range(SHARDS))
def test_every_schedule_ends_right_and_no_reader_sees_a_wrong_balance(shard: int, chaos: bool) -> None:
    for n in range(SEEDS_PER_SHARD * (10 if chaos else 1)):
        simulate(shard + SHARDS * n)


@pytest.mark.parametrize("rule", RULES)
def test_without_any_one_rule_some_schedule_breaks(rule: str) -> None:
    with pytest.raises(Broken):
        _simulate_many(rule)


def _simulate_many(rule: str) -> None:
    for seed in range(SEEDS_WITHOUT_A_RULE):
        simulate(seed, off=rule)


def test_a_seed_gives_the_same_schedule_again() -> None:
    assert simulate(7).log == simulate(7).log
