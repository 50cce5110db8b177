"""What a demo remembers in the stack's home, so that a second run finds its data instead of loading it again."""

from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Final

import msgspec

from cli.demo.load import Loaded
from metering.domain.errors import Conflict

_FILE: Final = "demo.json"


class Result(msgspec.Struct, frozen=True):
    """A finished load: what was sent, what an independent count of it says, and the delays that were measured."""

    events: int
    twice: int
    unusable: int
    totals: dict[str, Decimal]
    distinct: dict[str, int]
    delays: list[float]

    @classmethod
    def of(cls, loaded: Loaded, delays: list[float]) -> "Result":
        """The result of sending all of a scenario."""
        expected = loaded.expected
        return cls(
            events=expected.events,
            twice=loaded.twice,
            unusable=expected.unusable,
            totals={slug: expected.total(slug) for slug, _, _ in expected.totals},
            distinct={slug: len(values) for slug, values in expected.distinct.items()},
            delays=delays,
        )


class DemoState(msgspec.Struct, frozen=True):
    """Which demo a home holds, and where its events lie in time: before `end`. `result` is there once it is loaded."""

    scenario: str
    end: datetime
    result: Result | None = None


def state_of(home: Path, scenario: str, *, now: datetime) -> DemoState:
    """What the home holds, or a new state. A home holds one demo: raises Conflict if it is another."""
    path = home / _FILE
    if not path.exists():
        state = DemoState(scenario, now.replace(second=0, microsecond=0))
        remember(home, state)
        return state
    state = msgspec.json.decode(path.read_bytes(), type=DemoState)
    if state.scenario != scenario:
        raise Conflict(f"{home} holds the demo {state.scenario!r}; name another home with WEIGHBRIDGE_HOME")
    return state


def remember(home: Path, state: DemoState) -> None:
    """Write it whole or not at all."""
    draft = home / f"{_FILE}.part"
    draft.write_bytes(msgspec.json.encode(state))
    draft.replace(home / _FILE)
