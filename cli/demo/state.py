"""What a demo remembers in the stack's home, so that a second run finds its data instead of loading it again."""

from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Self

import msgspec

from cli.demo.load import Loaded


class DemoState(msgspec.Struct, frozen=True):
    """A finished load: where its events lie in time, what was sent, and what an independent count of it says."""

    scenario: str
    start: datetime
    end: datetime
    period_end: datetime
    events: int
    twice: int
    unusable: int
    totals: dict[str, Decimal]
    distinct: dict[str, int]
    delays: list[float]
    invoice: str | None = None

    @classmethod
    def of(
        cls, scenario: str, loaded: Loaded, delays: list[float], *, start: datetime, end: datetime, period_end: datetime
    ) -> Self:
        """The state after loading."""
        expected = loaded.expected
        return cls(
            scenario=scenario,
            start=start,
            end=end,
            period_end=period_end,
            events=expected.events,
            twice=loaded.twice,
            unusable=expected.unusable,
            totals={slug: expected.total(slug) for slug, _, _ in expected.totals},
            distinct={slug: len({value for _, value in values}) for slug, values in expected.distinct.items()},
            delays=delays,
        )


def _path(home: Path, scenario: str) -> Path:
    return home / f"demo-{scenario}.json"


def remembered(home: Path, scenario: str) -> DemoState | None:
    """The state of an earlier run with this home, if it finished loading."""
    path = _path(home, scenario)
    return msgspec.json.decode(path.read_bytes(), type=DemoState) if path.exists() else None


def remember(home: Path, state: DemoState) -> None:
    """Write it whole or not at all."""
    path = _path(home, state.scenario)
    draft = path.with_suffix(".tmp")
    draft.write_bytes(msgspec.json.encode(state))
    draft.replace(path)
