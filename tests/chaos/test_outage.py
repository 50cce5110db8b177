"""Kafka hangs under load: the API says so in time, keeps its memory, and loses nothing that it acknowledged, even if killed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.chaos.stack import wait_until

if TYPE_CHECKING:
    from tests.chaos.stack import Stack
    from tests.chaos.world import World

pytestmark = pytest.mark.timeout(600)
GROWTH_BYTES_MAX = 256 * 1024 * 1024  # twice what may be in flight
REFUSED = 6


def test_kafka_that_hangs_is_answered_by_503_in_bounded_memory(stack: Stack, world: World, chaos: bool) -> None:
    with world.load() as load:
        load.more(500)
        before = stack.rss_bytes("api")
        go_on = stack.pause("kafka")
        began, refused = time.monotonic(), load.refused()
        wait_until(
            lambda: load.refused() >= refused + REFUSED and (not chaos or time.monotonic() > began + 60),
            "refusals",
        )
        during = stack.rss_bytes("api")
        go_on()
        load.more(500)
    assert all(each.isdigit() and int(each) > 0 for each in load.retry_after), load.retry_after
    assert load.retry_after
    assert during - before < GROWTH_BYTES_MAX
    world.check()


def test_an_api_killed_while_kafka_hangs_loses_nothing_that_it_acknowledged(stack: Stack, world: World) -> None:
    with world.load() as load:
        load.more(200)
        go_on = stack.pause("kafka")
        refused = load.refused()
        wait_until(lambda: load.refused() > refused, "a refusal")
        killed = stack.kill("api")
        go_on()
        stack.wait_back("api", killed)
        load.more(200)
    world.check()
