"""The balance check from memory: what it answers, and what it leaves to the database."""

import json
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from api import directory as directory_module
from api import pending as pending_module
from api.balance_check import BalanceCheck
from api.balances import CurrentBalances
from api.directory import Directory
from api.pending import PendingChanges
from metering.domain.balance import Record
from metering.domain.burndown import Balance
from metering.domain.ids import new_id

NOW = datetime(2031, 2, 1, tzinfo=UTC)
ACME = new_id()
BALANCE = Balance(
    has_access=True,
    balance=Decimal("90.50"),
    usage=Decimal(10),
    overage=Decimal(0),
    total_available=Decimal(100),
    grant_balances={"G": Decimal("90.50")},
)


@dataclass
class FakeView:
    """Balances by (customer, feature), each at a sequence."""

    balances: dict[tuple[str, str], tuple[int, Balance]] = field(default_factory=dict)
    is_ready: bool = True

    def get(self, _namespace: str, customer: str, feature: str) -> Record | None:
        found = self.balances.get((customer, feature))
        return Record(found[0], None, None, {}, 0, ()) if found else None

    def value(self, _namespace: str, customer: str, feature: str, _now: datetime) -> Balance | None:
        found = self.balances.get((customer, feature))
        return found[1] if found else None


@dataclass
class World:
    """A customer acme with a balance at sequence 5."""

    view: FakeView = field(default_factory=lambda: FakeView({(ACME, "gpu"): (5, BALANCE)}))
    keys: dict[str, str] = field(default_factory=lambda: {"acme": ACME})
    looked_up: list[str] = field(default_factory=list)
    is_current: bool = True

    def __post_init__(self) -> None:
        self.directory = Directory(self.look_up, lambda: self.is_current)
        self.balances = CurrentBalances(self.view, "default")
        self.check = BalanceCheck(self.balances, self.directory, lambda: NOW)

    async def look_up(self, key: str) -> str | None:
        self.looked_up.append(key)
        return self.keys.get(key)

    async def ask(self, path: str, method: str = "GET", query: bytes = b"") -> Any:
        """The JSON of the answer, or None if the request was left alone."""
        sent: list[MutableMapping[str, Any]] = []

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        scope = {"type": "http", "path": path, "method": method, "query_string": query}
        if not await self.check.answered(scope, send):
            assert not sent
            return None
        start, body = sent
        assert start["status"] == 200
        assert dict(start["headers"])[b"content-length"] == str(len(body["body"])).encode()
        return json.loads(body["body"])


def path(customer: str = "acme", feature: str = "gpu", version: str = "v1") -> str:
    return f"/api/{version}/customers/{customer}/entitlements/{feature}/value"


async def test_answers_by_key_and_by_id_in_both_versions() -> None:
    world = World()
    v1 = {"hasAccess": True, "balance": 90.5, "usage": 10, "overage": 0, "totalAvailableGrantAmount": 100}
    assert await world.ask(path()) == v1
    assert await world.ask(path(ACME)) == v1
    assert await world.ask(path(ACME.lower())) == v1
    assert await world.ask(path(version="v2")) == {**v1, "grantBalances": {"G": 90.5}}
    assert world.looked_up == ["acme"]


@pytest.mark.parametrize(
    ("asked", "method", "query"),
    [
        (path(), "POST", b""),
        (path(), "GET", b"time=2031-01-01T00:00:00Z"),
        (path("nobody"), "GET", b""),
        (path(feature="other"), "GET", b""),
        (path(version="v3"), "GET", b""),
        ("/api/v1/customers/acme/value", "GET", b""),
        ("/api/v1/subjects/acme/entitlements/gpu/value", "GET", b""),
        ("/api/v1/customers/acme/other/gpu/value", "GET", b""),
    ],
)
async def test_leaves_alone_what_memory_cannot_tell(asked: str, method: str, query: bytes) -> None:
    assert await World().ask(asked, method, query) is None


async def test_view_that_is_not_ready_answers_nothing() -> None:
    world = World()
    world.view.is_ready = False
    assert await world.ask(path()) is None


async def test_change_is_waited_for_until_the_view_has_it() -> None:
    world = World()
    world.balances.pending.add(ACME, "gpu", 7)
    assert await world.ask(path()) is None
    world.view.balances[ACME, "gpu"] = 6, BALANCE
    assert await world.ask(path()) is None
    world.view.balances[ACME, "gpu"] = 7, BALANCE
    assert await world.ask(path()) is not None
    assert world.balances.pending.awaited(ACME, "gpu") == 0


async def test_answer_changes_with_the_balance() -> None:
    world = World()
    first = await world.ask(path())
    other = Balance(False, Decimal(0), Decimal(100), Decimal(3), Decimal(100), {})
    world.view.balances[ACME, "gpu"] = 5, other
    second = await world.ask(path())
    assert (first["balance"], second["balance"], second["overage"]) == (90.5, 0, 3)


async def test_moved_key_is_forgotten() -> None:
    world = World()
    assert await world.ask(path()) is not None
    world.keys["acme"] = other = new_id()
    world.directory.forget(ACME)
    assert await world.ask(path()) is None
    world.view.balances[other, "gpu"] = 1, BALANCE
    assert await world.ask(path()) is not None


async def test_change_heard_while_looking_up_is_not_overwritten_by_what_was_read_before() -> None:
    async def look_up(_: str) -> str:
        directory.forget("old")
        return "old"

    directory = Directory(look_up, lambda: True)
    assert await directory.find("k") == "old"
    assert directory.known("k") is None


async def test_nothing_is_remembered_while_nobody_listens() -> None:
    world = World(is_current=False)
    await world.ask(path())
    await world.ask(path())
    assert world.looked_up == ["acme", "acme"]


async def test_directory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_module, "KEYS_MAX", 3)
    world = World(keys={str(n): f"id-{n}" for n in range(5)})
    for n in range(5):
        assert await world.directory.find(str(n)) == f"id-{n}"
    assert [world.directory.known(str(n)) for n in range(5)] == [None, None, "id-2", "id-3", "id-4"]


def test_pending_changes_keep_the_newest_expire_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr(pending_module, "monotonic", lambda: clock)
    monkeypatch.setattr(pending_module, "PENDING_MAX", 2)
    pending = PendingChanges()
    pending.heard("C gpu 9")
    pending.add("C", "gpu", 4)
    assert pending.awaited("C", "gpu") == 9
    clock = pending_module.PENDING_SECONDS + 1
    assert pending.awaited("C", "gpu") == 0
    for n in range(3):
        pending.add("C", f"f{n}", 1)
    assert [pending.awaited("C", f"f{n}") for n in range(3)] == [0, 1, 1]
