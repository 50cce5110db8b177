"""The pure parts of the local ClickHouse: statements, bodies, results, errors."""

from __future__ import annotations

import gzip
import io
import zlib

import lz4.frame
import pyarrow as pa
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from deploy.local.clickhouse.body import Body
from deploy.local.clickhouse.failure import QueryFailed, failure
from deploy.local.clickhouse.native import empty_native_block, hold_back, join_arrow_streams
from deploy.local.clickhouse.request import parse_request
from deploy.local.clickhouse.statement import insert_head, parse_query

QUOTED = st.one_of(
    st.text(st.characters(exclude_characters="'\\", exclude_categories=["Cs"])).map(lambda text: f"'{text}'"),
    st.sampled_from(["'FORMAT JSON'", r"'it\'s FORMAT CSV'", "'it''s'", '"FORMAT x"', "`FORMAT`", "$t$ FORMAT Y $t$"]),
    st.sampled_from(["/* FORMAT Z */ 1", "(SELECT 1 AS format)", "format(1)", "t.format", "[1, 2]", "-- FORMAT q\n 3"]),
)


@given(
    st.lists(QUOTED, min_size=1, max_size=5),
    st.sampled_from(["Native", "JSONEachRow", None]),
    st.sampled_from(["", ";", " ; ", "\n"]),
)
def test_only_the_real_format_clause_is_taken(expressions, output, end):
    sql = f"SELECT {', '.join(expressions)}"
    clause = f" FORMAT {output}" if output else ""
    parsed = parse_query(f"{sql}{clause}{end}")
    assert parsed.format == output
    assert parsed.sql.rstrip() == sql.rstrip()
    assert parsed.streamable


@pytest.mark.parametrize(
    ("sql", "without", "output"),
    [
        ("select 1 format JSON settings max_threads=1", "select 1   settings max_threads=1", "JSON"),
        ("SELECT format FROM t", "SELECT format FROM t", None),
        ("SELECT 1 AS format", "SELECT 1 AS format", None),
        ("SELECT 1 -- end", "SELECT 1", None),
        ("SHOW TABLES\n FORMAT Native", "SHOW TABLES", "Native"),
        ("", "", None),
    ],
)
def test_format_clauses(sql, without, output):
    parsed = parse_query(sql)
    assert (" ".join(parsed.sql.split()), parsed.format) == (" ".join(without.split()), output)


def test_which_statements_stream_and_which_change_the_session():
    assert parse_query("WITH 1 AS x SELECT x").streamable
    assert parse_query("(SELECT 1) UNION ALL (SELECT 2)").streamable
    assert not parse_query("INSERT INTO t SELECT 1").streamable
    assert parse_query("/* c */ set max_threads = 1").changes_session
    assert parse_query("USE other").changes_session
    assert not parse_query("SELECT 1").changes_session


@given(st.binary(max_size=200), st.sampled_from(["\n", " \n", "\r\n", " "]))
def test_an_inserts_data_is_left_as_it_is(data, gap):
    if gap == " ":  # nothing tells blanks of the data from the gap then
        data = b"x" + data
    head = insert_head(
        f"INSERT INTO `naïve FORMAT x`.t (a, `b FORMAT y`) SETTINGS s = 'FORMAT q' FORMAT Native{gap}".encode() + data
    )
    assert head is not None
    assert head.sql == "INSERT INTO `naïve FORMAT x`.t (a, `b FORMAT y`) SETTINGS s = 'FORMAT q'"
    assert head.format == "Native"
    full = (
        f"INSERT INTO `naïve FORMAT x`.t (a, `b FORMAT y`) SETTINGS s = 'FORMAT q' FORMAT Native{gap}".encode() + data
    )
    assert full[head.data_start :] == data


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1 FORMAT Native",
        "INSERT INTO t VALUES (1, 'FORMAT x')",
        "INSERT INTO t SELECT * FROM s FORMAT Native",
        "INSERT INTO t (format, values) VALUES (1, 2)",
        "INSERT INTO t FROM INFILE 'x' FORMAT CSV",
        "WITH 1 AS x INSERT INTO t SELECT x",
        "",
        "\x00\xff",
    ],
)
def test_what_is_no_insert_with_data(sql):
    assert insert_head(sql.encode("latin-1")) is None


def test_names_that_look_like_keywords():
    head = insert_head(b"insert into db.format (select) format CSV\n1")
    assert head is not None
    assert (head.sql, head.format) == ("insert into db.format (select)", "CSV")


COMPRESSORS = {
    "": bytes,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "lz4": lz4.frame.compress,
    "zstd": zstd.compress,
}


@given(st.lists(st.binary(max_size=300), max_size=4), st.integers(1, 50), st.sampled_from(sorted(COMPRESSORS)))
def test_bodies_of_several_frames_come_back_whole(frames, step, encoding):
    sent = b"".join(map(COMPRESSORS[encoding], frames))
    body = Body(encoding, bytes_max=1 << 20)
    for start in range(0, len(sent), step):
        body.write(sent[start : start + step])
    assert len(body) == len(sent)
    assert b"".join(body.read()) == b"".join(frames)
    body.close()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "lz4", "zstd"])
def test_a_torn_body_is_refused(encoding):
    body = Body(encoding, bytes_max=1 << 20)
    body.write(COMPRESSORS[encoding](b"some content" * 100)[:-3])
    with pytest.raises(QueryFailed, match="can't read the"):
        list(body.read())
    body.close()


@pytest.mark.parametrize("encoding", ["br", "lz4"])
def test_an_unreadable_body_is_refused(encoding):
    body = Body(encoding, bytes_max=1 << 20)
    body.write(b"no frame of anything")
    with pytest.raises(QueryFailed) as caught:
        list(body.read())
    assert caught.value.code == 271
    body.close()


def test_bodies_are_bounded():
    body = Body("", bytes_max=10)
    body.write(b"0123456789")
    with pytest.raises(QueryFailed, match="over 10 bytes") as caught:
        body.write(b"x")
    assert caught.value.status == 413
    body.close()


@given(st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5), min_size=1, max_size=5))
def test_joined_arrow_streams_read_as_one(parts):
    schema = pa.schema([("n", pa.int64())])

    def stream(values):
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, schema) as writer:
            writer.write_table(pa.table({"n": pa.array(values, pa.int64())}))
        return sink.getvalue()

    joined = b"".join(join_arrow_streams(map(stream, parts)))
    with pa.ipc.open_stream(joined) as reader:
        assert reader.read_all()["n"].to_pylist() == [value for part in parts for value in part]


@given(st.lists(st.binary(min_size=1, max_size=9), min_size=1, max_size=6))
def test_what_is_sent_ends_at_no_boundary_before_the_end(pieces):
    sent, late = b"", b""
    boundaries = {len(b"".join(pieces[:count])) for count in range(1, len(pieces) + 1)}
    for piece in pieces:
        ready, late = hold_back(late, piece)
        sent += ready
        assert len(sent) == 0 or len(sent) not in boundaries or len(piece) == 1
    assert sent + late == b"".join(pieces)


def test_no_pieces_are_no_stream():
    assert list(join_arrow_streams(iter(()))) == []


def test_an_empty_native_block_has_columns_and_no_rows():
    assert empty_native_block([("number", "UInt64")]) == b"\x01\x00\x06number\x06UInt64"
    assert empty_native_block([("a" * 200, "Int8")]).startswith(b"\x01\x00\xc8\x01aaa")


@pytest.mark.parametrize(
    ("text", "code", "status"),
    [
        ("Code: 60. DB::Exception: Unknown table. (UNKNOWN_TABLE)", 60, 404),
        ("Streaming failed: Code: 62. DB::Exception: Syntax error. (SYNTAX_ERROR)", 62, 400),
        ("Code: 241. DB::Exception: Memory limit exceeded", 241, 500),
        ("Code: 202. DB::Exception: too many", 202, 503),
        ("something else", 1002, 500),
    ],
)
def test_failures_have_a_servers_code_and_status(text, code, status):
    failed = failure(RuntimeError(text))
    assert (failed.code, failed.status) == (code, status)
    assert failed.message == text[text.find("Code:") :] if "Code:" in text else text


def test_requests_are_taken_apart():
    request = parse_request(
        b"query=SELECT+%7Bx%3AString%7D&param_x=a%26%C3%A9&max_threads=2&database=d&default_format=JSON&session_id=s"
        b"&query_id=q&http_headers_progress_interval_ms=1&wait_end_of_query=1&client_protocol_version=1&async_insert=0",
        {},
    )
    assert request.query == "SELECT {x:String}"
    assert request.parameters == {"x": "a&é"}
    assert request.settings == (("async_insert", "0"), ("max_threads", "2"))
    assert (request.database, request.default_format, request.query_id) == ("d", "JSON", "q")


def test_headers_name_database_and_format_too():
    request = parse_request(b"", {b"x-clickhouse-database": b"d", b"x-clickhouse-format": b"CSV"})
    assert (request.database, request.default_format) == ("d", "CSV")
    assert parse_request(b"", {}).database == "default"


def test_a_settings_name_can_not_carry_sql():
    with pytest.raises(QueryFailed) as caught:
        parse_request(b"max_threads%3D1%2C+readonly=0", {})
    assert caught.value.status == 404
