"""Other proxies in front and behind, and clients that are not ours."""

import re
import shutil
import subprocess

import pytest

from harness import http1, peers, upstream
from harness.gateway import simple
from harness.grpc_peers import GrpcLoad
from harness.load import Load


@pytest.fixture
def nginx(tmp_path):
    started = []

    def start(to, **more):
        started.append(peers.Nginx(tmp_path / f"nginx-{len(started)}", to, **more))
        return started[-1]

    yield start
    for each in started:
        each.end()


def run(*words, timeout=60):
    return subprocess.run([str(w) for w in words], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=timeout)


def test_nginx_in_front(tidegate, server, nginx):
    behind = server(upstream.echo())
    gateway = tidegate(simple(behind), start=False)
    gateway.write({**simple(behind), "listeners": [{"name": "main", "address": f"127.0.0.1:{gateway.port}", "trusted_hops": 1}]})
    gateway.start()
    front = nginx(f"127.0.0.1:{gateway.port}", location="proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_request_buffering off; proxy_buffering off;")
    report = Load(front.port, connections=8, count=2000, method="POST", body=b"x" * 1000).__enter__().finish()
    assert report.statuses == {200: 2000} and not report.failures
    assert http1.request(front.port, "POST", "/", body=[b"chunk"] * 50).body == b"chunk" * 50
    assert behind.requests[0].header("x-forwarded-for").count("127.0.0.1") == 2


def test_nginx_behind(tidegate, server, nginx):
    origin = server(upstream.echo())
    back = nginx(origin.address)
    gateway = tidegate(simple(back.port))
    report = Load(gateway.port, connections=8, count=3000).__enter__().finish()
    assert report.statuses == {200: 3000} and not report.failures
    data = b"d" * (5 << 20)
    assert gateway.request("POST", "/", body=data).body == data


def test_an_nginx_that_reloads_behind_costs_no_request(tidegate, server, nginx):
    """Old workers finish and close: kept connections end under us, which must not be seen."""
    import signal

    from harness.wait import until

    back = nginx(server().address)
    gateway = tidegate(simple(back.port))
    with Load(gateway.port, connections=4) as load:
        for _ in range(5):
            seen = load.answered()
            until(lambda: load.answered() > seen + 200)
            back.process.signal(signal.SIGHUP)
        seen = load.answered()
        until(lambda: load.answered() > seen + 200)
    assert not load.report.bad(), load.report.bad()[:5]


def test_grpc_through_nginx_in_front(tidegate, grpc_server, channel, tmp_path):
    behind = grpc_server("one")
    gateway = tidegate(simple(behind))
    front = peers.Nginx(tmp_path / "front", "127.0.0.1:9", listen="http2", server=f"location /bench.Echo {{ grpc_pass grpc://127.0.0.1:{gateway.port}; }}")
    try:
        load = GrpcLoad([channel(front.port)], threads=4, count=1000).__enter__().finish()
        assert load.answers == {"one": 1000} and not load.failures
    finally:
        front.end()


def test_haproxy_in_front_and_behind(tidegate, server, tmp_path):
    back = peers.HaProxy(tmp_path / "back", server().address)
    gateway = tidegate(simple(back.port))
    front = peers.HaProxy(tmp_path / "front", f"127.0.0.1:{gateway.port}")
    try:
        report = Load(front.port, connections=8, count=3000).__enter__().finish()
        assert report.statuses == {200: 3000} and not report.failures
    finally:
        front.end()
        back.end()


@pytest.fixture
def chain(tidegate, tmp_path):
    """Tidegate before an address with an Envoy in front of it, behind it, or both; gives the port that callers use and the gateway."""
    started = []

    def envoy(to, **more):
        started.append(peers.Envoy(tmp_path / f"envoy-{len(started)}", to, **more))
        return started[-1].port

    def start(where, to, http2=False):
        behind = envoy(to, http2=http2) if "behind" in where else to
        gateway = tidegate(simple(behind, upstream_more={"protocol": "http2" if http2 else "http1"}))
        return envoy(f"127.0.0.1:{gateway.port}", http2=http2) if "in front" in where else gateway.port, gateway

    yield start
    for each in started:
        each.end()


WHERE = ["in front", "behind", "in front and behind"]


@pytest.mark.parametrize("where", WHERE)
def test_envoy_over_http1(server, chain, where):
    behind = server(upstream.echo())
    port, gateway = chain(where, behind.address)
    report = Load(port, connections=8, count=2000, method="POST", body=b"x" * 1000).__enter__().finish()
    assert report.statuses == {200: 2000} and not report.failures
    data = b"d" * (5 << 20)
    assert http1.request(port, "POST", "/", body=data).body == data
    with http1.Client(port) as client:
        fields = [("x-sum", "42")]
        client.send(http1.head("POST", "/", [("host", "a"), ("transfer-encoding", "chunked"), ("trailer", "x-sum")]) + http1.chunked([b"ab", b"c"], fields))
        answer = client.response()
    assert behind.requests[-1].trailers == fields
    assert (answer.status, answer.body, answer.trailers) == (200, b"abc", fields)
    assert gateway.metric("tidegate_requests_total", code="200") == 2002


@pytest.mark.parametrize("where", WHERE)
def test_grpc_with_envoy(grpc_server, channel, chain, where):
    import grpc

    behind = grpc_server("one")
    port, gateway = chain(where, behind.address, http2=True)
    to = channel(port)
    answer, call = to.unary_unary("/bench.Echo/Unary").with_call(b"hello", timeout=10)
    assert answer == b"hello"
    assert ("x-server", "one") in call.initial_metadata() and ("x-trailer", "end") in call.trailing_metadata()
    assert list(to.unary_stream("/bench.Echo/Download")(b"100", timeout=10)) == [b"%d" % n for n in range(100)]
    assert to.stream_unary("/bench.Echo/Upload")(iter([b"m" * 100_000] * 30), timeout=20) == b"3000000"
    words = [b"%d" % n for n in range(50)]
    assert list(to.stream_stream("/bench.Echo/Chat")(iter(words), timeout=10)) == words
    with pytest.raises(grpc.RpcError) as refused:
        to.unary_unary("/bench.Echo/Unary")(b"", timeout=10, metadata=[("x-fail", "FAILED_PRECONDITION")])
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION and refused.value.details() == "as asked"
    load = GrpcLoad([to], threads=4, count=1000).__enter__().finish()
    assert load.answers == {"one": 1000} and not load.failures
    assert gateway.metric("tidegate_grpc_requests_total", grpc_status="9") == 1


def test_h2load_over_http2_and_http1(tidegate, server):
    gateway = tidegate(simple(server()))
    tool = shutil.which("h2load")
    assert tool, "h2load (scripts/install-test-deps)"
    for words in (["-n", 5000, "-c", 4, "-m", 32], ["-n", 3000, "-c", 8, "--h1"]):
        done = run(tool, *words, f"http://127.0.0.1:{gateway.port}/")
        total = int(words[1])
        assert re.search(rf"{total} total, {total} started, {total} done, {total} succeeded, 0 failed", done.stdout), done.stdout


def test_curl_speaks_all_it_knows(tidegate, server, authority):
    gateway = tidegate(simple(server(upstream.echo())))
    url = f"http://127.0.0.1:{gateway.port}/"
    for words in (["--http1.1"], ["--http2-prior-knowledge"], ["--http1.0"]):
        done = run("curl", "-sS", *words, "--data-binary", "hello", url)
        assert done.stdout == "hello", (words, done.stderr)
    # An upgrade to h2c by header is not offered: the answer comes over HTTP/1.1.
    assert run("curl", "-sS", "--http2", "--data-binary", "hello", url).stdout == "hello"


def test_a_flask_app_of_three_instances_is_balanced_and_survives_a_death(tidegate, process, tmp_path):
    """The application of a governance tutorial: instances that say their port; one dies, callers do not notice."""
    from harness.net import free_port
    from harness.process import python
    from harness.wait import until

    app = tmp_path / "app.py"
    app.write_text(
        "import sys\nfrom flask import Flask, request, jsonify\nfrom werkzeug.serving import WSGIRequestHandler\napp = Flask(__name__)\n"
        "@app.get('/hello')\ndef hello():\n    return jsonify(port=int(sys.argv[1]), agent=request.headers.get('x-user'))\n"
        # An answer goes out in one write: one of which the caller has the half can't be had from elsewhere.
        "class Handler(WSGIRequestHandler):\n    wbufsize = -1\n"
        "app.run('127.0.0.1', int(sys.argv[1]), threaded=True, request_handler=Handler)\n"
    )
    ports = [free_port() for _ in range(3)]
    running = {port: process([python("x")[0], app, port]) for port in ports}
    for port in ports:
        until(lambda: peers.answers(port, "/hello") == 200, 20, "Flask serves")
    gateway = tidegate(simple(*ports, upstream_more={"balance": "round_robin"}, retry={"attempts": 3, "on": ["connect-failure", "reset", "refused-stream", "unavailable"], "budget": "off"}))
    seen = [gateway.get("/hello", [("x-user", "u")]).text() for _ in range(30)]
    assert all(sum(str(port) in text for text in seen) == 10 for port in ports)
    with Load(gateway.port, connections=4, target="/hello") as load:
        until(lambda: load.answered() > 50)
        running[ports[0]].kill()
        at = load.answered()
        until(lambda: load.answered() > at + 300)
    assert load.report.statuses == {200: load.report.total}, load.report.failures[:3]
