"""String filters as SQL conditions. They select what `metering.domain.filters.matches` does."""

import re
from typing import Final, assert_never

from metering.clickhouse.statement import Sql, conjunction, disjunction, sql, text, texts
from metering.domain.filters import Compare, Every, OneOf, Some, StringFilter

_COMPARISONS: Final = {
    "$eq": "{column} = {value}",
    "$ne": "{column} != {value}",
    "$gt": "{column} > {value}",
    "$gte": "{column} >= {value}",
    "$lt": "{column} < {value}",
    "$lte": "{column} <= {value}",
    "$like": "{column} LIKE {value}",
    "$nlike": "{column} NOT LIKE {value}",
    "$ilike": "{column} ILIKE {value}",
    "$nilike": "{column} NOT ILIKE {value}",
}
_PATTERNS: Final = frozenset({"$like", "$nlike", "$ilike", "$nilike"})
_PART: Final = re.compile(r"\\[%_\\]|.", re.DOTALL)


def condition(column: Sql, wanted: StringFilter) -> Sql:
    """Whether the text in `column` passes."""
    match wanted:
        case Compare(operator, value):
            operand = like_pattern(value) if operator in _PATTERNS else value
            return sql(_COMPARISONS[operator], column=column, value=text(operand))
        case OneOf(values, negated):
            if not values:
                return sql("1" if negated else "0")
            return sql("{column} NOT IN {v}" if negated else "{column} IN {v}", column=column, v=texts(values))
        case Every(filters):
            return conjunction([condition(column, each) for each in filters])
        case Some(filters):
            return disjunction([condition(column, each) for each in filters])
    assert_never(wanted)


def like_pattern(pattern: str) -> str:
    """The pattern as ClickHouse reads it: a backslash that escapes nothing is written as one that is escaped."""
    parts = _PART.findall(pattern)
    return "".join("\\\\" if part == "\\" else part for part in parts)


def contains(column: Sql, part: str) -> Sql:
    """Whether the text in `column` has `part` in it, no wildcards, case-sensitive."""
    return sql("position({column}, {part}) > 0", column=column, part=text(part))
