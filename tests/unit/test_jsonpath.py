from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.domain.errors import InvalidInput
from metering.domain.jsonpath import MISSING, parse_path

NAMES = st.sampled_from(["a", "b", "a.b", "x-y", "it's", 'q"q', "back\\slash", "é", "", "0"])
JSON = st.recursive(
    st.sampled_from([None, True, 0, 1.5, "", "text"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)
POSITIONS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 2)).map(lambda pair: (pair[0], pair[0] + pair[1])),
    min_size=1,
    max_size=3,
)
STEPS = st.lists(st.tuples(st.just("name"), NAMES) | st.tuples(st.just("at"), POSITIONS | st.just("*")), max_size=4)


def written(steps: list[Any]) -> str:
    text = "$"
    for kind, step in steps:
        if kind == "name" and step.isalnum():
            text += f".{step}"
        elif kind == "name":
            text += "['" + step.replace("\\", "\\\\").replace("'", "\\'") + "']"
        elif step == "*":
            text += "[*]"
        else:
            text += "[" + ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in step) + "]"
    return text


def found(data: Any, steps: list[Any]) -> list[Any]:
    level = [data]
    for kind, step in steps:
        following = []
        for value in level:
            if kind == "name" and isinstance(value, dict):
                following += [v for k, v in value.items() if k == step]
            elif kind == "at" and isinstance(value, list):
                ranges = [(0, len(value))] if step == "*" else step
                following += [value[i] for a, b in ranges for i in range(a, b + 1) if i < len(value)]
        level = following
    return level


@given(JSON, STEPS)
def test_the_first_scalar_is_found_then_the_first_object_or_array(data: Any, steps: list[Any]):
    values = found(data, steps)
    scalars = [value for value in values if not isinstance(value, list | dict)]
    expected = scalars[0] if scalars else values[0] if values else MISSING
    assert parse_path(written(steps)).find(data) is expected


@pytest.mark.parametrize(
    "text",
    ["", "a", " $.a", "$.", "$..a", "$a", "$.a b", "$.a-b", "$[", "$[]", "$[-1]", "$[1", "$[3 to 1]", "$[1to3]", "$[0,]", "$['a]",
     "$['a\"]", "$[?(@.a>1)]", "$.length()", "$.a\n", "$[1 to ]", "$[99999999999]", "$.\0", "$['\0']", "$['\ud800']",
     "$" + ".a" * 10_000, "$[\u0663]"],
)  # fmt: skip
def test_what_is_no_path_is_refused(text: str):
    with pytest.raises(InvalidInput, match=r"^invalid JSONPath"):
        parse_path(text)


def test_either_quote_and_blanks_in_brackets():
    assert parse_path("$[ \"a.b\" ]['c'][ 0 , 2 to 3 ]").find({"a.b": {"c": [[], 1, 2]}}) == 2
