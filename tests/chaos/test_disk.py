"""A full disk stops the counting, but loses nothing, and the stack heals when there is space again.

ClickHouse may have merged into a part that it could not write to its end, and deleted what it merged. It finds that out
when it starts: the part is set aside, and the sink does the ranges again that are missing. So it is started again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deploy.local.engines.home import prepare
from deploy.local.errors import HomeUnusable
from deploy.local.state import ENGINES, PROCESSES, Phase, read_state
from tests.chaos.disk import filled
from tests.chaos.stack import wait_until

if TYPE_CHECKING:
    from tests.chaos.load import Load
    from tests.chaos.stack import Stack
    from tests.chaos.world import World

pytestmark = pytest.mark.timeout(400)


def suffers(stack: Stack, load: Load, refused: int) -> bool:
    """Whether clients or the supervisor were told."""
    state = read_state(stack.home)
    failed = state is not None and any(each.phase is Phase.FAILED for each in state.components.values())
    return failed or load.refused() >= refused + 3


def test_a_full_disk_loses_nothing_and_can_be_healed(stack: Stack, world: World, chaos: bool) -> None:
    if not chaos:
        pytest.skip("the stack does not yet heal from every full disk without a hand; run with --chaos")
    if not stack.has_small_disk:
        pytest.skip("may not mount a small disk here")
    with world.load() as load:
        load.more(300)
        refused = load.refused()
        with filled(stack.home):
            wait_until(lambda: suffers(stack, load, refused), "the full disk to be noticed")
            with pytest.raises(HomeUnusable, match=r"no space left|only \d+ MiB free"):
                prepare(stack.home)
        stack.kill_and_wait("clickhouse")
        for name in (*ENGINES, *PROCESSES):
            stack.wait_back(name)
        load.more(300)
    world.check()
