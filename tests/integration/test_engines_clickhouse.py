"""The local ClickHouse through the plain client: what works against a server works here."""

from __future__ import annotations

import asyncio
import datetime as dt
import gzip
import http.client
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import clickhouse_connect
import pyarrow as pa
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, StreamFailureError
from urllib3.exceptions import HTTPError

from deploy.local.engines import Engines, Ports

BIG = Decimal("123456789012345678901234567890123456789012345678901234567890.123456789012")
NOON = dt.datetime(2024, 2, 29, 12, 0, 0, 123456, tzinfo=dt.UTC)


@pytest.fixture
def client(clickhouse_database):
    with clickhouse_connect.get_client(
        host=clickhouse_database.host,
        port=clickhouse_database.port,
        database=clickhouse_database.name,
        settings={"async_insert": 0},
        tz_mode="aware",
    ) as client:
        yield client


def send(database, path, body=b"", headers=None, method="POST"):
    connection = http.client.HTTPConnection(database.host, database.port, timeout=60)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def table_of(rows: int) -> pa.Table:
    return pa.table(
        {
            "n": pa.array(range(rows), pa.int64()),
            "wide": pa.array([BIG] * rows, pa.decimal256(76, 12)),
            "narrow": pa.array([Decimal("-1.5")] * rows, pa.decimal128(38, 12)),
            "tags": pa.array([["a", "b'\\"]] * rows, pa.list_(pa.string())),
            "at": pa.array([NOON] * rows, pa.timestamp("us", "UTC")),
        }
    )


WIDE = "(n Int64, wide Decimal(76, 12), narrow Decimal(38, 12), tags Array(String), at DateTime64(6, 'UTC'))"


def test_arrow_comes_back_as_it_went(client):
    client.command(f"CREATE TABLE wide {WIDE} ENGINE = MergeTree ORDER BY n")
    sent = table_of(200_000)
    summary = client.insert_arrow("wide", sent)
    assert int(summary.summary["written_rows"]) == 200_000
    back = client.query_arrow("SELECT * FROM wide ORDER BY n", use_strings=True)
    assert back.cast(sent.schema).equals(sent)
    with client.query_arrow_stream("SELECT * FROM wide ORDER BY n") as stream:
        streamed = list(stream)
    assert len(streamed) > 1
    assert pa.Table.from_batches(streamed).cast(sent.schema).equals(sent)
    assert client.query_arrow("SELECT n, at FROM wide WHERE n < 0").column_names == ["n", "at"]


def test_rows_come_back_as_they_went(client):
    client.command(f"CREATE TABLE wide {WIDE} ENGINE = MergeTree ORDER BY n")
    row = (1, BIG, Decimal("-1.500000000000"), ["x", "y"], NOON)
    client.insert("wide", [row], column_names=["n", "wide", "narrow", "tags", "at"])
    assert client.query("SELECT * FROM wide").result_rows == [row]


def test_an_empty_result_has_its_columns(client):
    result = client.query("SELECT number AS n, 'a' AS s FROM numbers(0) WHERE n = {n:UInt8}", parameters={"n": 1})
    assert (result.column_names, result.result_rows) == (("n", "s"), [])


def test_parameters_are_values_and_never_text(client):
    nasty = "a'b\\c\nd\t{x:String}`\";--"
    query = "SELECT {s:String}, {a:Array(String)}, {d:DateTime64(6)}, {n:Nullable(String)}, {i:Int64}, {b:Bool}"
    given = {"s": nasty, "a": [nasty, ""], "d_64": NOON.replace(tzinfo=None), "n": None, "i": -(2**63), "b": True}
    (row,) = client.query(query.replace("{d:", "{d:"), parameters=given).result_rows
    assert row[0] == nasty
    assert row[1] == [nasty, ""]
    assert row[3:] == (None, -(2**63), True)


def test_settings_hold_for_one_query_only(client):
    ask = "SELECT getSetting('max_block_size')"
    usual = client.query(ask).result_rows
    assert client.query(ask, settings={"max_block_size": 77}).result_rows == [(77,)]
    assert client.query(ask).result_rows == usual
    with pytest.raises(DatabaseError, match="UNKNOWN_SETTING"):
        client.raw_query("SELECT 1", settings={"no_such_setting": 1})
    assert client.query(ask).result_rows == usual


def test_a_session_statement_does_not_reach_others(clickhouse_database):
    usual = send(clickhouse_database, "/", b"SELECT getSetting('max_block_size')")[2]
    for _ in range(20):
        assert send(clickhouse_database, "/", b"SET max_block_size = 3")[0] == 200
    answers = {send(clickhouse_database, "/", b"SELECT getSetting('max_block_size')")[2] for _ in range(20)}
    assert answers == {usual}


def test_rows_stream_in_blocks(client):
    with client.query_row_block_stream("SELECT number, toString(number) FROM numbers(300000)") as stream:
        blocks = [len(block) for block in stream]
    assert sum(blocks) == 300_000
    assert len(blocks) > 1


def test_a_client_that_leaves_early_frees_its_place(clickhouse_database):
    for _ in range(40):  # more than may run at once
        with socket.create_connection((clickhouse_database.host, clickhouse_database.port)) as leaving:
            leaving.sendall(b"GET /?query=SELECT+number+FROM+system.numbers HTTP/1.1\r\nHost: x\r\n\r\n")
            assert leaving.recv(100).startswith(b"HTTP/1.1 200")
    assert send(clickhouse_database, "/", b"SELECT 1")[2] == b"1\n"


def test_a_query_that_fails_on_the_way_is_an_error(client):
    failing = "SELECT number, throwIf(number = 2000000) FROM numbers(3000000) SETTINGS max_threads = 1"
    with pytest.raises(StreamFailureError, match="throwIf"):
        assert client.query(failing).result_rows  # read when asked for
    with pytest.raises(HTTPError), client.query_arrow_stream(failing) as stream:
        list(stream)
    with pytest.raises(DatabaseError, match="throwIf"):
        client.query_arrow(failing)


@pytest.mark.parametrize("compression", ["lz4", "zstd", "gzip", False])
def test_inserts_of_all_compressions(clickhouse_database, compression):
    with clickhouse_connect.get_client(
        host=clickhouse_database.host,
        port=clickhouse_database.port,
        database=clickhouse_database.name,
        compress=compression,
    ) as client:
        client.command("CREATE TABLE t (n UInt32, s LowCardinality(String)) ENGINE = MergeTree ORDER BY n")
        client.insert("t", [[n, "x"] for n in range(50_000)], column_names=["n", "s"])
        assert client.query("SELECT count(), sum(n), any(s) FROM t").result_rows == [(50_000, 1_249_975_000, "x")]


@pytest.mark.parametrize(
    ("sql", "status", "code"),
    [
        (b"SELEC 1", 400, "62"),
        (b"SELECT * FROM no_such_table", 404, "60"),
        (b"SELECT * FROM no_such_database.t", 404, "81"),
        (b"SELECT no_such_column FROM (SELECT 1 AS n)", 404, "47"),
        (b"SELECT throwIf(1)", 500, "395"),
        (b"INSERT INTO no_such_table FORMAT CSV\n1", 404, "60"),
        (b"\xff", 400, "62"),
        (b"   ", 400, "62"),
    ],
)
def test_errors_have_a_servers_form(clickhouse_database, sql, status, code):
    got, headers, text = send(clickhouse_database, "/", sql)
    assert (headers["x-clickhouse-exception-code"], text[:6]) == (code, b"Code: ")
    assert got == status or code == "47"  # servers differ about unknown identifiers


def test_the_protocol_by_hand(clickhouse_database):
    name = clickhouse_database.name
    assert send(clickhouse_database, "/ping", method="GET")[2] == b"Ok.\n"
    assert send(clickhouse_database, "/", method="GET")[2] == b"Ok.\n"
    assert send(clickhouse_database, "/nowhere", method="GET")[0] == 404
    status, headers, text = send(
        clickhouse_database, "/?query=SELECT%201%20AS%20n&default_format=JSONEachRow", method="GET"
    )
    assert (status, text, headers["x-clickhouse-format"]) == (200, b'{"n":1}\n', "JSONEachRow")
    assert '"result_rows":"1"' in headers["x-clickhouse-summary"]
    assert send(clickhouse_database, "/?query=SELECT+1%2B&query_id=mine", b"2")[1]["x-clickhouse-query-id"] == "mine"
    assert send(clickhouse_database, "/?query=SELECT+1%2B", b"2")[2] == b"3\n"
    send(clickhouse_database, f"/?database={name}", b"CREATE TABLE t (n Int32) ENGINE = MergeTree ORDER BY n")
    packed = gzip.compress(b"1\n2\n")
    inserted = send(
        clickhouse_database, f"/?database={name}&query=INSERT+INTO+t+FORMAT+CSV", packed, {"Content-Encoding": "gzip"}
    )
    assert '"written_rows":"2"' in inserted[1]["x-clickhouse-summary"]
    send(clickhouse_database, f"/?database={name}", b"INSERT INTO t VALUES (3), (4)")
    assert send(clickhouse_database, f"/?database={name}", b"SELECT sum(n) FROM t FORMAT TSV")[2] == b"10\n"


def test_a_large_body_goes_over_the_disk(client):
    client.command("CREATE TABLE t (s String) ENGINE = MergeTree ORDER BY tuple()")
    client.raw_insert("t", ["s"], (b"x" * 1023 + b"\n") * 50_000, fmt="LineAsString", compression=None)
    assert client.query("SELECT count(), sum(length(s)) FROM t").result_rows == [(50_000, 50_000 * 1023)]


def test_a_client_that_dies_while_sending_has_written_nothing(client, clickhouse_database):
    client.command("CREATE TABLE t (n Int32) ENGINE = MergeTree ORDER BY n")
    path = f"/?database={clickhouse_database.name}&query=INSERT+INTO+t+FORMAT+CSV"
    with socket.create_connection((clickhouse_database.host, clickhouse_database.port)) as dying:
        dying.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n".encode() + b"1\n" * 1000)
    client.insert("t", [[7]], column_names=["n"])
    assert client.query("SELECT n FROM t").result_rows == [(7,)]


def test_many_queries_at_once_are_all_answered(clickhouse_database):
    async def ask() -> list[int]:
        client = await clickhouse_connect.get_async_client(host=clickhouse_database.host, port=clickhouse_database.port)
        try:
            queries = [
                client.query("SELECT sum(number) + {n:UInt32} FROM numbers(1000)", parameters={"n": n})
                for n in range(150)
            ]
            return [result.result_rows[0][0] for result in await asyncio.gather(*queries)]
        finally:
            await client.close()

    assert asyncio.run(ask()) == [499_500 + n for n in range(150)]


def test_a_slow_query_does_not_hold_up_a_quick_one(clickhouse_database):
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(
            send, clickhouse_database, "/", b"SELECT sleepEachRow(0.05) FROM numbers(60) SETTINGS max_block_size = 1"
        )
        assert send(clickhouse_database, "/", b"SELECT 1")[2] == b"1\n"
        assert not slow.done()
        assert slow.result()[0] == 200


def test_what_was_acknowledged_outlives_a_kill(tmp_path):
    """Inserts go on while the process is killed again and again: all that were acknowledged are there."""
    acknowledged: list[int] = []
    stopping = threading.Event()

    def insert(port: int) -> None:
        number = 0
        while not stopping.is_set():
            number += 1
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            try:
                connection.request("POST", "/?async_insert=0", body=f"INSERT INTO kept FORMAT CSV\n{number}\n".encode())
                if connection.getresponse().status == 200:
                    acknowledged.append(number)
            except (OSError, http.client.HTTPException):
                stopping.wait(0.02)
            finally:
                connection.close()

    ports = Ports.free()
    engines = Engines(tmp_path, ports)
    (tmp_path / "log").mkdir()
    clickhouse = engines.clickhouse
    clickhouse.start()
    try:
        clickhouse.wait_ready(time.monotonic() + 60)
        ddl = b"CREATE TABLE kept (n UInt64) ENGINE = MergeTree ORDER BY n SETTINGS fsync_after_insert = 1"
        connection = http.client.HTTPConnection("127.0.0.1", ports.clickhouse, timeout=30)
        connection.request("POST", "/", body=ddl)
        assert connection.getresponse().status == 200
        connection.close()
        thread = threading.Thread(target=insert, args=(ports.clickhouse,))
        thread.start()
        try:
            for _ in range(3):
                before, deadline = len(acknowledged), time.monotonic() + 60
                while len(acknowledged) < before + 20 and time.monotonic() < deadline:
                    time.sleep(0.01)
                clickhouse.restart()
        finally:
            stopping.set()
            thread.join()
        connection = http.client.HTTPConnection("127.0.0.1", ports.clickhouse, timeout=30)
        connection.request("POST", "/", body=b"SELECT n FROM kept")
        kept = {int(line) for line in connection.getresponse().read().split()}
        connection.close()
        assert len(acknowledged) >= 60
        assert set(acknowledged) <= kept
    finally:
        clickhouse.stop()
    assert clickhouse.exit_code() == 0  # asked to end, it ends by itself
