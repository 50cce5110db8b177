"""Customer keys in memory, so that a balance check asks no database.

Postgres notifies of every change of a customer's key. While nobody listens nothing is remembered, and what is
remembered is forgotten after a while in any case.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from metering.postgres.tables import customers

KEYS_MAX: Final = 200_000
REMEMBER_SECONDS: Final = 300.0

LookUp = Callable[[str], Awaitable[str | None]]


@dataclass(slots=True)
class Directory:
    """Customer key -> id, of live customers."""

    look_up: LookUp
    is_current: Callable[[], bool]
    _ids: dict[str, tuple[str, float]] = field(default_factory=dict)
    _keys: dict[str, str] = field(default_factory=dict)
    _changes: int = 0

    def known(self, key: str) -> str | None:
        """The id, if it is remembered."""
        found = self._ids.get(key)
        return found[0] if found is not None and found[1] > monotonic() else None

    async def find(self, key: str) -> str | None:
        """The id, from memory or from the database; None if no live customer has this key."""
        if (known := self.known(key)) is not None:
            return known
        changes = self._changes
        found = await self.look_up(key)
        # A change that was heard of meanwhile may be newer than what we have read.
        if found is not None and changes == self._changes and self.is_current():
            self._remember(key, found)
        return found

    def forget(self, customer_id: str) -> None:
        """The customer's key may have changed."""
        self._changes += 1
        key = self._keys.pop(customer_id, None)
        if key is not None:
            self._ids.pop(key, None)

    def forget_all(self) -> None:
        self._changes += 1
        self._ids.clear()
        self._keys.clear()

    def _remember(self, key: str, customer_id: str) -> None:
        if len(self._ids) >= KEYS_MAX:
            oldest = next(iter(self._ids))
            self._keys.pop(self._ids.pop(oldest)[0], None)
        self._ids[key] = customer_id, monotonic() + REMEMBER_SECONDS
        self._keys[customer_id] = key


def in_postgres(engine: AsyncEngine, namespace: str) -> LookUp:
    """Looks a key up among live customers."""

    async def look_up(key: str) -> str | None:
        query = select(customers.c.id).where(
            customers.c.namespace == namespace, customers.c.key == key, customers.c.deleted_at.is_(None)
        )
        async with engine.connect() as connection:
            return (await connection.execute(query)).scalar()

    return look_up
