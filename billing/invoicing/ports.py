"""What invoicing asks of metering."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from billing.domain.evidence import Reading, Scope
from metering.domain.meter import Meter


class Readings(Protocol):
    """Usage, as it is shown and as raw events prove it."""

    async def offsets(self, cut: datetime) -> Mapping[int, int] | None:
        """For each partition the offset below which all before `cut` lies; None until every partition has passed it."""
        ...

    async def is_backfilled(self, meters: Sequence[Meter]) -> bool:
        """Whether all events before these meters' cut-overs have been counted."""
        ...

    async def shown(self, scope: Scope) -> tuple[Decimal, int]:
        """The quantity, and how many events were used for it, as every usage query answers."""
        ...

    async def proven(self, scope: Scope) -> Reading:
        """The same from raw events, with the digest."""
        ...

    async def earliest(self, scope: Scope, since: datetime) -> datetime | None:
        """The minute of the earliest event of the scope with an ingest time of `since` or later; None for none."""
        ...
