"""Flat prices of a period that is cut short. Usage prices are never prorated."""

from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from billing.domain.money import Currency, rounded

Period = tuple[datetime, datetime]
_UNIT = timedelta(microseconds=1)


def prorated(amount: Decimal, served: Period, full: Period, currency: Currency) -> Decimal:
    """`amount` x length of `served` / length of `full`, rounded; the whole amount if they are the same.

    Both are [start, end) in UTC, `served` lies in `full` and `full` is not empty.
    """
    if served == full:
        return amount
    share = Fraction((served[1] - served[0]) // _UNIT, (full[1] - full[0]) // _UNIT)
    return rounded(Fraction(amount) * share, currency).amount
