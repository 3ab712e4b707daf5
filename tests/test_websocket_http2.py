"""WebSocket over HTTP/2 (RFC 8441), to servers of either version and from callers of either version."""

import base64
import os
import threading

import pytest

from harness import http1, http2, upstream
from harness.gateway import simple
from harness.tunnel import Server, Tunnel
from harness.wait import until

KEY, ACCEPT = "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.fixture
def h2_server():
    started = []

    def start(**more):
        started.append(Server(**more))
        return started[-1]

    yield start
    for each in started:
        each.stop()


def over_http2(*servers, **more):
    return simple(*servers, upstream_more={"protocol": "http2"}, **more)


def upgrade(client, path="/chat", protocol="websocket", key=KEY):
    fields = [("host", "a"), ("connection", "Upgrade"), ("upgrade", protocol), ("sec-websocket-version", 13)]
    client.send(http1.head("GET", path, fields + ([("sec-websocket-key", key)] if key else [])))
    return client.response_head()


# --- callers over HTTP/2, servers over HTTP/1.1 ---------------------------------------------------


def test_bytes_pass_both_ways_and_each_way_ends_on_its_own(tidegate, server):
    gateway = tidegate(simple(server(upstream.websocket())))
    with Tunnel(gateway.port) as tunnel:
        tunnel.open("/chat")
        assert tunnel.status == 200
        assert not {"upgrade", "connection", "sec-websocket-accept", "transfer-encoding", "content-length"} & set(tunnel.headers)
        for size in (1, 125, 70_000, 1_000_000):
            data = os.urandom(size)
            tunnel.send(data)
            assert tunnel.exactly(size) == data
        # The server ends after the caller has; what was sent before still comes.
        tunnel.send(b"last", end=True)
        tunnel.wait(lambda: tunnel.ended)
        assert tunnel.received == b"last" and tunnel.reset is None


def test_the_server_sees_an_upgrade_with_a_key_of_its_own(tidegate, server):
    behind = server(upstream.websocket())
    gateway = tidegate(simple(behind))
    with Tunnel(gateway.port) as tunnel:
        for _ in range(2):
            tunnel.open("/chat?a=1", more=(("sec-websocket-version", "13"), ("sec-websocket-protocol", "chat"), ("origin", "http://a"), ("sec-websocket-key", KEY)))
            assert tunnel.status == 200
    first, second = behind.requests
    assert (first.method, first.target) == ("GET", "/chat?a=1")
    assert first.header("upgrade") == "websocket" and first.header("connection").lower() == "upgrade"
    assert first.header("host") == "test.local"
    assert [first.header(f"sec-websocket-{name}") for name in ("version", "protocol")] == ["13", "chat"]
    keys = {each.header("sec-websocket-key") for each in (first, second)}
    assert len(keys) == 2 and KEY not in keys
    assert all(len(base64.b64decode(key, validate=True)) == 16 for key in keys)
    assert not first.header("content-length") and not first.header("transfer-encoding")


def test_many_tunnels_and_requests_share_a_connection(tidegate, server):
    gateway = tidegate(simple(server(upstream.by_path({"/chat": upstream.websocket()}, upstream.ok()))))
    with http2.Client(gateway.port) as client:
        head = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":authority", "a"), (":path", "/chat")]
        tunnels = [client.request(head, end=False) for _ in range(10)]
        for number in tunnels:
            client.data(number, b"%d" % number, end=False)
        until(lambda: client.next_frame() and all(client.streams[n].body == b"%d" % n for n in tunnels))
        assert client.response(client.request()).status == 200
        assert not any(client.streams[n].done for n in tunnels)


def test_frames_of_a_real_server_pass(tidegate):
    import websockets.frames
    import websockets.sync.server

    def talk(connection):
        for message in connection:
            connection.send(message[::-1])

    def frame(opcode, data):
        return websockets.frames.Frame(opcode, data).serialize(mask=True)

    with websockets.sync.server.serve(talk, "127.0.0.1", 0, compression=None) as real:
        thread = threading.Thread(target=real.serve_forever, daemon=True)
        thread.start()
        gateway = tidegate(simple(real.socket.getsockname()[1]))
        with Tunnel(gateway.port) as tunnel:
            tunnel.open("/")
            assert tunnel.status == 200
            tunnel.send(frame(websockets.frames.Opcode.TEXT, b"hello"))
            assert tunnel.exactly(7) == b"\x81\x05olleh"
            tunnel.send(frame(websockets.frames.Opcode.CLOSE, b"\x03\xe8"))
            assert tunnel.exactly(4) == b"\x88\x02\x03\xe8"
            tunnel.wait(lambda: tunnel.ended)
        real.shutdown()
        thread.join(10)


def test_a_refusal_passes_and_a_success_without_a_tunnel_does_not(tidegate, server):
    gateway = tidegate(simple(server(upstream.by_path({"/no": upstream.status(403, b"no"), "/plain": upstream.ok()}))))
    with Tunnel(gateway.port) as tunnel:
        tunnel.open("/no")
        tunnel.wait(lambda: tunnel.ended)
        assert tunnel.status == 403 and tunnel.received == b"no"
        # 200 would tell the caller that its tunnel is open.
        tunnel.open("/plain")
        assert tunnel.status == 502 and tunnel.headers["x-tidegate-error"] == "upgrade-ignored"


def test_a_wrong_handshake_of_the_server_is_no_tunnel(tidegate, server):
    async def wrong(_request, connection):
        await connection.head(101, [("upgrade", "websocket"), ("connection", "Upgrade"), ("sec-websocket-accept", ACCEPT)])

    gateway = tidegate(simple(server(wrong)))
    with Tunnel(gateway.port) as tunnel:
        tunnel.open()
        assert tunnel.status == 502 and tunnel.headers["x-tidegate-error"] == "bad-answer"


def test_a_switch_that_nobody_asked_for_is_a_bad_answer(tidegate, server):
    async def switch(_request, connection):
        await connection.head(101, [("upgrade", "websocket"), ("connection", "Upgrade")])

    gateway = tidegate(simple(server(switch)))
    answer = gateway.get()
    assert answer.status == 502 and answer.header("x-tidegate-error") == "bad-answer"
    with http2.Client(gateway.port) as client:
        assert client.response(client.request()).status == 502


def test_other_protocols_and_plain_connect_are_refused(tidegate, server):
    behind = server()
    gateway = tidegate(simple(behind))
    with Tunnel(gateway.port) as tunnel:
        tunnel.open(protocol="connect-udp")
        assert tunnel.status == 501 and tunnel.headers["x-tidegate-error"] == "unknown-protocol"
    with http2.Client(gateway.port) as client:
        number = client.request([(":method", "CONNECT"), (":authority", "a:80")], end=False)
        assert client.response(number).status == 405
    assert not behind.requests


@pytest.mark.parametrize("version", [1, 2])
def test_an_open_websocket_is_in_flight_until_it_ends(tidegate, server, version):
    behind = server(upstream.by_path({"/chat": upstream.websocket(), "/": upstream.ok()}))
    gateway = tidegate(simple(behind, upstream_more={"connection_pool": {"max_requests": 1}}))
    member = lambda: gateway.member(behind)
    for count in (1, 2):
        with gateway.client() if version == 1 else Tunnel(gateway.port) as end:
            if version == 1:
                assert upgrade(end).status == 101
            else:
                end.open("/chat")
                assert end.status == 200
            until(lambda: gateway.metric("tidegate_attempts_total", verdict="ok") >= count, what="the handshake's verdict")
            assert member()["inflight"] == 1
            refused = gateway.get()
            assert (refused.status, refused.error_code()) == (503, "overload")
        until(lambda: member()["inflight"] == 0, what="its end")
    assert gateway.get().status == 200
    assert member()["failures"] == 0


def test_one_end_that_breaks_off_breaks_the_other(tidegate, server):
    behind = server(upstream.by_path({"/chat": upstream.websocket(), "/reset": None}))

    async def then_reset(request, connection):
        key = request.header("sec-websocket-key")
        await connection.head(101, [("upgrade", "websocket"), ("connection", "Upgrade"), ("sec-websocket-accept", accept_of(key))])
        await connection.reader.readexactly(1)
        connection.reset()

    behind.behaviour = upstream.by_path({"/chat": upstream.websocket(), "/reset": then_reset})
    gateway = tidegate(simple(behind))
    with Tunnel(gateway.port) as tunnel:
        tunnel.open("/chat")
        until(lambda: behind.open)
        tunnel.cancel()
        until(lambda: not behind.open, what="the server's connection is closed")
        tunnel.open("/reset")
        tunnel.send(b"x")
        tunnel.wait(lambda: tunnel.reset is not None or tunnel.ended)
        assert tunnel.reset is not None, "a cut is no end"


def accept_of(key):
    import hashlib

    return base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()


# --- servers over HTTP/2 --------------------------------------------------------------------------


def test_a_caller_over_http1_reaches_a_server_over_http2(tidegate, h2_server):
    behind = h2_server()
    gateway = tidegate(over_http2(behind))
    with gateway.client() as client:
        answer = upgrade(client, "/chat?a=1")
        assert answer.status == 101
        assert answer.header("sec-websocket-accept") == ACCEPT
        assert answer.header("upgrade") == "websocket" and answer.header("connection").lower() == "upgrade"
        assert answer.header("sec-websocket-protocol") == "chat"
        for size in (1, 70_000, 500_000):
            data = os.urandom(size)
            client.send(data)
            assert client.exactly(size) == data
    seen = behind.requests[0]
    assert (seen[":method"], seen[":protocol"], seen[":path"], seen[":authority"]) == ("CONNECT", "websocket", "/chat?a=1", "a")
    assert seen["sec-websocket-version"] == "13"
    assert not {"upgrade", "connection", "sec-websocket-key", "host"} & set(seen)


def test_http2_on_both_sides(tidegate, h2_server):
    behind = h2_server()
    gateway = tidegate(over_http2(behind))
    with Tunnel(gateway.port) as tunnel:
        tunnel.open()
        assert tunnel.status == 200 and tunnel.headers["sec-websocket-protocol"] == "chat"
        data = os.urandom(300_000)
        tunnel.send(data, end=True)
        tunnel.wait(lambda: tunnel.ended)
        assert tunnel.received == data
        tunnel.open()
        tunnel.cancel()
        until(lambda: behind.resets, what="the server's stream is reset")


def test_a_server_that_cannot_is_told_apart_from_one_that_will_not(tidegate, h2_server):
    cannot, will_not = h2_server(connect=False), h2_server(status=403)
    for behind, status, code in ((cannot, 502, "websocket-unsupported"), (will_not, 403, None)):
        gateway = tidegate(over_http2(behind))
        # The first request on a new connection has to wait for the server's settings.
        with gateway.client() as client:
            answer = upgrade(client)
            assert (answer.status, answer.header("x-tidegate-error")) == (status, code)
        with Tunnel(gateway.port) as tunnel:
            tunnel.open()
            assert (tunnel.status, tunnel.headers.get("x-tidegate-error")) == (status, code)
    assert not cannot.requests


def test_an_offer_that_http2_has_no_form_for_goes_unheard(tidegate, h2_server):
    behind = h2_server()
    gateway = tidegate(over_http2(behind))
    for _ in range(3):
        with gateway.client() as client:
            client.send(http1.head("GET", "/", [("host", "a"), ("connection", "Upgrade"), ("upgrade", "chat")]))
            answer = client.response()
            assert answer.status == 200 and answer.body == b"ok"
    assert behind.connections <= 2, "no connection is lost over it"
