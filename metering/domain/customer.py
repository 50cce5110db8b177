"""Who uses, and who pays: subjects send usage, customers own it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Subject:
    """A named source of usage. Events need none; it only gives a subject key a name and data of its own."""

    id: str
    namespace: str
    key: str
    created_at: datetime
    updated_at: datetime
    display_name: str | None = None
    stripe_customer_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    deleted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Customer:
    """Who pays. The usage of `key` and of all `subject_keys` (sorted) is the customer's."""

    id: str
    namespace: str
    name: str
    created_at: datetime
    updated_at: datetime
    key: str | None = None
    subject_keys: tuple[str, ...] = ()
    description: str | None = None
    currency: str | None = None
    primary_email: str | None = None
    billing_address: Mapping[str, str] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    deleted_at: datetime | None = None

    @property
    def subjects(self) -> tuple[str, ...]:
        """All subjects whose usage is the customer's, sorted."""
        return tuple(sorted({*self.subject_keys, *([self.key] if self.key is not None else [])}))
