"""An event of a billed period that comes after the cut is in the next invoice, and the old one stays as it is."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from tests.chaos.late_event import IN_TIME, LATE, PRICE

if TYPE_CHECKING:
    from tests.chaos.late_event import LateEvent

pytestmark = pytest.mark.timeout(700)


def lines(invoice: dict[str, Any]) -> dict[tuple[str, Decimal], Decimal]:
    """(kind, quantity) -> total, of lines that bill something."""
    found = {}
    for line in invoice["lines"]:
        if total := Decimal(line["totals"]["total"]):
            found[line.get("kind", ""), Decimal(line["quantity"])] = total
    return found


def test_a_late_event_is_on_the_next_invoice_and_the_old_one_stays_proven(late_event: LateEvent) -> None:
    late_event.end()
    assert list(lines(late_event.first).values()) == [IN_TIME * PRICE]
    assert late_event.first_later == late_event.first
    assert len(set(late_event.proofs)) == 1
    assert msgspec.json.decode(late_event.proofs[0])["isEqual"]
    assert list(lines(late_event.second).values()) == [LATE * PRICE]
    assert late_event.second_proof["isEqual"]
