"""One stack for all fault tests of a worker. At its end, if nothing failed, every world is checked once more.

WEIGHBRIDGE_TEST_STACK_HOME names a folder whose stack is used, started if there is none, and left running.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.chaos.disk import small_disk
from tests.chaos.late_event import LateEvent
from tests.chaos.stack import ENVIRONMENT, Stack
from tests.chaos.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and "stack" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.engines)
            item.add_marker(pytest.mark.chaos)


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        kept = os.environ.get("WEIGHBRIDGE_TEST_STACK_HOME")
        with _kept(Path(kept)) if kept else _temporary() as started:
            started.story = LateEvent(started)
            started.story.begin()
            yield started
            started.story.abandon()
            if request.session.testsfailed:
                _keep_logs(started)
                return
            for world in started.worlds:
                world.check()


def _keep_logs(stack: Stack) -> None:
    """Beside the temporary folder, which is removed."""
    kept = Path(tempfile.mkdtemp(prefix="weighbridge-chaos-failed-"))
    for name in ("log", "run"):
        shutil.copytree(stack.home / name, kept / name)
    print(f"\nlogs of the stack: {kept}")  # noqa: T201


@contextmanager
def _kept(home: Path) -> Iterator[Stack]:
    started = Stack.attach(home)
    try:
        yield started
    finally:
        started.let_go()


@contextmanager
def _temporary() -> Iterator[Stack]:
    home = Path(tempfile.mkdtemp(prefix="weighbridge-chaos-"))
    with small_disk(home) as is_small:
        started = Stack.start(home)
        started.has_small_disk = is_small
        try:
            yield started
        finally:
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
