"""Meters and customers made while their events flow, or after them."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from tests.chaos.world import Customer

if TYPE_CHECKING:
    from tests.chaos.world import World

pytestmark = pytest.mark.timeout(400)
EVENTS = 300


def test_a_meter_made_while_events_flow_counts_those_before_and_after_it(world: World) -> None:
    with world.load() as load:
        load.more(EVENTS)
        world.create_meter("late", "SUM", "$.amount")
        wanted = len(world.ledger.acknowledged) + 2 * EVENTS
        asked = 0
        while len(world.ledger.acknowledged) < wanted or asked < 5:
            least = world.total("amount")  # as the older meter has it
            value = world.total("late")
            greatest = sum((event.amount or Decimal(0) for event in list(world.ledger.made.values())), Decimal(0))
            assert least <= value <= greatest, f"question {asked}"
            asked += 1
    world.check()
    assert world.values("late", "subject", "kind") == world.values("amount", "subject", "kind")
    hours = {"windowSize": "HOUR"}
    assert world.values("late", "subject", **hours) == world.values("amount", "subject", **hours)


def test_a_customer_made_after_its_events_has_them_in_its_balance(world: World) -> None:
    with world.load() as load:
        load.more(EVENTS)
        late = Customer(f"{world.name}-nobody")  # a subject of all loads
        world.create_customer(late)
        world.entitle(late)
        load.more(EVENTS)
    world.check()
    assert Decimal(world.balance(late)["usage"]) > 0
