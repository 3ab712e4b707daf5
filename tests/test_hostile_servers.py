"""Servers that misbehave, and what a panic would cost."""

import threading

import pytest

from harness import http1, http2, upstream
from harness.gateway import simple
from harness.http2 import request_headers
from harness.load import Load
from harness.process import resident_kib
from harness.wait import until


def test_a_server_that_sends_interim_answers_for_ever_is_given_up(tidegate, server):
    async def hints(_request, connection):
        while True:
            await connection.head(103, [("link", "</a>")])

    gateway = tidegate(simple(server(hints), timeout="2s", retry={"attempts": 1}))
    memory = resident_kib(gateway.roles()["gateway"])
    with gateway.client(timeout=20) as client:
        client.send_request("GET", "/")
        with pytest.raises((http1.Closed, AssertionError)):
            while True:
                answer = client.response_head()
                assert answer.status not in (502, 504)
                break
    assert resident_kib(gateway.roles()["gateway"]) - memory < 16 * 1024
    assert gateway.admin("/livez").status == 200


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nx: a\x00b\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx y: 1\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\nx: 1\n\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: 1\r\n folded\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
        b"",
    ],
)
def test_a_malformed_answer_is_a_bad_gateway_and_counts_against_the_member(tidegate, server, head):
    async def answer(_request, connection):
        await connection.write(head)
        connection.close()

    one = server(answer)
    gateway = tidegate(simple(one, retry={"attempts": 1}))
    got = gateway.get()
    assert got.status in (502, 503) and got.error_code(), got
    until(lambda: gateway.member(one)["failures"] == 1, what="counted")


ONE_CONNECTION = {"connection_pool": {"max_connections": 1}}


@pytest.mark.parametrize("named", [[("content-length", "45")], [("transfer-encoding", "chunked")]], ids=["length", "chunked"])
def test_a_body_after_an_answer_to_head_is_not_the_next_answer(tidegate, server, named):
    body = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
    late = threading.Event()

    async def answer(request, connection):
        import asyncio

        if request.method != "HEAD":
            return await connection.respond(200, b"right")
        await connection.head(200, named)
        # However late it comes: no time without a byte makes the connection safe.
        while not late.is_set():
            await asyncio.sleep(0.001)
        await connection.write(body)

    behind = server(answer)
    gateway = tidegate(simple(behind, upstream_more=ONE_CONNECTION), workers=1)
    for _ in range(3):
        late.clear()
        with gateway.client() as one, gateway.client() as other:
            assert one.request("HEAD", "/").status == 200
            until(lambda: gateway.member(behind)["connections"] == 0, what="the connection is closed")
            other.send_request("GET", "/")
            late.set()
            assert other.response().body == b"right"


def test_a_connection_is_kept_after_an_answer_that_names_no_body(tidegate, server):
    async def answer(request, connection):
        if request.target == "/empty":
            return await connection.head(204)
        if request.method == "HEAD":
            return await connection.head(200, [("content-length", "0")] if request.target == "/none" else [("x-model", "a")])
        await connection.respond(200, b"right")

    behind = server(answer)
    gateway = tidegate(simple(behind, upstream_more=ONE_CONNECTION), workers=1)
    with gateway.client() as client:
        for target in ("/", "/none"):
            assert client.request("HEAD", target).status == 200
            assert client.request("GET", "/empty").status == 204
            assert client.request("GET", "/").body == b"right"
    assert behind.accepted == 1


@pytest.mark.parametrize("size", [b"zz", b"-1", b"fffffffffffffffff", b""])
def test_a_broken_chunk_of_an_answer_ends_it_as_cut(tidegate, server, size):
    async def answer(_request, connection):
        await connection.head(200, [("transfer-encoding", "chunked")])
        await connection.chunk(b"good")
        await connection.write(size + b"\r\nbad\r\n0\r\n\r\n")
        connection.close()

    gateway = tidegate(simple(server(answer)))
    with pytest.raises(http1.Closed):
        gateway.get()
    with http2.Client(gateway.port) as client:
        stream = client.response(client.request())
        assert stream.reset and not stream.ended


def test_a_server_that_resets_every_stream_is_ejected_and_the_other_serves(tidegate, server):
    bad, good = server(upstream.reset()), server()
    detection = {"consecutive_local_origin": 5, "base_ejection_time": "60s"}
    gateway = tidegate(simple(bad, good, upstream_more={"balance": "round_robin", "outlier_detection": detection}, retry={"attempts": 3, "on": ["reset"], "budget": "off"}))
    report = Load(gateway.port, connections=4, count=300).__enter__().finish()
    assert report.statuses == {200: 300}
    assert gateway.member(bad)["state"] == "ejected"
    assert len(bad.requests) < 30


def test_a_slow_trickle_of_heads_holds_only_its_own_request(tidegate, server):
    gate = threading.Event()

    async def trickle(_request, connection):
        import asyncio

        for byte in b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok":
            await connection.write(bytes([byte]))
            await asyncio.sleep(0 if gate.is_set() else 0.01)

    gateway = tidegate(simple(server(trickle)), workers=1)
    clients = [gateway.client() for _ in range(20)]
    for client in clients:
        client.send_request("GET", "/")
    assert gateway.admin("/readyz").status == 200
    gate.set()
    assert [client.response().body for client in clients] == [b"ok"] * 20
    for client in clients:
        client.close()


def test_many_streams_of_one_caller_do_not_starve_another(tidegate, server):
    slow = server(upstream.by_path({"/slow": upstream.delay(1)}, upstream.ok()))
    gateway = tidegate(simple(slow), workers=1)
    with http2.Client(gateway.port) as busy:
        for _ in range(200):
            busy.request(request_headers(path="/slow"))
        until(lambda: len(slow.requests) >= 100, what="a hundred under way")
        report = Load(gateway.port, connections=2, count=100, target="/quick").__enter__().finish()
    assert report.statuses == {200: 100} and report.longest < 1.5
