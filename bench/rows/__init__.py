"""The rows, in the order of the table. A new row is a module with a ROW and a line here."""

from bench.row import Row
from bench.rows import balance_checks, batches, end_to_end, event_to_balance, single_events, sink, usage_query

ROWS: dict[str, Row] = {
    module.ROW.name: module.ROW
    for module in (single_events, batches, sink, end_to_end, event_to_balance, balance_checks, usage_query)
}
