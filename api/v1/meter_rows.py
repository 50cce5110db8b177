"""Rows of usage as the answer of a meter query, in JSON and in CSV."""

import csv
import io
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

import msgspec
from fastapi import Response

from api.wire import Number, Timestamp, Wire
from metering.domain.usage import CUSTOMER_ID, SUBJECT, UsageQuery, UsageRow
from metering.domain.window import WindowSize

CSV: Final = "text/csv"
JSON: Final = "application/json"
_DECIMALS_MIN: Final = 6


class MeterQueryRow(Wire, omit_defaults=False):
    """Usage of a window, or of the whole range, and of a group. `subject` is null unless grouped by it."""

    value: Number
    window_start: Timestamp
    window_end: Timestamp
    subject: str | None
    group_by: dict[str, str]
    customer_id: str | msgspec.UnsetType = msgspec.UNSET


class MeterQueryResult(Wire, rename={"from_": "from", "window_size": "windowSize"}):
    """The answer. `from`, `to` and `windowSize` are as they were asked."""

    data: list[MeterQueryRow]
    from_: Timestamp | None = None
    to: Timestamp | None = None
    window_size: WindowSize | None = None


def query_result(
    query: UsageQuery, rows: Iterable[UsageRow], *, from_text: str | None, to_text: str | None
) -> MeterQueryResult:
    """The rows on the wire. Bounds that stand for windows are printed as they were sent."""
    whole = query.window is None
    data = [
        MeterQueryRow(
            value=row.value,
            window_start=from_text if whole and from_text is not None else _local(row.window_start, query),
            window_end=to_text if whole and to_text is not None else _local(row.window_end, query),
            subject=row.subject,
            group_by=dict(row.group_by),
            customer_id=msgspec.UNSET if row.customer_id is None else row.customer_id,
        )
        for row in rows
    ]
    return MeterQueryResult(data=data, from_=from_text, to=to_text, window_size=query.window)


def csv_response(slug: str, query: UsageQuery, rows: Iterable[UsageRow], names: Mapping[str, str]) -> Response:
    """A file with a header line. `names` are the display names of the subjects that are known as such."""
    by_subject, named = SUBJECT in query.group_by, bool(names)
    columns = [name for name in query.group_by if name != SUBJECT]
    header = ["window_start", "window_end", *(["subject"] if by_subject else [])]
    header += ["subject_display_name"] if by_subject and named else []
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*header, *columns, "value"])
    for row in rows:
        cells = [_local(row.window_start, query, seconds=True), _local(row.window_end, query, seconds=True)]
        if by_subject:
            cells.append(row.subject or "")
            cells += [names.get(row.subject or "", "")] if named else []
        cells += [row.customer_id or "" if name == CUSTOMER_ID else row.group_by[name] for name in columns]
        writer.writerow([*cells, csv_number(row.value)])
    headers = {"Content-Type": CSV, "Content-Disposition": f"attachment; filename={slug}.csv"}
    return Response(text.getvalue(), headers=headers)


def csv_number(value: Decimal) -> str:
    """With six decimals, and more where they are needed: no digit is lost."""
    whole, _, fraction = f"{value:f}".partition(".")
    return f"{whole}.{fraction.ljust(_DECIMALS_MIN, '0')}"


def wants_csv(accept: str) -> bool:
    """Whether CSV is what the Accept header likes better than JSON; JSON wins a tie."""
    likes = [_like(each) for each in accept.split(",") if each.strip()]
    return _quality(likes, CSV) > _quality(likes, JSON)


def _like(text: str) -> tuple[str, float]:
    kind, *parameters = [part.strip().lower() for part in text.split(";")]
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return kind, float(value)
            except ValueError:
                return kind, 0.0
    return kind, 1.0


def _quality(likes: list[tuple[str, float]], wanted: str) -> float:
    """By the most specific range that covers it, as RFC 9110 has it."""
    for covering in (wanted, f"{wanted.partition('/')[0]}/*", "*/*"):
        found = [quality for kind, quality in likes if kind == covering]
        if found:
            return max(found)
    return 0.0


def _local(at: datetime, query: UsageQuery, *, seconds: bool = False) -> str:
    """With the offset that the zone of the windows has at that instant; bounds of the range keep their own."""
    given = query.window is None and at in (query.start, query.end)
    local = at if given else at.astimezone(query.zone)
    if local.utcoffset() == UTC.utcoffset(None):
        local = local.replace(tzinfo=UTC)
    return local.isoformat(timespec="seconds" if seconds else "auto").replace("+00:00", "Z")
