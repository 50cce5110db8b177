"""Faults mixed at random by a seed. A failure shows the schedule; `--seeds` and `--chaos` try more and longer ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chaos.faults import Saboteur, schedule

if TYPE_CHECKING:
    from tests.chaos.stack import Stack
    from tests.chaos.world import World

pytestmark = pytest.mark.timeout(1800)


def test_whatever_fails_every_event_counts_once(stack: Stack, world: World, seed: int, chaos: bool) -> None:
    faults = schedule(seed, 12 if chaos else 3)
    done = 0
    try:
        with world.load() as load:
            saboteur = Saboteur(stack, world, load)
            load.more(200)
            for fault in faults:
                saboteur.do(fault)
                done += 1
            saboteur.end()
        world.check()
        for meter in saboteur.meters:
            assert world.values(meter, "subject", "kind") == world.values("amount", "subject", "kind")
    except BaseException as error:
        lines = [f"{'done' if number < done else '    '} {fault}" for number, fault in enumerate(faults)]
        error.add_note("\n".join([f"seed {seed}:", *lines, stack.tails()]))
        raise
