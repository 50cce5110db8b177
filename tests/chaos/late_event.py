"""An event that comes after its period was billed, told from the side of the API's user.

It takes two cuts, each on a minute, so it runs beside the other tests, through all their faults.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import httpx

from tests.chaos.load import post
from tests.chaos.oracle import Made
from tests.chaos.stack import DEADLINE_SECONDS, wait_until
from tests.chaos.world import World

if TYPE_CHECKING:
    from tests.chaos.stack import Stack

PRICE = Decimal("0.25")
IN_TIME, LATE = Decimal(1000), Decimal(40)
INVOICE_SECONDS = 2 * DEADLINE_SECONDS


@dataclass(slots=True)
class LateEvent:
    """What was seen on the way. `begin` it; `end` raises what went wrong, if it came to its end."""

    stack: Stack
    first: dict[str, Any] = field(default_factory=dict)
    first_later: dict[str, Any] = field(default_factory=dict)
    proofs: list[bytes] = field(default_factory=list)
    second: dict[str, Any] = field(default_factory=dict)
    second_proof: dict[str, Any] = field(default_factory=dict)
    _failure: BaseException | None = None
    _unwanted: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread = field(init=False)
    _world: World = field(init=False)
    _start: datetime = field(init=False)
    _customer: dict[str, Any] = field(init=False)
    _subscription: str = ""

    def begin(self) -> None:
        self._world = World(self.stack, seed=0)
        self._world.prepare()
        self._start = self._world.now.replace(second=0, microsecond=0) - timedelta(days=45)
        self._subscribe()
        self._thread = threading.Thread(target=self._main, name="late event", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._thread.join(2 * INVOICE_SECONDS + DEADLINE_SECONDS)
        assert not self._thread.is_alive(), "the invoices don't come"
        if self._failure is not None:
            raise self._failure

    def abandon(self) -> None:
        """End it at its next step."""
        self._unwanted.set()
        self._thread.join(DEADLINE_SECONDS)

    def _main(self) -> None:
        try:
            self._tell()
        except BaseException as error:  # noqa: BLE001 - raised by `end`
            self._failure = error

    def _subscribe(self) -> None:
        name, request = self._world.name, self.stack.request
        self._customer = request("GET", f"/api/v1/customers/{name}-two")
        card = {
            "type": "usage_based",
            "key": f"{name}_amount",
            "name": "Amount",
            "featureKey": f"{name}_amount",
            "billingCadence": "P1M",
            "price": {"type": "unit", "amount": str(PRICE)},
        }
        phase = {"key": "only", "name": "Only", "duration": None, "rateCards": [card]}
        plan = {"key": name, "name": name, "currency": "USD", "billingCadence": "P1M", "phases": [phase]}
        made = request("POST", "/api/v1/plans", plan)
        request("POST", f"/api/v1/plans/{made['id']}/publish", {})
        self._post("in-time", IN_TIME)
        self.stack.wait_flushed()  # before the cut, however the clock stands
        start = self._start.isoformat()
        order = {"customerKey": f"{name}-two", "plan": {"key": name}, "timing": start, "billingAnchor": start}
        self._subscription = request("POST", "/api/v1/subscriptions", order)["id"]

    def _post(self, name: str, amount: Decimal) -> None:
        at = self._start + timedelta(days=5)
        event = Made(f"{self._world.name}-{name}", self._world.name, f"{self._world.name}-two", at, amount, "red", name)
        self._world.ledger.add([event])
        post(self.stack.url, self._world.ledger, [event])

    def _tell(self) -> None:
        request = self.stack.request
        self.first = self._issued(1)
        path = f"/api/v1/billing/invoices/{self.first['id']}"
        self.proofs.append(self._proof(path))
        self._post("late", LATE)
        self.stack.wait_flushed()
        self.first_later = request("GET", path)
        self.proofs.append(self._proof(path))
        next_minute = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(minutes=1)
        wait_until(lambda: datetime.now(UTC) >= next_minute, "a cut after the late event")
        self._cancel()
        self.second = self._issued(2)
        self.second_proof = request("GET", f"/api/v1/billing/invoices/{self.second['id']}/verification")
        self.proofs.append(self._proof(path))

    def _proof(self, path: str) -> bytes:
        self.stack.request("GET", f"{path}/verification")  # waits for a server that is away
        return httpx.get(f"{self.stack.url}{path}/verification", timeout=60).content

    def _cancel(self) -> None:
        path = f"/api/v1/subscriptions/{self._subscription}"

        def cancelled() -> bool:
            try:
                httpx.post(f"{self.stack.url}{path}/cancel", json={"timing": "immediate"}, timeout=30)
            except httpx.TransportError:
                return False  # it may have been done all the same
            return "activeTo" in self.stack.request("GET", path)

        wait_until(cancelled, "the end of the subscription")

    def _issued(self, count: int) -> dict[str, Any]:
        """The newest invoice once there are `count` issued ones; the worker opens and issues them by itself."""
        query = {"customers": self._customer["id"], "statuses": "issued"}

        def enough() -> list[dict[str, Any]]:
            if self._unwanted.is_set():
                raise RuntimeError("not wanted any more")
            items: list[dict[str, Any]] = self.stack.request("GET", "/api/v1/billing/invoices", params=query)["items"]
            return items if len(items) >= count else []

        items = wait_until(enough, f"{count} issued invoices", INVOICE_SECONDS)
        newest = max(items, key=lambda item: item["period"]["to"])
        invoice: dict[str, Any] = self.stack.request("GET", f"/api/v1/billing/invoices/{newest['id']}")
        return invoice
