"""Malformed and hostile HTTP/2: refused with the right stream or connection error, never forwarded, and everything bounded."""

import socket
import struct
import time

import pytest
from hpack import Encoder
from hyperframe.frame import DataFrame, PriorityFrame, RstStreamFrame, SettingsFrame

from harness import http2, upstream
from harness.gateway import Gateway, simple
from harness.http2 import Client, Gone, request_headers
from harness.process import resident_kib
from harness.wait import until


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    behind = upstream.Server(upstream.by_path({"/hang": upstream.hang(), "/big": upstream.download(8 << 20)}, upstream.ok()))
    gateway = Gateway(tmp_path_factory.mktemp("front") / "gateway-0", simple(behind))
    gateway.behind = behind
    yield gateway
    gateway.end()
    behind.stop()


@pytest.fixture(autouse=True)
def still_well(front):
    """After whatever a test did, the gateway serves."""
    front.behind.requests.clear()
    yield
    assert front.get("/alive").status == 200
    assert "panicked at" not in front.logs()


def memory(front):
    return resident_kib(front.roles().get("gateway", front.process.pid))


def test_the_client_of_these_tests_works(front):
    with Client(front.port) as client:
        assert client.response(client.request()).status == 200
        posted = client.request(request_headers("POST", more=[("content-length", "5")]), b"hello")
        assert client.response(posted).status == 200
    assert front.behind.requests[-1].body == b"hello"


# --- malformed requests: the stream is refused, the connection lives ------------------------------

WITHOUT = {name: [h for h in request_headers(path="/bad") if h[0] != name] for name in (":method", ":scheme", ":path")}
MALFORMED = {
    **{f"without{name}": headers for name, headers in WITHOUT.items()},
    "without-authority-and-host": [h for h in request_headers(path="/bad") if h[0] != ":authority"],
    "empty-path": request_headers(path=""),
    "path-without-slash": request_headers(path="bad"),
    "path-star-with-get": request_headers(path="*"),
    "path-with-space": request_headers(path="/bad path"),
    "path-with-request-line": request_headers(path="/bad HTTP/1.1\r\nHost: x\r\n\r\nGET /smuggled"),
    "path-with-null": request_headers(path="/bad\0"),
    "path-absolute": request_headers(path="http://other.local/bad"),
    "method-with-space": request_headers(method="GET /smuggled HTTP/1.1", path="/bad"),
    "method-with-line-end": request_headers(method="GET\r\n", path="/bad"),
    "empty-method": request_headers(method="", path="/bad"),
    "scheme-with-line-end": request_headers(scheme="http\r\nx: y", path="/bad"),
    "authority-with-line-end": request_headers(authority="a\r\nx: y", path="/bad"),
    "authority-with-user": request_headers(authority="user@test.local", path="/bad"),
    "authority-with-slash": request_headers(authority="a/b", path="/bad"),
    "authority-and-other-host": request_headers(path="/bad", more=[("host", "other.local")]),
    "two-hosts": request_headers(path="/bad", more=[("host", "test.local"), ("host", "other.local")]),
    "two-paths": request_headers(path="/bad") + [(":path", "/other")],
    "two-methods": [(":method", "POST"), *request_headers(path="/bad")],
    "two-authorities": [(":authority", "other.local"), *request_headers(path="/bad")],
    "unknown-pseudo-header": [(":unknown", "1"), *request_headers(path="/bad")],
    "response-pseudo-header": [(":status", "200"), *request_headers(path="/bad")],
    "pseudo-header-last": [("x", "1"), *request_headers(path="/bad")],
    "upper-case-name": request_headers(path="/bad", more=[("X-Upper", "1")]),
    "empty-name": request_headers(path="/bad", more=[("", "1")]),
    "name-with-space": request_headers(path="/bad", more=[("x y", "1")]),
    "name-with-colon": request_headers(path="/bad", more=[("x:y", "1")]),
    "name-with-line-end": request_headers(path="/bad", more=[("x\r\ny", "1")]),
    "name-with-null": request_headers(path="/bad", more=[("x\0", "1")]),
    "value-with-line-end": request_headers(path="/bad", more=[("x", "1\r\ny: 2")]),
    "value-with-request": request_headers(path="/bad", more=[("x", "1\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n")]),
    "value-with-bare-lf": request_headers(path="/bad", more=[("x", "1\n2")]),
    "value-with-bare-cr": request_headers(path="/bad", more=[("x", "1\r2")]),
    "value-with-null": request_headers(path="/bad", more=[("x", "1\0")]),
    "connection": request_headers(path="/bad", more=[("connection", "close")]),
    "keep-alive": request_headers(path="/bad", more=[("keep-alive", "1")]),
    "proxy-connection": request_headers(path="/bad", more=[("proxy-connection", "close")]),
    "transfer-encoding": request_headers("POST", path="/bad", more=[("transfer-encoding", "chunked")]),
    "upgrade": request_headers(path="/bad", more=[("upgrade", "websocket")]),
    "te-other": request_headers(path="/bad", more=[("te", "gzip")]),
    "two-lengths": request_headers("POST", path="/bad", more=[("content-length", "5"), ("content-length", "6")]),
    "length-letters": request_headers("POST", path="/bad", more=[("content-length", "5x")]),
    "length-plus": request_headers("POST", path="/bad", more=[("content-length", "+5")]),
    "length-negative": request_headers("POST", path="/bad", more=[("content-length", "-1")]),
    "length-without-body": request_headers("POST", path="/bad", more=[("content-length", "5")]),
    "connect-with-path": [(":method", "CONNECT"), (":authority", "test.local:80"), (":path", "/bad"), (":scheme", "http")],
    "connect-without-authority": [(":method", "CONNECT")],
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_request_is_refused_and_never_forwarded(front, name):
    with Client(front.port) as client:
        number = client.request(MALFORMED[name])
        try:
            stream = client.response(number)
            assert stream.reset in ("PROTOCOL_ERROR", "CANCEL", "REFUSED_STREAM", "INTERNAL_ERROR") or stream.status in (400, 404, 405, 421, 501), vars(stream)
        except Gone:
            assert client.goaway in ("PROTOCOL_ERROR", "COMPRESSION_ERROR"), client.goaway
    paths = [r.target for r in front.behind.requests if r.complete]
    assert not paths, paths
    assert not [r for r in front.behind.requests if "smuggled" in r.target]


def test_a_fragment_and_an_empty_scheme_do_not_go_on(front):
    """The codec takes these two; what reaches the server has neither."""
    for headers in (request_headers(path="/odd#x"), request_headers(path="/odd", scheme="")):
        with Client(front.port) as client:
            client.response(client.request(headers))
    assert {r.target for r in front.behind.requests} <= {"/odd"}


def test_data_that_does_not_fit_its_length_is_never_a_whole_request(front):
    for length, body in (("5", b"hello world"), ("11", b"hello")):
        with Client(front.port) as client:
            number = client.request(request_headers("POST", more=[("content-length", length)]), body)
            try:
                stream = client.response(number)
                assert stream.reset == "PROTOCOL_ERROR" or stream.status in (400, 502), vars(stream)
            except Gone:
                assert client.goaway == "PROTOCOL_ERROR"
    assert not [r for r in front.behind.requests if r.complete and r.target == "/"]


def test_pseudo_headers_in_trailers_do_not_go_on(front):
    with Client(front.port) as client:
        client.response(client.request(request_headers("POST"), b"hello", trailers=[(":path", "/x"), ("x-sum", "1")]))
    assert [r.trailers for r in front.behind.requests] in ([[("x-sum", "1")]], [[]], [])


def test_malformed_trailers_are_refused(front):
    for trailers in ([("x", "1\r\ny: 2")], [("X-Upper", "1")], [("connection", "close")]):
        with Client(front.port) as client:
            number = client.request(request_headers("POST"), b"hello", trailers=trailers)
            try:
                stream = client.response(number)
                assert stream.reset == "PROTOCOL_ERROR" or stream.status in (400, 502), (trailers, vars(stream))
            except Gone:
                assert client.goaway == "PROTOCOL_ERROR"
    assert not [r for r in front.behind.requests if r.complete and r.method == "POST"]


# --- broken connections: GOAWAY with the right code, then the end ----------------------------------


def raw_frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
BLOCK = Encoder().encode(request_headers())
# h2 answers some frames of a wrong size with PROTOCOL_ERROR where RFC 9113 names FRAME_SIZE_ERROR.
SIZE = {"FRAME_SIZE_ERROR", "PROTOCOL_ERROR"}
BROKEN = {
    # name: (bytes after the handshake, codes that may be given)
    "data-on-stream-zero": (raw_frame(DATA, 0, 0, b"x"), {"PROTOCOL_ERROR"}),
    "headers-on-stream-zero": (raw_frame(HEADERS, 5, 0, BLOCK), {"PROTOCOL_ERROR"}),
    "headers-on-even-stream": (raw_frame(HEADERS, 5, 2, BLOCK), {"PROTOCOL_ERROR"}),
    "headers-on-lower-stream": (raw_frame(HEADERS, 5, 5, BLOCK) + raw_frame(HEADERS, 5, 3, BLOCK), {"PROTOCOL_ERROR", "STREAM_CLOSED"}),
    "data-on-idle-stream": (raw_frame(DATA, 0, 1, b"x"), {"PROTOCOL_ERROR", "STREAM_CLOSED"}),
    "reset-on-idle-stream": (raw_frame(RST, 0, 1, b"\0\0\0\x08"), {"PROTOCOL_ERROR"}),
    "window-on-idle-stream": (raw_frame(WINDOW, 0, 1, b"\0\0\0\x08"), {"PROTOCOL_ERROR"}),
    "reset-on-stream-zero": (raw_frame(RST, 0, 0, b"\0\0\0\x08"), {"PROTOCOL_ERROR"}),
    "reset-of-wrong-size": (raw_frame(HEADERS, 4, 1, BLOCK) + raw_frame(RST, 0, 1, b"\0\0\x08"), SIZE),
    "settings-on-a-stream": (raw_frame(SETTINGS, 0, 1), {"PROTOCOL_ERROR"}),
    "settings-of-wrong-size": (raw_frame(SETTINGS, 0, 0, b"12345"), SIZE),
    "settings-ack-with-payload": (raw_frame(SETTINGS, 1, 0, b"123456"), SIZE),
    "settings-push-two": (raw_frame(SETTINGS, 0, 0, struct.pack(">HI", 2, 2)), {"PROTOCOL_ERROR"}),
    "settings-window-too-large": (raw_frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 1 << 31)), {"FLOW_CONTROL_ERROR", "PROTOCOL_ERROR"}),
    "settings-frame-too-small": (raw_frame(SETTINGS, 0, 0, struct.pack(">HI", 5, 100)), {"PROTOCOL_ERROR"}),
    "ping-on-a-stream": (raw_frame(PING, 0, 1, b"12345678"), {"PROTOCOL_ERROR"}),
    "ping-of-wrong-size": (raw_frame(PING, 0, 0, b"1234"), SIZE),
    "goaway-on-a-stream": (raw_frame(GOAWAY, 0, 1, b"\0" * 8), {"PROTOCOL_ERROR"}),
    "window-zero-of-connection": (raw_frame(WINDOW, 0, 0, b"\0\0\0\0"), {"PROTOCOL_ERROR"}),
    "window-above-the-largest": (raw_frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff") * 2, {"FLOW_CONTROL_ERROR"}),
    "window-of-wrong-size": (raw_frame(WINDOW, 0, 0, b"\0\0\1"), SIZE),
    "push-promise-from-a-client": (raw_frame(HEADERS, 4, 1, BLOCK) + raw_frame(PUSH, 4, 1, b"\0\0\0\2" + BLOCK), {"PROTOCOL_ERROR"}),
    "continuation-alone": (raw_frame(CONTINUATION, 4, 1, BLOCK), {"PROTOCOL_ERROR"}),
    "ping-between-continuations": (raw_frame(HEADERS, 1, 1, BLOCK[:3]) + raw_frame(PING, 0, 0, b"12345678"), {"PROTOCOL_ERROR"}),
    "continuation-of-another-stream": (raw_frame(HEADERS, 1, 1, BLOCK[:3]) + raw_frame(CONTINUATION, 4, 3, BLOCK[3:]), {"PROTOCOL_ERROR"}),
    "padding-longer-than-frame": (raw_frame(HEADERS, 0xD, 1, b"\xff" + BLOCK), {"PROTOCOL_ERROR"}),
    "data-padding-longer-than-frame": (raw_frame(HEADERS, 4, 1, BLOCK) + raw_frame(DATA, 8, 1, b"\xff12"), {"PROTOCOL_ERROR"}),
    "frame-too-large": (raw_frame(HEADERS, 4, 1, BLOCK) + raw_frame(DATA, 0, 1, b"x" * 65_537), SIZE),
    "hpack-index-zero": (raw_frame(HEADERS, 5, 1, b"\x80"), {"COMPRESSION_ERROR", "PROTOCOL_ERROR"}),
    "hpack-index-unknown": (raw_frame(HEADERS, 5, 1, b"\xff\x80\x7f"), {"COMPRESSION_ERROR", "PROTOCOL_ERROR"}),
    "hpack-integer-endless": (raw_frame(HEADERS, 5, 1, b"\xff" + b"\xff" * 20), {"COMPRESSION_ERROR", "PROTOCOL_ERROR"}),
    "hpack-table-too-large": (raw_frame(HEADERS, 5, 1, b"\x3f\xe1\xff\xff\x07" + BLOCK), {"COMPRESSION_ERROR", "PROTOCOL_ERROR"}),
    "hpack-string-cut": (raw_frame(HEADERS, 5, 1, b"\x00\x7f" + b"a" * 3), {"COMPRESSION_ERROR", "PROTOCOL_ERROR"}),
    "hpack-bad-huffman": (raw_frame(HEADERS, 5, 1, b"\x00\x84\xff\xff\xff\xff\x01x"), {"COMPRESSION_ERROR", "PROTOCOL_ERROR"}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_connection_ends_with_the_right_error(front, name):
    data, codes = BROKEN[name]
    with Client(front.port) as client:
        client.raw(data)
        ended = client.drain(timeout=3)
        resets = {stream.reset for stream in client.streams.values() if stream.reset}
        assert ended or resets & codes, (client.goaway, resets)
        if client.goaway:
            assert client.goaway in codes, client.goaway
    assert not [r for r in front.behind.requests if r.complete and name not in ("headers-on-lower-stream",)]


def test_something_that_is_not_http2_after_a_half_preface_is_refused(front):
    for data in (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET / HTTP/1.1\r\n\r\n"):
        with Client(front.port, preface=False) as client:
            client.raw(data)
            try:
                assert client.drain(timeout=15)
            except Exception as error:  # an HTTP/1.1 answer is no frame
                assert "frame" in repr(error).lower() or client.buffer.startswith(b"HTTP/1.1 4"), error
    assert not front.behind.requests


# --- floods: bounded work, bounded memory ----------------------------------------------------------


def flood(front, send, rounds, calm=True):
    """Sends until the gateway ends the connection or `rounds` are over; memory must not grow by more than 24 MiB."""
    before = memory(front)
    with Client(front.port) as client:
        client.auto = False
        ended = False
        try:
            for number in range(rounds):
                send(client, number)
        except Gone:
            ended = True
        peak = memory(front)
        if calm and not ended:
            ended = client.drain(timeout=3)
        elif ended:
            try:
                client.drain(timeout=0.5)
            except AssertionError:
                pass
        assert peak - before < 24 * 1024, f"grew by {peak - before} KiB"
        return client, ended


def test_rapid_reset_ends_the_connection_and_floods_no_server(front):
    def send(client, _):
        data = b""
        for _ in range(50):
            number, client.next_id = client.next_id, client.next_id + 2
            data += raw_frame(HEADERS, 5, number, Encoder().encode(request_headers(path="/hang"))) + RstStreamFrame(number, 8).serialize()
        client.raw(data)

    client, ended = flood(front, send, 400)
    assert ended, "20,000 resets were taken"
    assert client.goaway in ("ENHANCE_YOUR_CALM", None)
    assert len(front.behind.requests) < 2000


def test_a_flood_of_resets_by_bad_frames_ends_the_connection_too(front):
    """The second generation: the client makes the server reset, with a window update of zero."""

    def send(client, _):
        data = b""
        for _ in range(50):
            number, client.next_id = client.next_id, client.next_id + 2
            data += raw_frame(HEADERS, 5, number, Encoder().encode(request_headers(path="/hang"))) + raw_frame(WINDOW, 0, number, b"\0\0\0\0")
        client.raw(data)

    client, ended = flood(front, send, 400)
    assert ended, "20,000 provoked resets were taken"
    assert len(front.behind.requests) < 2000


def test_a_continuation_flood_ends_the_connection(front):
    part = Encoder().encode([("x", "a" * 1000)])

    def send(client, number):
        if number == 0:
            client.raw(raw_frame(HEADERS, 1, 1, BLOCK))
        else:
            client.raw(raw_frame(CONTINUATION, 0, 1, part * 10))

    _, ended = flood(front, send, 2000)
    assert ended, "20 MB of one head were taken"


def test_an_empty_continuation_flood_ends_the_connection(front):
    def send(client, number):
        client.raw(raw_frame(HEADERS, 1, 1, BLOCK) if number == 0 else raw_frame(CONTINUATION, 0, 1) * 100)

    _, ended = flood(front, send, 2000)
    assert ended, "200,000 empty frames were taken"


def test_a_head_that_stays_open_is_cut_off(tidegate, server):
    behind = server()
    gateway = tidegate(simple(behind), start=False)
    config = simple(behind)
    config["listeners"] = [{"name": "main", "address": f"127.0.0.1:{gateway.port}", "limits": {"header_timeout": "500ms"}}]
    gateway.write(config)
    gateway.start()
    with Client(gateway.port) as client:
        client.raw(raw_frame(HEADERS, 1, 1, BLOCK[:3]))
        began = time.monotonic()
        assert client.drain(timeout=5)
        assert time.monotonic() - began < 5


def test_an_hpack_bomb_is_refused(front):
    """A large field in the table, then references to it: 4 KiB on the wire stand for megabytes."""
    encoder = Encoder()
    first = encoder.encode(request_headers(more=[("x-bomb", "a" * 4000)]))
    bomb = encoder.encode(request_headers() + [("x-bomb", "a" * 4000)] * 4000)
    assert len(bomb) < 10_000
    before = memory(front)
    with Client(front.port) as client:
        client.streams[1] = http2.Stream()
        client.headers(1, first)
        assert client.response(1).status == 200
        front.behind.requests.clear()
        client.streams[3] = http2.Stream()
        client.headers(3, bomb)
        try:
            stream = client.response(3)
            assert stream.status == 431 or stream.reset, vars(stream)
        except Gone:
            pass
    assert not front.behind.requests
    assert memory(front) - before < 24 * 1024


def test_a_header_list_beyond_the_limit_is_refused(front):
    with Client(front.port) as client:
        number = client.next_id
        client.next_id += 2
        client.streams[number] = http2.Stream()
        block = Encoder().encode(request_headers(more=[(f"x-{n}", "a" * 1000) for n in range(80)]))
        client.headers(number, block[:16000], end_headers=False)
        for at in range(16000, len(block), 16000):
            client.continuation(number, block[at : at + 16000], end=at + 16000 >= len(block))
        try:
            stream = client.response(number)
            assert stream.status == 431 or stream.reset, vars(stream)
        except Gone:
            pass
    assert not front.behind.requests
    with Client(front.port) as client:
        stream = client.response(client.request(request_headers(more=[(f"x-{n}", "1") for n in range(200)])))
        assert stream.status == 431 or stream.reset
    assert not front.behind.requests


def test_a_ping_flood_is_bounded(front):
    """The answers pile up when the client does not read them: the connection must end or stop reading, not grow."""
    ping = raw_frame(PING, 0, 0, b"12345678") * 1000

    def send(client, _):
        client.sock.settimeout(2)
        client.raw(ping)

    flood(front, send, 1000, calm=False)


def test_a_settings_flood_is_bounded(front):
    settings = SettingsFrame(0, {4: 65535, 5: 16384}).serialize() * 500

    def send(client, _):
        client.sock.settimeout(2)
        client.raw(settings)

    flood(front, send, 1000, calm=False)


def test_a_flood_of_empty_data_frames_is_bounded(front):
    empty = DataFrame(1, b"").serialize() * 1000

    def send(client, number):
        if number == 0:
            client.headers(1, request_headers("POST", "/hang"), end=False)
        client.sock.settimeout(2)
        client.raw(empty)

    flood(front, send, 500, calm=False)


def test_a_flood_of_priorities_and_unknown_frames_is_bounded(front):
    frames = (PriorityFrame(1, depends_on=0, stream_weight=1).serialize() + raw_frame(0xEE, 0xFF, 7, b"?" * 100)) * 500

    def send(client, _):
        client.sock.settimeout(2)
        client.raw(frames)

    flood(front, send, 500, calm=False)


def test_streams_beyond_the_announced_limit_are_refused(front):
    with Client(front.port) as client:
        client.next_frame()  # settings
        limit = client.settings[SettingsFrame.MAX_CONCURRENT_STREAMS]
        assert limit == 256
        numbers = [client.request(request_headers(path="/hang")) for _ in range(limit + 50)]
        until(lambda: _pump(client) and sum(1 for n in numbers if client.streams[n].reset) >= 50, what="the surplus refused")
        assert {client.streams[n].reset for n in numbers if client.streams[n].reset} == {"REFUSED_STREAM"}
        assert len([n for n in numbers if client.streams[n].reset]) == 50
        assert len(front.behind.requests) <= limit


def _pump(client):
    try:
        client.next_frame(0.05)
    except socket.timeout:
        pass
    return True


def test_zero_windows_hold_neither_memory_nor_other_callers(front):
    """Fifty large answers that the client never makes room for."""
    before = memory(front)
    with Client(front.port, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 0}) as client:
        client.auto = False
        for _ in range(50):
            client.request(request_headers(path="/big"))
        until(lambda: len([r for r in front.behind.requests if r.target == "/big"]) == 50, what="all fifty at the server")
        for _ in range(20):
            assert front.get("/other").status == 200
        assert memory(front) - before < 48 * 1024, "50 × 8 MiB wait upstream, not here"


def test_a_client_that_never_reads_holds_no_memory(front):
    before = memory(front)
    with Client(front.port, receive_buffer=4096) as client:
        client.window(0, (1 << 31) - 1 - 65535)
        client.auto = False
        for _ in range(20):
            number = client.request(request_headers(path="/big"))
            client.window(number, (1 << 30))
        until(lambda: len([r for r in front.behind.requests if r.target == "/big"]) == 20, what="all twenty at the server")
        assert front.get("/other").status == 200
        assert memory(front) - before < 48 * 1024


def test_data_beyond_the_window_is_a_flow_control_error(front):
    with Client(front.port) as client:
        client.next_frame()
        number = client.request(request_headers("POST", "/hang", more=[("content-length", str(1 << 40))]), end=False, body=b"")
        try:
            for _ in range(20_000):
                client.raw(DataFrame(number, b"x" * 16384).serialize())
            client.drain(timeout=3)
        except Gone:
            try:
                client.drain(timeout=0.5)
            except Gone:
                pass
        assert client.goaway in ("FLOW_CONTROL_ERROR", None) or client.streams[number].reset == "FLOW_CONTROL_ERROR"
        assert client.goaway or client.streams[number].reset, "320 MB were taken without a window"
