"""Any member of the stack killed under load: it comes back, and every number is as if nothing had happened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.chaos.stack import Stack
    from tests.chaos.world import World

pytestmark = pytest.mark.timeout(400)
EVENTS = 400


@pytest.mark.parametrize("name", ["api", "sink", "balances", "kafka", "postgres", "clickhouse"])
def test_a_member_killed_under_load_is_back_and_nothing_is_lost_or_doubled(
    stack: Stack, world: World, name: str
) -> None:
    with world.load() as load:
        load.more(EVENTS)
        stack.kill_and_wait(name)
        load.more(EVENTS)
    world.check()
