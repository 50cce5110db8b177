"""Changes of entitlements that the balances in memory may not show yet: who has changed something sees it at once."""

from dataclasses import dataclass, field
from time import monotonic
from typing import Final

PENDING_MAX: Final = 100_000
PENDING_SECONDS: Final = 30.0  # a change that was rolled back never shows


@dataclass(slots=True)
class PendingChanges:
    """(customer, feature) -> the outbox sequence that a balance in memory must have reached to be an answer."""

    _awaited: dict[tuple[str, str], tuple[int, float]] = field(default_factory=dict)

    def add(self, customer_id: str, feature_key: str, sequence: int) -> None:
        if len(self._awaited) >= PENDING_MAX:
            del self._awaited[next(iter(self._awaited))]
        key = (customer_id, feature_key)
        known = self._awaited.pop(key, (0, 0.0))[0]
        self._awaited[key] = max(known, sequence), monotonic() + PENDING_SECONDS

    def heard(self, payload: str) -> None:
        """As the notification of another process says it; see `metering.postgres.entitlement_changes`."""
        customer_id, feature_key, sequence = payload.split()
        self.add(customer_id, feature_key, int(sequence))

    def awaited(self, customer_id: str, feature_key: str) -> int:
        """The sequence to wait for; 0 if there is none."""
        found = self._awaited.get((customer_id, feature_key))
        if found is None:
            return 0
        if found[1] < monotonic():
            self.reached(customer_id, feature_key)
            return 0
        return found[0]

    def reached(self, customer_id: str, feature_key: str) -> None:
        self._awaited.pop((customer_id, feature_key), None)
