"""Balances of now, from memory: what most requests beside ingest ask for."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from api.pending import PendingChanges
from metering.domain.balance import Record
from metering.domain.burndown import Balance


class View(Protocol):
    """What follows the balances: `metering.balances.view.BalanceView`."""

    @property
    def is_ready(self) -> bool:
        """Whether everything from before the start has been read."""

    def get(self, namespace: str, customer: str, feature: str) -> Record | None:
        """The record of a balance."""

    def value(self, namespace: str, customer: str, feature: str, now: datetime) -> Balance | None:
        """The balance now; None where there is no metered entitlement."""


@dataclass(frozen=True, slots=True)
class CurrentBalances:
    """The view, but for changes it hasn't come to."""

    view: View
    namespace: str
    pending: PendingChanges = field(default_factory=PendingChanges)

    def value(self, customer_id: str, feature_key: str, now: datetime) -> Balance | None:
        """The balance now; None if memory can't tell, whatever the reason: ask the database."""
        if not self.view.is_ready:
            return None
        if awaited := self.pending.awaited(customer_id, feature_key):
            record = self.view.get(self.namespace, customer_id, feature_key)
            if record is None or record.sequence < awaited:
                return None
            self.pending.reached(customer_id, feature_key)
        return self.view.value(self.namespace, customer_id, feature_key, now)
