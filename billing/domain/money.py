"""Money: an exact decimal with its currency. `rounded` is the only place in billing that rounds.

Half away from zero, to the currency's minor units: what a person expects of a price, and what the wire format's
reference does (its behaviour, section 1.1). Amounts that are not money yet (unit prices, quantities) stay exact.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Context, Decimal, Inexact
from fractions import Fraction
from typing import Final

from metering.domain.errors import InvalidInput

# Wide enough for any sum or difference of 76-digit usage and prices; inexact results are errors, never roundings.
EXACT: Final = Context(prec=200, traps=[Inexact])

# ISO 4217 codes whose minor unit is not 1/100.
_EXPONENTS: Final = {
    **dict.fromkeys(
        (
            "BIF",
            "CLP",
            "DJF",
            "GNF",
            "ISK",
            "JPY",
            "KMF",
            "KRW",
            "PYG",
            "RWF",
            "UGX",
            "VND",
            "VUV",
            "XAF",
            "XOF",
            "XPF",
        ),
        0,
    ),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
}
_CODES: Final = frozenset(
    """AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF
    CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF
    IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK
    MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR
    SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VES
    VND VUV WST XAF XCD XOF XPF YER ZAR ZMW ZWG""".split()  # noqa: SIM905 - quoted, they fill a page
)


@dataclass(frozen=True, slots=True, order=True)
class Currency:
    """An ISO 4217 currency. `exponent` is the number of decimals of its minor unit."""

    code: str

    def __post_init__(self) -> None:
        if self.code not in _CODES:
            raise InvalidInput(f"invalid CurrencyCode: invalid fiat currency code: {self.code}")

    @property
    def exponent(self) -> int:
        return _EXPONENTS.get(self.code, 2)


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in whole minor units of its currency."""

    amount: Decimal
    currency: Currency

    def __add__(self, other: "Money") -> "Money":
        return Money(EXACT.add(self.amount, self._alike(other)), self.currency)

    def __sub__(self, other: "Money") -> "Money":
        return Money(EXACT.subtract(self.amount, self._alike(other)), self.currency)

    def _alike(self, other: "Money") -> Decimal:
        if other.currency != self.currency:
            raise ValueError(f"{self.currency.code} and {other.currency.code} do not add up")
        return other.amount


def rounded(amount: Decimal | Fraction, currency: Currency) -> Money:
    """The money that an exact amount is: half away from zero, at the currency's minor unit."""
    minor = Fraction(amount) * 10**currency.exponent
    units = int(abs(minor) + Fraction(1, 2))  # int() cuts towards zero
    return Money(Decimal(f"{-units if minor < 0 else units}E-{currency.exponent}"), currency)


def total(amounts: Iterable[Money], currency: Currency) -> Money:
    """Their sum; zero for none."""
    result = rounded(Decimal(0), currency)
    for amount in amounts:
        result += amount
    return result


def plain(value: Decimal) -> str:
    """As the wire prints decimals: no exponent, no trailing zeros, no minus before a zero."""
    text = f"{value:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text
