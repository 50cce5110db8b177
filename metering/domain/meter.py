"""What a meter measures: the part of its definition that the sink needs."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Aggregation(StrEnum):
    """How a meter turns many values into one."""

    SUM = "SUM"
    COUNT = "COUNT"
    AVG = "AVG"
    MIN = "MIN"
    MAX = "MAX"
    UNIQUE_COUNT = "UNIQUE_COUNT"
    LATEST = "LATEST"


@dataclass(frozen=True, slots=True)
class Meter:
    """A meter at one version of its measuring rules.

    `group_by` are (name, JSONPath) pairs; their order is the order of `dims` in the usage rows. A change of
    `value_path` or `group_by` makes the next `version`, whose usage is measured anew.
    """

    namespace: str
    id: str
    version: int
    slug: str
    event_type: str
    aggregation: Aggregation
    value_path: str | None = None
    group_by: tuple[tuple[str, str], ...] = ()
    event_from: datetime | None = None

    @property
    def key(self) -> str:
        """What usage rows name it by."""
        return f"{self.id}.{self.version}"

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The names of its dimensions, in the order of `dims`."""
        return tuple(name for name, _ in self.group_by)
