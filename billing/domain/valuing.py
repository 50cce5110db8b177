"""Which raw events count in a scope, and with which values: by the same readers as in the sink."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Final

from billing.domain.evidence import Scope, Used
from metering.domain.columns import US_PER_MINUTE, EventColumns
from metering.domain.event import event_key
from metering.domain.filters import matches
from metering.domain.jsonpath import parse_path
from metering.domain.meter import Aggregation
from metering.domain.reading import Reader, dimension_texts, numbers, unique_texts

_COUNTED: Final = Decimal(1)


def used(scope: Scope, columns: EventColumns) -> Iterator[Used]:
    """The events of the block that the filters let through and whose value the meter can use."""
    meter = scope.meter
    kept = _passing(scope, columns)
    values: Sequence[Decimal | str | None]
    if meter.aggregation is Aggregation.COUNT:
        values = [_COUNTED] * len(columns)
    else:
        path = meter.value_path or "$"
        (found,) = Reader([parse_path(path)]).read(columns.data)
        read = unique_texts if meter.aggregation is Aggregation.UNIQUE_COUNT else numbers
        values = read(found, path)[0].to_list()
    for i in kept:
        value = values[i]
        if value is None:
            continue
        yield Used(
            key=event_key(columns.namespace[i], columns.source[i], columns.id[i]),
            value=value,
            order=(
                columns.time_us[i],
                columns.ingest_us[i] // US_PER_MINUTE,
                columns.partition[i],
                columns.offset[i],
            ),
        )


def _passing(scope: Scope, columns: EventColumns) -> Sequence[int]:
    if not scope.filters:
        return range(len(columns))
    paths = dict(scope.meter.group_by)
    reader = Reader([parse_path(paths[name]) for name, _ in scope.filters])
    texts = [dimension_texts(column).to_list() for column in reader.read(columns.data)]
    return [
        i
        for i in range(len(columns))
        if all(matches(condition, column[i]) for (_, condition), column in zip(scope.filters, texts, strict=True))
    ]
