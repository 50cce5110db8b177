import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.domain.entitlement import DimensionFilter
from metering.domain.errors import InvalidInput
from metering.domain.filters import filter_of, matches, parse_filter

TEXT = st.text("abAB%_\\.\n", max_size=6)
VALUE = st.text("abAB%_\\.\n", min_size=1, max_size=6)
LEAVES = st.one_of(
    *[
        st.fixed_dictionaries({op: VALUE})
        for op in ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$like", "$nlike", "$ilike", "$nilike")
    ],
    *[st.fixed_dictionaries({op: st.lists(VALUE, max_size=3)}) for op in ("$in", "$nin")],
)
FILTERS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        *[st.fixed_dictionaries({op: st.lists(inner, min_size=1, max_size=3)}) for op in ("$and", "$or")]
    ),
    max_leaves=6,
)


def like(pattern: str, text: str) -> bool:
    out, i = "", 0
    while i < len(pattern):
        if pattern[i] == "\\" and pattern[i + 1 : i + 2] in ("%", "_", "\\"):
            i += 1
            out += re.escape(pattern[i])
        else:
            out += {"%": "(?:.|\n)*", "_": "(?:.|\n)"}.get(pattern[i], re.escape(pattern[i]))
        i += 1
    return re.match(out + r"\Z", text) is not None


def oracle(condition: dict[str, Any], text: str) -> bool:
    ((operator, value),) = condition.items()
    raw = text.encode()
    if operator in ("$and", "$or"):
        results = [oracle(part, text) for part in value]
        return False not in results if operator == "$and" else True in results
    if operator in ("$in", "$nin"):
        return (value.count(text) > 0) == (operator == "$in")
    if operator.endswith("like"):
        if "i" in operator[:-4]:
            value, text = value.lower(), text.lower()
        return like(value, text) != ("n" in operator[:-4])
    order = (raw > value.encode()) - (raw < value.encode())
    return order in {"$eq": [0], "$ne": [1, -1], "$gt": [1], "$gte": [0, 1], "$lt": [-1], "$lte": [-1, 0]}[operator]


@given(FILTERS, TEXT)
def test_filters_match_as_a_plain_reading_says(condition: dict[str, Any], text: str):
    parsed = parse_filter(condition, "tier")
    assert parsed is not None
    assert matches(parsed, text) is oracle(condition, text)


@given(st.text("\ud7ff\ue000\U00010000a", max_size=3), st.text("\ud7ff\ue000\U00010000a", min_size=1, max_size=3))
def test_order_is_that_of_the_bytes(text: str, value: str):
    parsed = parse_filter({"$gt": value}, "tier")
    assert parsed is not None
    assert matches(parsed, text) is (text.encode() > value.encode())


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("a", "tier: filter is invalid: must be an object"),
        ({"$eq": "a", "$ne": "b"}, "tier: filter is invalid: multiple operators are set"),
        ({"$eq": ""}, "tier: filter is invalid: format mismatch"),
        ({"$in": [""]}, "tier: filter is invalid: format mismatch"),
        ({"$eq": 1}, "tier: filter is invalid: value must be a string"),
        ({"$in": "a"}, r"tier: filter is invalid: \$in needs an array"),
        ({"$in": ["a"] * 1001}, "tier: filter is invalid: more than 1000 values"),
        ({"$exists": True}, r"tier: filter is invalid: unknown operator \$exists"),
        ({"$and": []}, r"tier: filter is invalid: \$and needs filters"),
        ({"$or": [{}]}, r"tier: filter is invalid: \$or needs filters"),
    ],
)
def test_bad_filters_are_refused(condition: Any, message: str):
    with pytest.raises(InvalidInput, match=f"^{message}$"):
        parse_filter(condition, "tier")


def test_nesting_is_bounded():
    condition: dict[str, Any] = {"$eq": "a"}
    for _ in range(10):
        condition = {"$and": [condition]}
    assert parse_filter(condition, "tier") is not None
    with pytest.raises(InvalidInput, match="filter complexity exceeds maximum allowed depth"):
        parse_filter({"$or": [condition]}, "tier")
    with pytest.raises(InvalidInput, match="filter complexity"):
        parse_filter({"$and": [{"$or": [{"$eq": "a"}]}]}, "tier", nesting_max=1)


def test_an_empty_object_is_no_filter():
    assert parse_filter({}, "tier") is None


@pytest.mark.timeout(10)
def test_a_pattern_of_wildcards_takes_no_exponential_time():
    parsed = parse_filter({"$like": "%a" * 200 + "b"}, "tier")
    assert parsed is not None
    assert not matches(parsed, "a" * 5000)


@given(
    st.sampled_from(["$eq", "$ne", "$in", "$nin", "$like", "$nlike", "$gt"]),
    st.lists(VALUE, min_size=1, max_size=3),
    TEXT,
)
def test_flat_filters_take_any_of_their_values(operator: Any, values: list[str], text: str):
    passed = matches(filter_of(DimensionFilter("tier", operator, tuple(values))), text)
    single = {"$in": "$eq", "$nin": "$ne"}.get(operator, operator)
    each = [oracle({single: value}, text) for value in values]
    assert passed is (all(each) if single in ("$ne", "$nlike") else any(each))
