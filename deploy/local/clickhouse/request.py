"""What an HTTP request asks of ClickHouse: pure, from its query string and headers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl

from deploy.local.clickhouse.failure import QueryFailed

_SETTING_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")
_UNKNOWN_SETTING = 115

# Parameters of the protocol, and settings that are about HTTP itself: the engine must not see them.
_NOT_SETTINGS = frozenset(
    {"query", "database", "default_format", "query_id", "user", "password", "role", "quota_key", "stacktrace"}
    | {"session_id", "session_timeout", "session_check", "close_session", "client_protocol_version"}
    | {"compress", "decompress", "enable_http_compression", "wait_end_of_query", "buffer_size"}
    | {"send_progress_in_http_headers", "cancel_http_readonly_queries_on_client_close"}
)


@dataclass(frozen=True, slots=True)
class Request:
    """`settings` are sorted (name, value) pairs; `parameters` are those of `{name:Type}` in the text, as sent."""

    query: str
    database: str
    default_format: str
    query_id: str | None
    settings: tuple[tuple[str, str], ...]
    parameters: dict[str, str]


def parse_request(query_string: bytes, headers: dict[bytes, bytes]) -> Request:
    """Raises `QueryFailed` for a setting whose name can't be one."""
    pairs = dict(parse_qsl(query_string.decode("latin-1"), keep_blank_values=True, encoding="utf-8"))
    parameters = {name.removeprefix("param_"): value for name, value in pairs.items() if name.startswith("param_")}
    settings = {
        name: value
        for name, value in pairs.items()
        if name not in _NOT_SETTINGS and not name.startswith(("param_", "http_"))
    }
    for name in settings:
        if not _SETTING_NAME.match(name):
            raise QueryFailed(_UNKNOWN_SETTING, f"Code: 115. DB::Exception: no such setting: {name}. (UNKNOWN_SETTING)")
    return Request(
        query=pairs.get("query", ""),
        database=pairs.get("database") or headers.get(b"x-clickhouse-database", b"").decode("latin-1") or "default",
        default_format=pairs.get("default_format")
        or headers.get(b"x-clickhouse-format", b"").decode("latin-1")
        or "TabSeparated",
        query_id=pairs.get("query_id"),
        settings=tuple(sorted(settings.items())),
        parameters=parameters,
    )
