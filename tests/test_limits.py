"""Limits that are exact across workers, and circuit breakers."""

import threading

from harness import http1, upstream
from harness.gateway import simple
from harness.load import Load
from harness.wait import until


def test_a_rate_limit_lets_exactly_its_number_through(tidegate, server):
    behind = server()
    gateway = tidegate(simple(behind, rate_limit={"requests": 20, "per": "hour"}), workers=2)
    report = Load(gateway.port, connections=8, count=200).__enter__().finish()
    assert report.statuses == {200: 20, 429: 180}
    assert len(behind.requests) == 20
    answer = gateway.get()
    assert answer.status == 429 and answer.error_code()
    assert answer.header("x-ratelimit-limit") and answer.header("x-ratelimit-remaining") == "0" and answer.header("x-ratelimit-reset")


def test_a_rate_limit_counts_each_key_on_its_own(tidegate, server):
    gateway = tidegate(simple(server(), rate_limit={"requests": 3, "per": "hour", "key": ["header:x-user"]}))
    for user in "abc":
        statuses = [gateway.get(headers=[("x-user", user)]).status for _ in range(5)]
        assert statuses == [200, 200, 200, 429, 429], user


def test_a_rate_limit_gives_back_with_time(tidegate, server):
    gateway = tidegate(simple(server(), rate_limit={"requests": 10, "per": "second", "burst": 1}))
    assert gateway.get().status == 200
    until(lambda: gateway.get().status == 200, 5, "a token after a tenth of a second", every=0.05)


def test_a_limit_survives_a_reload_that_does_not_change_it(tidegate, server):
    config = simple(server(), rate_limit={"requests": 2, "per": "hour"})
    gateway = tidegate(config)
    assert [gateway.get().status for _ in range(3)] == [200, 200, 429]
    config["routes"][0]["timeout"] = "20s"
    gateway.reload(config)
    assert gateway.get().status == 429


class Gauge:
    """A behaviour that knows how many requests it holds at once."""

    def __init__(self):
        self.now, self.peak, self.gate = 0, 0, threading.Event()

    async def __call__(self, _request, connection):
        import asyncio

        self.now += 1
        self.peak = max(self.peak, self.now)
        try:
            while not self.gate.is_set():
                await asyncio.sleep(0.005)
            await connection.respond(200, b"ok")
        finally:
            self.now -= 1


def hold(gateway, count):
    clients = [gateway.client() for _ in range(count)]
    for client in clients:
        client.send_request("GET", "/")
    return clients


def finish(clients):
    statuses = sorted(client.response().status for client in clients)
    for client in clients:
        client.close()
    return statuses


def test_a_concurrency_limit_is_exact_across_workers(tidegate, server):
    gauge = Gauge()
    behind = server(gauge)
    gateway = tidegate(simple(behind, concurrency={"requests": 5}), workers=2)
    clients = hold(gateway, 20)
    until(lambda: gauge.now == 5, what="five at the server")
    until(lambda: len([c for c in clients if _has_answer(c)]) == 15, what="fifteen refused")
    gauge.gate.set()
    assert finish(clients) == [200] * 5 + [429] * 15
    assert gauge.peak == 5
    assert gateway.get().status == 200


def _has_answer(client):
    import select

    return bool(client.buffer) or bool(select.select([client.sock], [], [], 0)[0])


def test_max_requests_opens_the_circuit_at_once_and_closes_it_again(tidegate, server):
    gauge = Gauge()
    gateway = tidegate(simple(server(gauge), upstream_more={"connection_pool": {"max_requests": 3}}), workers=2)
    clients = hold(gateway, 10)
    until(lambda: len([c for c in clients if _has_answer(c)]) == 7, what="seven refused")
    until(lambda: gauge.now == 3, what="three are at the server")
    gauge.gate.set()
    assert finish(clients) == [200] * 3 + [503] * 7
    assert gauge.peak == 3
    answer = gateway.get()
    assert answer.status == 200


def test_an_overflow_says_so(tidegate, server):
    gauge = Gauge()
    gateway = tidegate(simple(server(gauge), upstream_more={"connection_pool": {"max_requests": 1}}))
    held = hold(gateway, 1)
    until(lambda: gauge.now == 1)
    answer = gateway.get()
    assert answer.status == 503 and answer.error_code()
    assert "overload" in str(answer.headers).lower() or "overflow" in answer.error_code() or "circuit" in answer.error_code() or "limit" in answer.error_code()
    gauge.gate.set()
    finish(held)


def test_connections_are_bounded_and_a_freed_one_serves_who_waits(tidegate, server):
    gauge = Gauge()
    behind = server(gauge)
    workers = 2
    gateway = tidegate(simple(behind, upstream_more={"protocol": "http1", "connection_pool": {"max_connections": 4, "max_pending_requests": 100}}), workers=workers)
    clients = hold(gateway, 12)
    until(lambda: gauge.now >= 4, what="four at the server")
    gauge.gate.set()
    assert finish(clients) == [200] * 12
    # A worker that has none at all may open one beyond the bound: the others could starve it otherwise.
    assert 4 <= behind.peak_open <= 4 + workers - 1


def test_waiting_requests_are_bounded(tidegate, server):
    gauge = Gauge()
    gateway = tidegate(simple(server(gauge), upstream_more={"protocol": "http1", "connection_pool": {"max_connections": 2, "max_pending_requests": 3}}), workers=1)
    clients = hold(gateway, 10)
    until(lambda: len([c for c in clients if _has_answer(c)]) == 5, what="five refused")
    gauge.gate.set()
    assert finish(clients) == [200] * 5 + [503] * 5


def test_connections_end_after_their_requests(tidegate, server):
    behind = server()
    gateway = tidegate(simple(behind, upstream_more={"connection_pool": {"max_requests_per_connection": 5}}), workers=1)
    with gateway.client() as client:
        for _ in range(20):
            assert client.request("GET", "/").status == 200
    assert behind.accepted == 4


def test_a_listener_ends_connections_after_their_requests(tidegate, server):
    behind = server()
    gateway = tidegate(simple(behind), start=False)
    gateway.write({**simple(behind), "listeners": [{"name": "main", "address": f"127.0.0.1:{gateway.port}", "max_requests_per_connection": 3}]})
    gateway.start()
    with gateway.client() as client:
        answers = [client.request("GET", "/") for _ in range(3)]
        assert [a.header("connection") for a in answers][-1] == "close"
        assert client.at_end()
    report = Load(gateway.port, connections=2, count=60).__enter__().finish()
    assert report.statuses == {200: 60} and report.closed == 0


def test_a_connect_timeout_is_a_connect_failure(tidegate, server):
    """A socket whose queue is full answers no SYN: the try ends after connect_timeout and another member serves."""
    import socket
    import time

    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        plugs = []
        for _ in range(3):
            plug = socket.socket()
            plug.setblocking(False)
            plug.connect_ex(full.getsockname())
            plugs.append(plug)
        try:
            live = server()
            endpoints = [{"address": "127.0.0.1:%d" % full.getsockname()[1]}, {"address": live.address, "priority": 1}]
            gateway = tidegate(simple(*endpoints, upstream_more={"connection_pool": {"connect_timeout": "200ms"}, "panic_threshold": "0%"}))
            began = time.monotonic()
            assert gateway.request("POST", "/", body=b"x").status == 200
            assert 0.15 < time.monotonic() - began < 5
        finally:
            for plug in plugs:
                plug.close()


def test_an_answer_whose_head_is_no_http_is_502(tidegate, server):
    async def garbage(_request, connection):
        await connection.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        connection.close()

    async def two_framings(_request, connection):
        await connection.write(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        connection.close()

    async def two_lengths(_request, connection):
        await connection.write(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd")
        connection.close()

    async def large(_request, connection):
        await connection.write(b"HTTP/1.1 200 OK\r\nx: " + b"a" * (1 << 20) + b"\r\n\r\n")
        connection.close()

    for behaviour in (garbage, two_framings, two_lengths, large):
        gateway = tidegate(simple(server(behaviour), retry={"attempts": 1}))
        answer = gateway.get()
        assert answer.status == 502 and answer.error_code(), behaviour.__name__


def test_bytes_after_an_answer_are_never_taken_for_the_next_one(tidegate, server):
    """Response smuggling: the server sends a second answer that nobody asked for."""

    async def twice(_request, connection):
        await connection.write(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\noneHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison")

    gateway = tidegate(simple(server(twice)), workers=1)
    with gateway.client() as client:
        for _ in range(20):
            assert client.request("GET", "/").body == b"one"
    assert http1.get(gateway.port).body == b"one"
