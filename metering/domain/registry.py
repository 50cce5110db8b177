"""The registry: all that the sink must know to count, at one revision.

Every change gets the next revision and a revision never changes, so a range of offsets counted at revision 7 gives the
same rows whenever it is counted again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from metering.domain.meter import Meter


@dataclass(frozen=True, slots=True)
class Registry:
    """The registry at `revision`. Meters are live ones; `subjects` maps (namespace, subject) to a customer's id."""

    revision: int
    namespaces: frozenset[str] = frozenset()
    meters: tuple[Meter, ...] = ()
    subjects: Mapping[tuple[str, str], str] = field(default_factory=dict)
    _by_type: dict[tuple[str, str], tuple[Meter, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_type: dict[tuple[str, str], tuple[Meter, ...]] = {}
        for meter in self.meters:
            key = (meter.namespace, meter.event_type)
            by_type[key] = (*by_type.get(key, ()), meter)
        object.__setattr__(self, "_by_type", by_type)

    def meters_of(self, namespace: str, event_type: str) -> tuple[Meter, ...]:
        """The meters that measure events of this type."""
        return self._by_type.get((namespace, event_type), ())

    def customer_of(self, namespace: str, subject: str) -> str | None:
        """The id of the customer to which this subject's usage belongs, if any."""
        return self.subjects.get((namespace, subject))
