"""The balance check as a raw ASGI path: two dictionaries, a cached answer, two messages to the server.

What memory can't answer (another type of entitlement, a change on its way, a `time`, an unknown customer) is left to
the ordinary route, which has the same path and document.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from prometheus_client import Counter
from sqlalchemy.exc import SQLAlchemyError

from api.balances import CurrentBalances
from api.directory import Directory
from api.values import balance_wire
from api.wire import encode
from metering.domain.burndown import Balance
from metering.domain.ids import is_id

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

CHECKS: Final = Counter(
    "weighbridge_balance_checks_total", "Balance checks, by what answered them.", labelnames=("source",)
)
_FROM_MEMORY: Final = CHECKS.labels("memory")
_LEFT: Final = CHECKS.labels("database")

ANSWERS_MAX: Final = 50_000
_V1: Final = "/api/v1/customers/"
_V2: Final = "/api/v2/customers/"
_PARTS: Final = 8  # "", api, v1, customers, KEY, entitlements, FEATURE, value

_Cached = tuple[Balance, Message, Message]


@dataclass(slots=True)
class BalanceCheck:
    """Answers `GET /api/v1|v2/customers/{idOrKey}/entitlements/{featureKey}/value` from memory, where it can."""

    balances: CurrentBalances
    directory: Directory
    now: Callable[[], datetime]
    _answers: dict[tuple[str, str, bool], _Cached] = field(default_factory=dict)

    async def answered(self, scope: MutableMapping[str, Any], send: Send) -> bool:
        """Answer the request and return True, or leave it alone and return False."""
        path: str = scope["path"]
        if not path.endswith("/value") or not path.startswith((_V1, _V2)) or scope["query_string"]:
            return False
        parts = path.split("/")
        if len(parts) != _PARTS or parts[5] != "entitlements" or scope["method"] != "GET":
            return False
        wanted, feature = parts[4], parts[6]
        customer = wanted.upper() if is_id(wanted) else await self._customer(wanted)
        balance = self.balances.value(customer, feature, self.now()) if customer is not None else None
        if customer is None or balance is None:
            _LEFT.inc()
            return False
        _, start, body = self._answer((customer, feature, parts[2] == "v2"), balance)
        _FROM_MEMORY.inc()
        await send(start)
        await send(body)
        return True

    async def _customer(self, key: str) -> str | None:
        try:
            return self.directory.known(key) or await self.directory.find(key)
        except SQLAlchemyError:
            return None  # the ordinary route meets the same error, and can tell of it

    def _answer(self, key: tuple[str, str, bool], balance: Balance) -> _Cached:
        """The messages for this balance; kept while the view gives the very same object."""
        cached = self._answers.get(key)
        if cached is not None and cached[0] is balance:
            return cached
        body = encode(balance_wire(balance, with_grants=key[2]))
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        if len(self._answers) >= ANSWERS_MAX:
            self._answers.clear()
        made = (
            balance,
            {"type": "http.response.start", "status": 200, "headers": headers},
            {"type": "http.response.body", "body": body},
        )
        self._answers[key] = made
        return made
