"""A smoke test of measuring; the oracle comparison is below."""

from decimal import Decimal

from metering.domain.columns import EventColumns, measure
from metering.domain.meter import Aggregation, Meter
from metering.domain.rows import arrow, cell_rows, cells


def test_values_are_summed_by_subject_dimension_and_minute():
    meter = Meter("n", "M", 1, "m", "t", Aggregation.SUM, "$.v", (("tier", "$.tier"),))
    data = [b'{"v":1.5,"tier":"a"}', b'{"v":"2","tier":"a"}', b'{"tier":"a"}', b'{"v":9,"tier":true}']
    n = len(data)
    columns = EventColumns(
        ["n"] * n,
        ["1", "2", "3", "4"],
        ["s"] * n,
        ["t"] * n,
        ["x"] * n,
        [60_000_001] * n,
        data,
        [1] * n,
        [0] * n,
        [*range(n)],
    )
    measured = measure(columns, lambda _namespace, _type: (meter,))
    rows = {tuple(row["dims"]): row for row in measured.usage.iter_rows(named=True)}
    assert {dims: (row["sum"], row["events"], row["count"]) for dims, row in rows.items()} == {
        ("a",): (Decimal("3.5"), 3, 2),
        ("true",): (Decimal(9), 1, 1),
    }
    assert [(f.row, f.code, f.message) for f in measured.findings] == [
        (2, "missing_property", 'missing value property: "$.v"')
    ]
    assert arrow(measured.usage).num_rows == 2
    assert len(list(cell_rows(cells(measured.usage, lambda _namespace, subject: subject.upper())))) == 2
