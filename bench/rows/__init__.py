"""The rows, in the order of the table. A new row is a module with a ROW and a line here."""

from bench.row import Row
from bench.rows import balance_checks, batches, single_events, sink, usage_query

ROWS: dict[str, Row] = {
    row.name: row for row in (single_events.ROW, batches.ROW, sink.ROW, balance_checks.ROW, usage_query.ROW)
}
