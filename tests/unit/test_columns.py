"""Bulk measuring against a plain loop over Fractions that shares nothing with it."""

import json
import re
from collections import defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.domain.columns import EventColumns, Measured, measure
from metering.domain.meter import Aggregation, Meter
from metering.domain.rows import CELL_COLUMNS, arrow, cell_rows, cells
from metering.kafka.wire import Cell

NUMBERS = ["0", "-0", "-0.0", "1", "1.0", "1.50", "-2.25", "1e3", "12E-1", "0.000000000001", "999999999999", "123456789012.123456789012",
           "99999999999999999999999", "999999999999999999999999", "1000000000000000000000000", "1e23", "1e24", "1E-13", "1e400",
           "1e99999999999999999999", "9223372036854775807", "9223372036854775808", "-9223372036854775809", "0.1000000000000000000000", "0.1234567890123"]  # fmt: skip
TEXTS = [
    "",
    "abc",
    "12.5",
    "1.0",
    "+7",
    ".5",
    "5.",
    "1e2",
    "NaN",
    "-Infinity",
    "inf",
    "1_0",
    " 1",
    "\u0663",
    "null",
    "true",
    "x\0y",
    "\u00e9",
    "1\n",
]
VALUES = st.sampled_from(
    [*NUMBERS, *map(json.dumps, TEXTS), "true", "false", "null", "[]", "[1]", "{}", '{"a":1}', '{"x":[7]}', None]
)
FEW = st.sampled_from(['"k"', '"k"', "1", "1.0", "null", None])
MINUTE_US = 60_000_000
SINCE_US = 2 * MINUTE_US + 30_000_000


class Missing:
    pass


@st.composite
def events(draw: st.DrawFn) -> dict[str, Any]:
    drawn = {"v": draw(VALUES), "d": draw(FEW), "w": draw(FEW | VALUES)}
    members = [f'"{name}": {value}' for name, value in drawn.items() if value is not None]
    if draw(st.booleans()):
        members.append('"v": ' + draw(st.sampled_from(NUMBERS)))  # the last of equal names wins
    data = "{" + ", ".join(members) + "}"
    return {
        "type": draw(st.sampled_from(["t", "t", "t", "other"])),
        "subject": draw(st.sampled_from(["a", "a", "b", "c"])),
        "time": draw(st.sampled_from([1, 9, SINCE_US - 1, SINCE_US, SINCE_US + 1]) | st.integers(1, 4 * MINUTE_US)),
        "ingest": draw(st.sampled_from([MINUTE_US * 5, MINUTE_US * 6])),
        "partition": draw(st.sampled_from([0, 1])),
        "data": draw(st.sampled_from([data, data, data, data, data, data, "null", '{"v":1,"d":"\udcff"}', '{"v":"\udcff","d":"k"}', "[1]"])),
    }  # fmt: skip


METERS = st.lists(
    st.builds(
        lambda aggregation, path, dims, since: (aggregation, None if aggregation == "COUNT" else path, dims, since),
        st.sampled_from([a.value for a in Aggregation]),
        st.sampled_from(["$.v", "$.w", "$.w.x[0]"]),
        st.sampled_from([(), ("$.d",), ("$.d", "$.w"), ("$.d", "$.d")]),
        st.sampled_from([None, None, SINCE_US]),
    ),
    min_size=1,
    max_size=4,
)


def meters_from(specs: list[Any]) -> tuple[Meter, ...]:
    return tuple(
        Meter(
            "n", f"M{i}", 1, f"m{i}", "t", Aggregation(aggregation), path, tuple((f"k{j}", d) for j, d in enumerate(dims)),
            None if since is None else datetime.fromtimestamp(since / 1e6, UTC),
        )
        for i, (aggregation, path, dims, since) in enumerate(specs)
    )  # fmt: skip


def columns_from(drawn: list[dict[str, Any]]) -> EventColumns:
    n = len(drawn)
    return EventColumns(
        ["n"] * n, [str(i) for i in range(n)], ["s"] * n, [e["type"] for e in drawn], [e["subject"] for e in drawn],
        [e["time"] for e in drawn], [e["data"].encode("utf-8", "surrogateescape") for e in drawn], [e["ingest"] for e in drawn],
        [e["partition"] for e in drawn], list(range(100, 100 + n)),
    )  # fmt: skip


class Number(str):
    """A JSON number as written."""

    __slots__ = ()


def member(data: str, path: str) -> Any:
    """What the oracle reads: Number, str, bool, None, list, dict, Missing, or "bad" for what can't be read."""
    if data == "null":
        return "no data"
    decoded = json.loads(data, parse_int=Number, parse_float=Number)
    if not isinstance(decoded, dict):
        return "bad"
    head = path.split(".")[1]
    value = decoded.get(head, Missing)
    if path.count(".") == 2:  # $.w.x[0]
        value = value["x"][0] if isinstance(value, dict) and "x" in value else Missing
    if type(value) is str and "\udcff" in value:
        return "bad"
    return value if type(value) is not str else ("text", value)


def fraction(text: str) -> Fraction | None:
    """The number, None when beyond 12 decimals or 24 digits."""
    mantissa, _, exponent = text.lower().partition("e")
    if len(exponent) > 5:
        return None
    number = Fraction(mantissa) * Fraction(10) ** int(exponent or 0)
    scaled = number * 10**12
    if scaled.denominator != 1:
        return None
    decimals = next(d for d in range(13) if (number * 10**d).denominator == 1)
    return number if abs(number * 10**decimals) < 10**24 else None


def usable(value: Any) -> Fraction | None:
    if isinstance(value, Number):
        return fraction(value)
    if isinstance(value, tuple):
        text = value[1]
        if re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", text):
            return fraction(text.rstrip("."))
    return None


def plain(value: Any) -> str:
    if isinstance(value, Number):
        number = fraction(value)
        if number is not None:
            whole = str(abs(number.numerator * 10**12 // number.denominator)).rjust(13, "0")
            text = f"{whole[:-12]}.{whole[-12:]}".rstrip("0").rstrip(".")
            return ("-" if number < 0 else "") + text
        return {"1E-13": "0.0000000000001", "1e400": "1e+400", "1e24": "1" + "0" * 24}.get(value, str(value))
    if isinstance(value, tuple):
        return value[1]
    return {True: "true", False: "false", None: "null"}.get(value, "") if isinstance(value, bool | None) else ""


def oracle(drawn: list[dict[str, Any]], specs: list[Any]) -> tuple[dict[Any, Any], set[tuple[int, str]]]:
    groups: dict[Any, list[Any]] = defaultdict(list)
    findings = set()
    for i, e in enumerate(drawn):
        for m, (aggregation, path, dims, since) in enumerate(specs):
            if e["type"] != "t" or (since is not None and e["time"] < since):
                continue
            read = [member(e["data"], d) for d in dims]
            texts = tuple("" if r in ("bad", "no data") else plain(r) for r in read)
            value: Any = 1
            if aggregation != "COUNT":
                got = member(e["data"], path)
                refused = got in ("bad", "no data") or got is Missing or got is None
                if aggregation == "UNIQUE_COUNT":
                    value = None if refused else plain(got)
                else:
                    value = None if refused else usable(got)
                if value is None:
                    findings.add((i, f"M{m}.1"))
            key = (f"M{m}.1", e["subject"], texts, e["time"] // MINUTE_US, e["ingest"] // MINUTE_US, e["partition"])
            groups[key].append((e["time"], 100 + i, value))
    return {key: summary(specs[int(key[0][1:-2])][0], found) for key, found in groups.items()}, findings


def summary(aggregation: str, found: list[Any]) -> Any:
    good = [f for f in found if f[2] is not None]
    values = [v for _, _, v in good]
    result: Any = None
    if aggregation in ("SUM", "AVG"):
        result = sum(values, Fraction(0))
    elif aggregation == "MIN" and values:
        result = min(values)
    elif aggregation == "MAX" and values:
        result = max(values)
    elif aggregation == "LATEST" and values:
        result = max(good)[::-1]
    elif aggregation == "UNIQUE_COUNT":
        result = sorted(set(values))
    return len(found), len(good), result


def seen(measured: Measured, specs: list[Any]) -> dict[Any, Any]:
    result = {}
    for row in measured.usage.iter_rows(named=True):
        key = (row["meter"], row["subject"], tuple(row["dims"]), row["minute"], row["ingest_minute"], row["partition"])
        aggregation = specs[int(row["meter"][1:-2])][0]
        value: Any = None
        if aggregation in ("SUM", "AVG"):
            value = Fraction(Decimal(row["sum"]))
        elif aggregation in ("MIN", "MAX"):
            value = row[aggregation.lower()]
            value = None if value is None else Fraction(value)
        elif aggregation == "LATEST" and row["latest"] is not None:
            value = (Fraction(row["latest"]), row["latest_offset"], row["latest_time"])
        elif aggregation == "UNIQUE_COUNT":
            value = row["uniques"]
        assert key not in result
        result[key] = (row["events"], row["count"], value)
    return result


@given(st.lists(events(), max_size=20), METERS)
def test_usage_and_findings_are_those_of_a_plain_loop(drawn: list[dict[str, Any]], specs: list[Any]):
    measured = measure(columns_from(drawn), lambda _n, event_type: meters_from(specs) if event_type == "t" else ())
    expected, findings = oracle(drawn, specs)
    assert seen(measured, specs) == expected
    assert {(f.row, f.meter_key) for f in measured.findings} == findings
    assert len(measured.findings) == len(findings)


@given(st.lists(events(), min_size=1, max_size=8), METERS)
def test_a_meter_reads_the_same_alone_and_one_event_at_a_time(drawn: list[dict[str, Any]], specs: list[Any]):
    meters = meters_from(specs)
    together = measure(columns_from(drawn), lambda _n, t: meters if t == "t" else ())
    alone = []
    for meter in meters:
        for i in range(len(drawn)):
            one = measure(columns_from(drawn).take([i]), lambda _n, t, m=meter: (m,) if t == "t" else ())
            alone += [(i, f.meter_key, f.code, f.message) for f in one.findings]
    assert sorted((f.row, f.meter_key, f.code, f.message) for f in together.findings) == sorted(alone)


@given(st.lists(events(), max_size=20), METERS)
def test_cells_add_up_the_subjects_of_a_customer(drawn: list[dict[str, Any]], specs: list[Any]):
    for event in drawn:
        event["ingest"], event["partition"] = MINUTE_US * 5, 0
    usage = measure(columns_from(drawn), lambda _n, t: meters_from(specs) if t == "t" else ()).usage
    owners = {"a": "X", "b": "X"}
    renamed = [event | {"subject": owners[event["subject"]]} for event in drawn if event["subject"] in owners]
    offsets = [i for i, event in enumerate(drawn) if event["subject"] in owners]
    expected = {}
    for (meter, subject, dims, minute, _, _), (count, good, value) in oracle(renamed, specs)[0].items():
        if isinstance(value, tuple):
            value = (value[0], 100 + offsets[value[1] - 100], value[2])  # noqa: PLW2901
        expected[meter, subject, dims, minute] = (count, good, value)
    found = {}
    for cell in (Cell(*row) for row in cell_rows(cells(usage, lambda _n, subject: owners.get(subject)))):
        aggregation = specs[int(cell.meter[1:-2])][0]
        value = {
            "COUNT": None, "SUM": Fraction(cell.sum), "AVG": Fraction(cell.sum), "UNIQUE_COUNT": list(cell.uniques),
            "MIN": cell.min, "MAX": cell.max,
            "LATEST": None if cell.latest is None else (cell.latest, cell.latest_offset, cell.latest_time),
        }[aggregation]  # fmt: skip
        found[cell.meter, cell.customer, cell.dims, cell.minute] = (cell.events, cell.count, value)
    assert found == expected


def one_type(data: list[bytes], *meters: Meter) -> Measured:
    n = len(data)
    columns = EventColumns(
        ["n"] * n, ["i"] * n, ["s"] * n, ["t"] * n, ["x"] * n, [1] * n, data, [1] * n, [0] * n, [*range(n)]
    )
    return measure(columns, lambda _n, _t: meters)


SUM = Meter("n", "M", 1, "m", "t", Aggregation.SUM, "$.v")


def test_sums_beyond_38_digits_are_exact():
    usage = one_type([b'{"v":999999999999999999999999}'] * 1000, SUM).usage
    assert usage.schema["sum"] == pl.String
    assert arrow(usage)["sum"].to_pylist() == [Decimal(999999999999999999999999000)]
    assert [row[CELL_COLUMNS.index("sum")] for row in cell_rows(cells(usage, lambda _n, s: s))] == [
        Decimal(999999999999999999999999000)
    ]


def test_sums_of_24_digits_and_12_decimals_are_exact():
    usage = one_type([b'{"v":999999999999.999999999999}', b'{"v":0.000000000001}', b'{"v":-1}'], SUM).usage
    assert arrow(usage)["sum"].to_pylist() == [Decimal(999999999999)]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "bad_json"),
        (b'{"v":' + b"[" * 500 + b"]" * 500 + b"}", "bad_json"),
        (b'{"v":' + b"9" * 5000 + b"}", "bad_json"),
        (b'{"v":' + b"9" * 4000 + b"}", "out_of_range"),
        (b'{"v":"' + b"9" * 100_000 + b'"}', "not_a_number"),
        (b'{"v":1e99999999999999999999}', "out_of_range"),
        (b'{"v":"1e99999999999999999999"}', "out_of_range"),
        (b'{"v":NaN}', "bad_json"),
        (b'{"v":1', "bad_json"),
        (b'{"v":1}{"v":1}', "bad_json"),
        (b'{"v":"\xff"}', "bad_json"),
        (b'{"v":"1\\u0000"}', "not_a_number"),
        (b'{"v":"\\ud800"}', "bad_json"),
        (b'"v"', "bad_json"),
        (b"", "missing_data"),
        (b"null", "missing_data"),
        (b'{"v":{"v":1}}', "unsupported_type"),
        (b'{"V":1}', "missing_property"),
    ],
)
def test_hostile_data_is_a_finding_and_harms_no_neighbour(data: bytes, code: str):
    measured = one_type([b'{"v":1}', data, b'{"v":2}'], SUM)
    assert [(f.row, f.code) for f in measured.findings] == [(1, code)]
    assert all(len(f.message) < 400 for f in measured.findings)
    assert measured.usage.select("events", "count", "sum").rows() == [(3, 2, Decimal(3))]


def test_nesting_within_the_limit_is_read():
    nested = b"[" * 126 + b"]" * 126
    assert not one_type([b'{"w":' + nested + b',"v":1,"s":"[[[[' + b"[" * 300 + b'"}'], SUM).findings


def test_the_latest_is_by_time_then_by_arrival():
    meter = Meter("n", "M", 1, "m", "t", Aggregation.LATEST, "$.v")
    data = [b'{"v":%d}' % i for i in range(6)] + [b"{}"]
    columns = EventColumns(
        ["n"] * 7,
        ["i"] * 7,
        ["s"] * 7,
        ["t"] * 7,
        ["x"] * 7,
        [3, 9, 9, 9, 5, 1, 10],
        data,
        [1] * 7,
        [0] * 7,
        [9, 4, 8, 2, 10, 11, 12],
    )
    usage = measure(columns, lambda _n, _t: (meter,)).usage
    assert usage.select("events", "count", "latest", "latest_time", "latest_offset").rows() == [
        (7, 6, Decimal(2), 9, 8)
    ]


def test_cells_merge_unique_and_latest_values_of_subjects():
    meters = (
        Meter("n", "U", 1, "u", "t", Aggregation.UNIQUE_COUNT, "$.v"),
        Meter("n", "L", 1, "l", "t", Aggregation.LATEST, "$.v"),
    )
    columns = EventColumns(
        ["n"] * 3,
        ["i"] * 3,
        ["s"] * 3,
        ["t"] * 3,
        ["a", "b", "c"],
        [5, 9, 7],
        [b'{"v":1}', b'{"v":2}', b'{"v":1}'],
        [60_000_000, 120_000_001, 180_000_000],
        [0] * 3,
        [0, 1, 2],
    )
    usage = measure(columns, lambda _n, _t: meters).usage
    for frame in (usage, usage.reverse(), usage.sort("subject"), usage.sort("subject", descending=True)):
        found = {cell.meter: cell for cell in (Cell(*row) for row in cell_rows(cells(frame, lambda _n, _s: "X")))}
        assert found["U.1"].uniques == ("1", "2")
        latest = found["L.1"]
        assert (latest.latest, latest.latest_time, latest.latest_offset, latest.events) == (2, 9, 1, 3)
        assert latest.latest_ingest == 2
        assert found["U.1"].latest_ingest == 0


def test_events_from_the_first_instant_on_count():
    meter = Meter("n", "M", 1, "m", "t", Aggregation.COUNT, event_from=datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC))
    columns = EventColumns(
        ["n"] * 3,
        ["i"] * 3,
        ["s"] * 3,
        ["t"] * 3,
        ["x"] * 3,
        [999_999, 1_000_000, 1_000_001],
        [b"null"] * 3,
        [1] * 3,
        [0] * 3,
        [0, 1, 2],
    )
    assert measure(columns, lambda _n, _t: (meter,)).usage["events"].to_list() == [2]


def test_names_that_no_struct_can_have_are_read():
    meter = Meter("n", "M", 1, "m", "t", Aggregation.SUM, "$['a\\\"b']")
    assert one_type([b'{"a\\"b":5}'], meter).usage["sum"].to_list() == [Decimal(5)]


def test_arrow_has_the_columns_of_the_table():
    table = arrow(one_type([b'{"v":1}'], SUM).usage)
    assert table["minute"].to_pylist() == [datetime(1970, 1, 1, tzinfo=UTC)]
    assert str(table.schema.field("sum").type) == "decimal256(76, 12)"


def test_no_events_give_no_rows():
    usage = one_type([], SUM).usage
    assert usage.height == 0
    assert arrow(usage).num_rows == 0
    assert cells(usage, lambda _n, s: s).height == 0
