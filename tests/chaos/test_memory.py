"""The memory of API and sink does not grow with what has passed through them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.chaos.stack import Stack
    from tests.chaos.world import World

pytestmark = pytest.mark.timeout(1800)
EVENTS = 20_000
GROWTH_MAX = 0.25
MEMTABLES_BYTES = 32 * 1024 * 1024  # of the dedupe stores, which grow to their bound first


def test_memory_is_flat_over_a_run_ten_times_as_long(stack: Stack, world: World, chaos: bool) -> None:
    if not chaos:
        pytest.skip("takes minutes; run with --chaos")
    names = ("api", "sink")
    for name in names:
        stack.kill_and_wait(name)
    with world.load(rate_max=1e6) as load:
        load.more(EVENTS, seconds=600)
        stack.wait_flushed()
        before = {name: stack.rss_bytes(name) for name in names}
        load.more(9 * EVENTS, seconds=1200)
        after = {name: stack.rss_bytes(name) for name in names}
    for name in names:
        assert after[name] < before[name] * (1 + GROWTH_MAX) + MEMTABLES_BYTES, f"{before} -> {after}"
    world.check()
