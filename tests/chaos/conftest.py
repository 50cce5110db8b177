"""One stack for all fault tests of a worker. At its end, every world is checked once more.

WEIGHBRIDGE_TEST_STACK_HOME names a folder whose stack is used, started if there is none, and left running.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.chaos.late_event import LateEvent
from tests.chaos.stack import ENVIRONMENT, Stack
from tests.chaos.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "stack" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.engines)
            item.add_marker(pytest.mark.chaos)


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    kept = os.environ.get("WEIGHBRIDGE_TEST_STACK_HOME")
    home = Path(kept or tempfile.mkdtemp(prefix="weighbridge-chaos-"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        started = Stack.attach(home) if kept else Stack.start(home)
    started.story = LateEvent(started)
    try:
        started.story.begin()
        yield started
        started.story.abandon()
        for world in started.worlds:
            world.check()
    finally:
        if kept:
            started.let_go()
        else:
            started.close()
            shutil.rmtree(home)


@pytest.fixture
def late_event(stack: Stack) -> LateEvent:
    """It began with the stack."""
    assert stack.story is not None
    return stack.story


@pytest.fixture
def world(stack: Stack, request: pytest.FixtureRequest) -> World:
    """Meters, customers and entitlements of the test's own."""
    seed = request.getfixturevalue("seed") if "seed" in request.fixturenames else 0
    made = World(stack, seed)
    made.prepare()
    return made
