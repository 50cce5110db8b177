"""Several sinks: they come, go and hang while events flow, and every event is counted by exactly one of them."""

from __future__ import annotations

import shutil
import signal
from typing import TYPE_CHECKING

import pytest

from tests.chaos.load import post
from tests.chaos.stack import PARTITIONS, wait_until

if TYPE_CHECKING:
    from tests.chaos.stack import Stack
    from tests.chaos.world import World

pytestmark = pytest.mark.timeout(400)
EVENTS = 300


def test_two_sinks_share_the_work_through_rebalances(stack: Stack, world: World) -> None:
    with world.load() as load:
        second = stack.start_sink("second")
        wait_until(second.owned, "the second sink to have partitions")
        load.more(EVENTS)
        second.send(signal.SIGKILL)
        wait_until(second.ended, "the end of the second sink")
        load.more(EVENTS)
        third = stack.start_sink("third")
        wait_until(third.owned, "the third sink to have partitions")
        stack.kill_and_wait("sink")
        load.more(EVENTS)
        third.send(signal.SIGTERM)
        wait_until(third.ended, "the end of the third sink")
        load.more(EVENTS)
    assert third.process.returncode == 0, stack.tails("third")
    world.check()


def test_a_sink_stopped_past_its_session_does_no_harm_when_it_goes_on(stack: Stack, world: World) -> None:
    with world.load() as load:
        second = stack.start_sink("second")
        wait_until(second.owned, "the second sink to have partitions")
        load.more(EVENTS)
        go_on = stack.pause("sink")
        wait_until(lambda: second.owned() == PARTITIONS, "the second sink to have all partitions")
        load.more(EVENTS)
        go_on()
        wait_until(stack.owned, "the first sink to have partitions again")
        load.more(EVENTS)
        second.send(signal.SIGTERM)
        wait_until(second.ended, "the end of the second sink")
    assert second.process.returncode == 0, stack.tails("second")
    world.check()


def test_a_sink_that_lost_its_dedupe_store_still_knows_what_was_counted(stack: Stack, world: World) -> None:
    with world.load() as load:
        load.more(EVENTS)
    first = list(world.ledger.made.values())
    stack.kill_and_meanwhile("sink", lambda: shutil.rmtree(stack.home / "dedupe"))
    with world.load() as load:
        post(stack.url, world.ledger, first)
        load.more(EVENTS)
    world.check()


def test_deltas_that_are_sent_twice_are_in_the_balances_once(stack: Stack, world: World) -> None:
    with world.load() as load:
        second = stack.start_sink("second", FAILPOINT="after_deltas:5")
        wait_until(second.ended, "the failpoint")
        load.more(EVENTS)
    assert second.process.returncode == -signal.SIGKILL, stack.tails("second")
    world.check()
