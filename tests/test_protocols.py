"""What HTTP can do passes through: upgrades, trailers, interim answers, both versions on one port, big and slow bodies."""

import asyncio
import os
import socket
import threading
import time

import pytest

from harness import http1, http2, upstream
from harness.gateway import route, simple, upstream as pool
from harness.http2 import request_headers
from harness.net import free_port
from harness.process import resident_kib
from harness.wait import until

MIB = 1 << 20


def gateway_memory(gateway):
    return resident_kib(gateway.roles().get("gateway", gateway.process.pid))


# --- versions -------------------------------------------------------------------------------------


def test_http1_and_http2_share_a_port(tidegate, server):
    gateway = tidegate(simple(server(upstream.ok(b"same"))))
    assert gateway.get().body == b"same"
    with http2.Client(gateway.port) as client:
        stream = client.response(client.request())
        assert (stream.status, stream.body) == (200, b"same")
        streams = [client.request(request_headers(path=f"/{n}")) for n in range(100)]
        assert {client.response(n).status for n in streams} == {200}


def test_http10_callers_get_an_answer_that_ends_with_the_connection(tidegate, server):
    gateway = tidegate(simple(server(upstream.sse(3))))
    back = http1.exchange_raw(gateway.port, b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
    assert back.startswith(b"HTTP/1.1 200") or back.startswith(b"HTTP/1.0 200")
    assert b"chunked" not in back.lower() and back.endswith(b"data: 0\n\ndata: 1\n\ndata: 2\n\n")


def test_head_answers_have_the_length_and_no_body(tidegate, server):
    async def head(_request, connection):
        await connection.head(200, [("content-length", 1234)])

    gateway = tidegate(simple(server(head)))
    with gateway.client() as client:
        for _ in range(3):
            answer = client.request("HEAD", "/")
            assert (answer.status, answer.header("content-length"), answer.body) == (200, "1234", b"")
    with http2.Client(gateway.port) as two:
        stream = two.response(two.request(request_headers("HEAD")))
        assert (stream.status, stream.header("content-length"), stream.body) == (200, "1234", b"")


@pytest.mark.parametrize("status", [204, 304])
def test_answers_without_a_body_end_at_their_head(tidegate, server, status):
    async def bare(_request, connection):
        await connection.head(status, [("etag", "x")])

    gateway = tidegate(simple(server(bare)))
    with gateway.client() as client:
        for _ in range(3):
            answer = client.request("GET", "/")
            assert answer.status == status and answer.header("transfer-encoding") is None


def test_a_connection_is_used_again_on_both_sides(tidegate, server):
    behind = server()
    gateway = tidegate(simple(behind), workers=1)
    with gateway.client() as client:
        for _ in range(50):
            assert client.request("GET", "/").status == 200
    assert behind.accepted == 1


# --- trailers and interim answers -----------------------------------------------------------------


def test_trailers_pass_both_ways(tidegate, server):
    behind = server(upstream.trailers(b"body", [("x-checksum", "abc")]))
    gateway = tidegate(simple(behind))
    with gateway.client() as client:
        client.send(http1.head("POST", "/", [("host", "a"), ("te", "trailers"), ("transfer-encoding", "chunked")]) + http1.chunked([b"ab"], [("x-sum", "1")]))
        answer = client.response()
    assert answer.trailers == [("x-checksum", "abc")]
    assert behind.requests[0].trailers == [("x-sum", "1")]
    with http2.Client(gateway.port) as two:
        stream = two.response(two.request(request_headers("POST", more=[("te", "trailers")]), b"ab", trailers=[("x-sum", "2")]))
    assert dict(stream.trailers) == {"x-checksum": "abc"}
    assert behind.requests[1].trailers == [("x-sum", "2")]


def test_framing_headers_in_trailers_are_dropped(tidegate, server):
    behind = server(upstream.echo())
    gateway = tidegate(simple(behind))
    with gateway.client() as client:
        client.send(http1.head("POST", "/", [("host", "a"), ("transfer-encoding", "chunked")]) + http1.chunked([b"ab"], [("content-length", "9"), ("host", "evil"), ("x", "1")]))
        client.response_head()
    until(lambda: behind.requests[0].complete)
    assert [name for name, _ in behind.requests[0].trailers if name in ("content-length", "host", "transfer-encoding")] == []


def test_early_hints_pass_through(tidegate, server):
    gateway = tidegate(simple(server(upstream.interim(103, [("link", "</a.css>; rel=preload")], upstream.ok(b"page")))))
    answer = gateway.get()
    assert [(code, dict(fields)["link"]) for code, fields in answer.interim] == [(103, "</a.css>; rel=preload")]
    assert answer.body == b"page"
    with http2.Client(gateway.port) as two:
        stream = two.response(two.request())
        assert [code for code, _ in stream.interim] == [103] and stream.body == b"page"


def test_interim_answers_lose_what_is_for_one_hop_only(tidegate, server):
    fields = [("link", "</a.css>; rel=preload"), ("connection", "x-hop"), ("x-hop", "1"), ("keep-alive", "timeout=5")]
    gateway = tidegate(simple(server(upstream.interim(103, fields))))
    hop = {"connection", "x-hop", "keep-alive"}
    assert not hop & set(dict(gateway.get().interim[0][1]))
    with http2.Client(gateway.port) as two:
        stream = two.response(two.request())
        assert stream.status == 200 and not hop & set(dict(stream.interim[0][1]))


def test_the_words_behind_a_status_pass(tidegate, server):
    async def answer(_request, connection):
        await connection.write(b"HTTP/1.1 200 Quite Well\r\ncontent-length: 0\r\n\r\n")

    gateway = tidegate(simple(server(answer)))
    with gateway.client() as client:
        assert [client.request("GET", "/").reason for _ in range(2)] == ["Quite Well"] * 2
    with http2.Client(gateway.port) as two:
        assert two.response(two.request()).status == 200


def test_an_answer_of_our_own_to_head_has_no_body(tidegate, server):
    gateway = tidegate(simple(server(), match={"path": {"prefix": "/known"}}))
    with gateway.client() as one:
        for _ in range(2):
            one.send_request("HEAD", "/")
            assert one.response(head_request=True).status == 404
    with http2.Client(gateway.port) as two:
        stream = two.response(two.request(http2.request_headers("HEAD")))
        assert stream.status == 404 and stream.ended and stream.body == b""
        assert int(stream.header("content-length")) > 0


def test_expect_continue_is_asked_of_the_server(tidegate, server):
    behind = server(upstream.echo())
    gateway = tidegate(simple(behind))
    with gateway.client() as client:
        client.send(http1.head("POST", "/", [("host", "a"), ("expect", "100-continue"), ("content-length", 5)]))
        assert client.line() == b"HTTP/1.1 100 Continue"
        assert client.line() == b""
        client.send(b"hello")
        answer = client.response()
    assert (answer.status, answer.body) == (200, b"hello")


def test_a_refusal_instead_of_continue_reaches_the_caller_before_its_body(tidegate, server):
    async def refuse(_request, connection):
        await connection.respond(403, b"no")
        connection.close()

    gateway = tidegate(simple(server(refuse, read_body=False)))
    with gateway.client() as client:
        client.send(http1.head("POST", "/", [("host", "a"), ("expect", "100-continue"), ("content-length", 5)]))
        answer = client.response()
    assert (answer.status, answer.body, answer.interim) == (403, b"no", [])


def test_an_early_answer_passes_while_the_body_is_still_coming(tidegate, server):
    async def early(_request, connection):
        await connection.respond(200, b"early")
        connection.close()

    gateway = tidegate(simple(server(early, read_body=False)))
    with gateway.client() as client:
        client.send(http1.head("POST", "/", [("host", "a"), ("content-length", 10 * MIB)]) + b"x" * 1000)
        answer = client.response()
    assert (answer.status, answer.body) == (200, b"early")


# --- upgrades -------------------------------------------------------------------------------------


def test_bytes_pass_both_ways_after_a_websocket_handshake(tidegate, server):
    gateway = tidegate(simple(server(upstream.websocket())))
    with gateway.client() as client:
        client.send(http1.head("GET", "/chat", [("host", "a"), ("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", 13), ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")]))
        answer = client.response_head()
        assert answer.status == 101
        assert answer.header("sec-websocket-accept") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        assert answer.header("upgrade") == "websocket" and "upgrade" in answer.header("connection").lower()
        for size in (1, 125, 70_000):
            data = os.urandom(size)
            client.send(data)
            assert client.exactly(size) == data


def test_a_websocket_to_a_real_server_and_its_close_pass(tidegate):
    import websockets.sync.client
    import websockets.sync.server

    def talk(connection):
        for message in connection:
            connection.send(message[::-1])

    with websockets.sync.server.serve(talk, "127.0.0.1", 0, compression=None) as real:
        thread = threading.Thread(target=real.serve_forever, daemon=True)
        thread.start()
        gateway = tidegate(simple(real.socket.getsockname()[1]))
        with websockets.sync.client.connect(f"ws://127.0.0.1:{gateway.port}/", open_timeout=10, compression=None) as client:
            for message in ("hello", "ä" * 5000, b"\0\1\2"):
                client.send(message)
                assert client.recv(timeout=10) == message[::-1]
            client.close(1000, "done")
        assert client.protocol.close_code == 1000
        real.shutdown()
        thread.join(10)


def test_a_refused_upgrade_is_an_ordinary_answer(tidegate, server):
    gateway = tidegate(simple(server(upstream.status(403, b"no"))))
    with gateway.client() as client:
        client.send(http1.head("GET", "/", [("host", "a"), ("connection", "Upgrade"), ("upgrade", "websocket")]))
        assert client.response().status == 403
        assert client.request("GET", "/").status == 403


def test_one_end_of_a_tunnel_that_closes_closes_the_other(tidegate, server):
    behind = server(upstream.websocket())
    gateway = tidegate(simple(behind))
    with gateway.client() as client:
        client.send(http1.head("GET", "/", [("host", "a"), ("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-key", "x")]))
        assert client.response_head().status == 101
        until(lambda: behind.open)
    until(lambda: not behind.open, what="the server's side closed")


# --- bodies ---------------------------------------------------------------------------------------


def test_server_sent_events_pass_one_by_one(tidegate, server):
    gate = threading.Event()
    gateway = tidegate(simple(server(upstream.sse(5, gate=gate))))
    with gateway.client() as client:
        client.send_request("GET", "/")
        answer = client.response_head()
        assert answer.header("content-type") == "text/event-stream"
        assert client.read_chunk() == b"data: 0\n\n"  # while the server holds back the rest
        gate.set()
        assert client.read_body(answer).body.count(b"data:") == 4


def test_a_caller_that_leaves_a_stream_stops_it_at_the_server(tidegate, server):
    behind = server(upstream.sse(100_000, 0.001))
    gateway = tidegate(simple(behind))
    with gateway.client() as client:
        client.send_request("GET", "/")
        client.response_head()
        client.read_chunk()
    until(lambda: not behind.open, 10, "the server's connection closed")


def big():
    """Bytes of the large bodies: 1 GiB, or what $TIDEGATE_TEST_BIG_MIB says."""
    return int(os.environ.get("TIDEGATE_TEST_BIG_MIB", "1024")) * MIB


def watched(gateway, action):
    """Runs the action; the gateway's growth in KiB at its worst."""
    base, peak, done = gateway_memory(gateway), [0], threading.Event()

    def watch():
        while not done.wait(0.02):
            peak[0] = max(peak[0], gateway_memory(gateway))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        action()
    finally:
        done.set()
        watcher.join()
    return max(0, peak[0] - base)


def test_a_gibibyte_up_is_streamed_in_bounded_memory(tidegate, server):
    gateway = tidegate(simple(server(upstream.swallow(), read_body=False)))
    gateway.get(headers=[("content-length", "0")])
    total, piece = big(), b"u" * (256 * 1024)

    def upload():
        with gateway.client(timeout=120) as client:
            client.send(http1.head("POST", "/", [("host", "a"), ("content-length", total)]))
            for _ in range(total // len(piece)):
                client.send(piece)
            assert client.response().body == str(total).encode()

    grown = watched(gateway, upload)
    print(f"grew by {grown} KiB")
    assert grown < 10 * 1024


def test_a_gibibyte_down_is_streamed_in_bounded_memory(tidegate, server):
    total = big()
    gateway = tidegate(simple(server(upstream.by_path({"/big": upstream.download(total)}, upstream.ok()))))
    gateway.get()

    def download():
        with gateway.client(timeout=120) as client:
            client.send_request("GET", "/big")
            answer = client.response_head()
            left = int(answer.header("content-length")) - len(client.buffer)
            assert left + len(client.buffer) == total
            while left:
                data = client.sock.recv(min(left, MIB))
                assert data
                left -= len(data)

    grown = watched(gateway, download)
    print(f"grew by {grown} KiB")
    assert grown < 10 * 1024


def test_a_slow_reader_stops_the_server_instead_of_filling_memory(tidegate, server):
    """One byte at a time: the answer of 256 MiB stays where it comes from."""
    sent = [0]

    async def pour(_request, connection):
        await connection.head(200, [("content-length", 256 * MIB)])
        try:
            while sent[0] < 256 * MIB:
                await connection.write(b"p" * 65536)
                sent[0] += 65536
        finally:
            connection.close()

    gateway = tidegate(simple(server(pour)))
    base = gateway_memory(gateway)
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", gateway.port))
        slow.settimeout(10)
        slow.sendall(http1.head("GET", "/", [("host", "a")]))
        last, still = -1, 0
        deadline = time.monotonic() + 30
        while still < 20:  # the server stands still for a second while the client reads byte by byte
            assert time.monotonic() < deadline, "the server is never held back"
            assert len(slow.recv(1)) == 1
            time.sleep(0.05)
            still = still + 1 if sent[0] == last else 0
            last = sent[0]
        assert sent[0] < 32 * MIB, "buffered on the way"
        assert gateway_memory(gateway) - base < 10 * 1024
        assert gateway.admin("/livez").status == 200


def test_a_slow_server_holds_back_a_fast_sender(tidegate, server):
    got = [0]
    gate = threading.Event()

    async def sip(request, connection):
        while not gate.is_set():
            await asyncio.sleep(0.01)
        left = int(request.header("content-length"))
        while left:
            data = await connection.reader.read(min(left, 1 << 18))
            left -= len(data)
            got[0] += len(data)
        await connection.respond(200, b"ok")

    gateway = tidegate(simple(server(sip, read_body=False)))
    base, total = gateway_memory(gateway), 256 * MIB
    with gateway.client(timeout=60) as client:
        client.send(http1.head("POST", "/", [("host", "a"), ("content-length", total)]))
        client.sock.settimeout(1)
        sent, piece = 0, b"s" * 65536
        with pytest.raises(socket.timeout):
            while sent < total:
                sent += client.sock.send(piece[: total - sent])
        assert sent < 64 * MIB
        assert gateway_memory(gateway) - base < 10 * 1024
        client.sock.settimeout(60)
        gate.set()
        while sent < total:
            sent += client.sock.send(piece[: total - sent])
        assert client.response().status == 200
    assert got[0] == total


def test_a_long_stream_keeps_flowing(tidegate, server):
    """Ten minutes when asked ($TIDEGATE_TEST_LONG_SECONDS=600); shorter in the daily run."""
    seconds = float(os.environ.get("TIDEGATE_TEST_LONG_SECONDS", "20"))
    events = int(seconds / 0.1)
    gateway = tidegate(simple(server(upstream.sse(events, 0.1)), idle_timeout="5s", timeout="off"))
    base = gateway_memory(gateway)
    with gateway.client(timeout=10) as client:
        client.send_request("GET", "/")
        answer = client.response_head()
        body = client.read_body(answer).body
    assert body.count(b"data:") == events
    assert gateway_memory(gateway) - base < 4 * 1024


test_a_long_stream_keeps_flowing = pytest.mark.timeout(float(os.environ.get("TIDEGATE_TEST_LONG_SECONDS", "20")) + 120)(test_a_long_stream_keeps_flowing)


def test_ten_thousand_idle_connections_cost_little_and_all_still_work(tidegate, server):
    """The promise is 30 MiB in all with one worker; each connection has made a request before it idles."""
    import resource

    count = int(os.environ.get("TIDEGATE_TEST_IDLE", "10000"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 500
    assert hard == resource.RLIM_INFINITY or hard >= wanted, f"needs {wanted} descriptors, the limit is {hard}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    gateway = tidegate(simple(server()), workers=1)
    clients = []

    def answered(client):
        got = b""
        while not got.endswith(b"\r\n\r\nok"):
            more = client.recv(4096)
            if not more:
                return False
            got += more
        return got.startswith(b"HTTP/1.1 200")

    try:
        data = http1.head("GET", "/", [("host", "a")])
        for number in range(count):
            client = socket.socket()
            client.connect(("127.0.0.1", gateway.port))
            client.settimeout(20)
            clients.append(client)
            client.sendall(data)
            assert answered(client)
        until(lambda: sum(each["connections"] for each in gateway.api("listeners")) >= count, what="all connections open")
        memory = gateway_memory(gateway)
        print(f"{memory / 1024:.1f} MiB with {count} idle connections")
        assert memory < 30 * 1024
        for each in clients[:: max(1, count // 200)]:
            each.sendall(data)
        for each in clients[:: max(1, count // 200)]:
            assert answered(each)
    finally:
        for each in clients:
            each.close()
    until(lambda: sum(each["connections"] for each in gateway.api("listeners")) <= 1, 20, "all connections gone")


# --- headers --------------------------------------------------------------------------------------


def test_hop_by_hop_headers_stop_here(tidegate, server):
    behind = server(upstream.ok(b"ok", [("connection", "x-private"), ("x-private", "1"), ("keep-alive", "5"), ("x-public", "2"), ("proxy-connection", "x")]))
    gateway = tidegate(simple(behind))
    answer = gateway.get(headers=[("connection", "keep-alive, x-mine"), ("x-mine", "1"), ("keep-alive", "5"), ("te", "gzip, trailers"), ("proxy-connection", "x"), ("x-other", "2"), ("upgrade", "h2c"), ("proxy-authorization", "secret")])
    arrived = behind.requests[0]
    for name in ("x-mine", "keep-alive", "proxy-connection", "upgrade", "http2-settings"):
        assert arrived.header(name) is None, name
    assert arrived.header("te") in (None, "trailers") and arrived.header("x-other") == "2"
    assert answer.header("x-private") is None and answer.header("keep-alive") is None and answer.header("x-public") == "2"


def test_forwarding_headers_name_the_caller_and_strangers_cannot_forge_them(tidegate, server):
    behind = server()
    gateway = tidegate(simple(behind))
    gateway.get(headers=[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-proto", "https"), ("forwarded", "for=6.6.6.6")])
    arrived = behind.requests[0]
    assert arrived.header("x-forwarded-for").endswith("127.0.0.1")
    assert arrived.header("x-forwarded-proto") == "http"
    assert "6.6.6.6" not in (arrived.header("forwarded") or "") or arrived.header("forwarded").count("for=") >= 2
    assert "tidegate" in arrived.header("via").lower()


def test_trusted_hops_are_believed(tidegate, server):
    behind = server()
    gateway = tidegate(simple(behind), start=False)
    config = {
        "routes": [
            {"name": "inside", "match": {"source": {"cidr": ["10.0.0.0/8"]}}, "respond": {"body": "inside"}},
            route("up", name="rest"),
        ],
        "upstreams": [pool("up", behind)],
        "listeners": [{"name": "main", "address": f"127.0.0.1:{gateway.port}", "trusted_hops": 1}],
    }
    gateway.write(config)
    gateway.start()
    assert gateway.get(headers=[("x-forwarded-for", "10.1.2.3")]).body == b"inside"
    assert gateway.get(headers=[("x-forwarded-for", "10.1.2.3, 9.9.9.9")]).body == b"ok"
    assert gateway.get().body == b"ok"
    gateway.get(headers=[("x-forwarded-for", "9.9.9.9"), ("x-forwarded-proto", "https")])
    assert behind.requests[-1].header("x-forwarded-for") == "9.9.9.9, 127.0.0.1"
    assert behind.requests[-1].header("x-forwarded-proto") == "https"


def test_every_request_has_an_id_and_a_given_id_or_trace_goes_on(tidegate, server):
    behind = server()
    gateway = tidegate(simple(behind))
    gateway.get(headers=[("tracestate", "a=b")])
    first = behind.requests[0]
    assert first.header("x-request-id")
    assert first.header("traceparent") is None and first.header("tracestate") is None
    given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    gateway.get(headers=[("x-request-id", "mine"), ("traceparent", given), ("tracestate", "a=b")])
    second = behind.requests[1]
    assert second.header("x-request-id") == "mine"
    assert second.header("traceparent") == given, "nothing is recorded here, so the caller's span stays the parent"
    assert second.header("tracestate") == "a=b"
    gateway.get(headers=[("traceparent", given + "0"), ("tracestate", "a=b")])
    third = behind.requests[2]
    assert third.header("traceparent") is None and third.header("tracestate") is None


def test_a_body_and_headers_arrive_as_they_were_sent(tidegate, server):
    behind = server(upstream.echo())
    gateway = tidegate(simple(behind))
    for size in (0, 1, 1023, 65_536, 3 * MIB + 7):
        data = os.urandom(size)
        assert gateway.request("POST", "/a/b;c=1?x=%20y&z", [("X-Mixed-Case", "v"), ("x-twice", "1"), ("x-twice", "2")], data).body == data
        assert gateway.request("POST", "/", [], [data[: size // 2], data[size // 2 :]]).body == data
    first = behind.requests[0]
    assert first.target == "/a/b;c=1?x=%20y&z"
    assert [v for k, v in first.headers if k == "x-twice"] == ["1", "2"]
    with http2.Client(gateway.port) as two:
        data = os.urandom(50_000)
        assert two.response(two.request(request_headers("POST"), data)).body == data


def test_a_listener_may_be_a_unix_socket_or_ipv6(tidegate, server, tmp_path):
    behind = server()
    gateway = tidegate(simple(behind), start=False)
    path = tmp_path / "listen.sock"
    six = free_port()
    listeners = [{"name": "unix", "address": f"unix:{path}"}, {"name": "six", "address": f"[::1]:{six}"}]
    gateway.write({**simple(behind), "listeners": listeners})
    gateway.start()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(http1.head("GET", "/", [("host", "a"), ("connection", "close")]))
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
    with http1.Client(six, host="::1") as client:
        assert client.request("GET", "/", host="[::1]").status == 200
