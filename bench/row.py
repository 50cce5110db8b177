"""What a row of the table is: something measured, beside a limit that was measured in the same run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deploy.local.engines import Engines


class NotAvailableError(Exception):
    """What the row measures can't be run here; the message says why."""


@dataclass(frozen=True, slots=True)
class Result:
    """Figures of one row. `value` and `limit` are in the row's unit; `notes` are short, for the last column.

    `misses` says which goals were missed, apart from the ratio.
    """

    value: float
    limit: float | None = None
    notes: str = ""
    misses: tuple[str, ...] = ()

    @property
    def ratio(self) -> float | None:
        return self.value / self.limit if self.limit else None


@dataclass(frozen=True, slots=True)
class Bench:
    """What a row gets to work with. `engines()` starts them at the first call; `scratch` is a folder for its files."""

    quick: bool
    engines: "Callable[[], Engines]"
    scratch: Path
    say: Callable[[str], None]

    def seconds(self, full: float, quick: float) -> float:
        """How long to measure."""
        return quick if self.quick else full


@dataclass(frozen=True, slots=True)
class Row:
    """One row. `name` is what it is called on the command line; `goal` the smallest good ratio of value to limit.

    `lower_is_better` is for delays, which have no ratio but `goal_value`.
    """

    name: str
    what: str
    limit: str
    unit: str
    measure: Callable[[Bench], Result]
    goal: float | None = None
    goal_value: float | None = None
    lower_is_better: bool = False

    def good(self, result: Result) -> bool:
        """Whether the goals are reached."""
        if result.misses:
            return False
        if self.goal is not None and (result.ratio is None or result.ratio < self.goal):
            return False
        if self.goal_value is None:
            return True
        return result.value <= self.goal_value if self.lower_is_better else result.value >= self.goal_value
