"""Malformed and hostile HTTP/1.1: refused with the right status, never forwarded, and everything bounded."""

import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness import hostile, http1, peers, upstream
from harness.gateway import Gateway, simple
from harness.process import resident_kib
from harness.wait import until


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    """One gateway with a server behind it, for all cases: one that breaks on a case breaks the following ones."""
    behind = upstream.Server(upstream.ok())
    gateway = Gateway(tmp_path_factory.mktemp("front") / "gateway-0", simple(behind))
    gateway.behind = behind
    yield gateway
    gateway.end()
    behind.stop()


def statuses(data):
    """Statuses of the final answers in what came back."""
    return [int(code) for code in re.findall(rb"^HTTP/1\.[01] (\d\d\d)", data, re.M)]


def forwarded(behind, number):
    """Paths of whole requests of one case that reached the server."""
    return [r.target for r in list(behind.requests) if r.complete and re.search(rf"(bad|good)-{number}-", r.target)]


def smuggled(behind, number):
    return [r.target for r in list(behind.requests) if f"smuggled-{number}-" in r.target]


@pytest.mark.parametrize("case", hostile.CASES, ids=lambda case: case.name)
def test_is_refused_and_never_forwarded(front, case):
    number = hostile.CASES.index(case)
    back = http1.exchange_raw(front.port, hostile.marked(case.data, number))
    got = statuses(back)
    assert not forwarded(front.behind, number)
    if case.well_framed:
        assert got[0] in case.refuse
        return
    # One answer and then the end: where the next request would begin is not known.
    assert not smuggled(front.behind, number)
    assert len(got) <= 1, back
    if got:
        assert got[0] in case.refuse or (case.body_is_bad and got[0] in (400, 431, 502)), back
    else:
        assert case.body_is_bad or case.name in ("garbage",), "closed without an answer"
    assert http1.get(front.port, "/alive").status == 200


@pytest.mark.parametrize("name, data", hostile.GOOD, ids=[name for name, _ in hostile.GOOD])
def test_odd_but_right_requests_pass(front, name, data):
    number = 10_000 + [n for n, _ in hostile.GOOD].index(name)
    with http1.Client(front.port) as client:
        client.send(hostile.marked(data, number))
        assert client.response().status == 200
    assert len(forwarded(front.behind, number)) == 1


def test_what_is_forwarded_has_one_framing_and_clean_lines(front):
    """Whatever came in, what goes out could not be read in two ways."""
    seen = [r for r in list(front.behind.requests)]
    assert seen
    for request in seen:
        assert request.count("content-length") + request.count("transfer-encoding") <= 1, request.raw_head
        assert request.count("host") == 1
        lines = request.raw_head[:-4].split(b"\r\n")
        assert re.fullmatch(rb"[A-Z]+ /[\x21-\x7e]* HTTP/1\.1", lines[0]), lines[0]
        for line in lines[1:]:
            assert re.fullmatch(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*", line), line


# Cases that the peers (nginx 1.22, HAProxy 2.6) let through and Tidegate refuses. A newer peer may be stricter.
PEERS_FORWARD = {
    "nginx": "bare-lf-head bare-lf-one-line bare-lf-hides-length bare-lf-ends-head control-in-value delete-in-value no-colon name-with-parenthesis name-with-quote "
    "name-with-slash name-with-eight-bit name-with-brackets line-two-spaces line-space-at-end line-no-version line-long-version target-eight-bit target-fragment host-user "
    "host-port-letters host-port-huge host-list host-open-bracket host-quote absolute-target-other-host expectation-unknown chunk-size-inner-space "
    "chunk-size-bare-lf chunk-data-bare-lf chunk-extension-bare-lf chunk-extension-null chunk-extension-endless chunk-last-bare-lf trailer-no-colon trailer-space-in-name trailer-obs-fold "
    "trailer-bare-lf trailer-too-large too-many-headers",
    "HAProxy": "length-and-coding coding-and-length coding-and-length-zero two-equal-lengths length-list coding-in-http-1.0 coding-folded obs-fold obs-fold-tab "
    "fold-hides-coding bare-lf-head bare-lf-one-line bare-lf-hides-length bare-lf-ends-head null-in-value control-in-value delete-in-value line-two-spaces line-tab-between version-2.0 "
    "version-3.1 target-star-with-get target-empty-authority target-user-in-authority target-percent-null target-cut-percent target-wrong-percent no-host two-equal-hosts "
    "host-space host-slash host-user host-port-letters host-port-huge host-list host-open-bracket host-quote host-null host-empty expectation-unknown chunk-size-bare-lf "
    "chunk-data-bare-lf chunk-extension-bare-lf chunk-extension-null chunk-last-bare-lf trailer-space-in-name trailer-obs-fold trailer-bare-lf",
}


def test_nothing_that_nginx_or_haproxy_refuse_is_forwarded(front, tmp_path):
    behind = {"nginx": upstream.Server(), "HAProxy": upstream.Server(), "tidegate": front.behind}
    proxies = {"nginx": peers.Nginx(tmp_path / "nginx", behind["nginx"].address), "HAProxy": peers.HaProxy(tmp_path / "haproxy", behind["HAProxy"].address)}
    ports = {**{name: proxy.port for name, proxy in proxies.items()}, "tidegate": front.port}
    offset = 20_000

    def send(job):
        name, number = job
        http1.exchange_raw(ports[name], hostile.marked(hostile.CASES[number].data, offset + number), timeout=1.0)

    jobs = [(name, number) for number in range(len(hostile.CASES)) for name in ports]
    try:
        with ThreadPoolExecutor(24) as pool:
            list(pool.map(send, jobs))
        through = {
            name: {case.name for number, case in enumerate(hostile.CASES) if _passed(behind[name], case, offset + number)}
            for name in ports
        }
    finally:
        for proxy in proxies.values():
            proxy.end()
        behind["nginx"].stop()
        behind["HAProxy"].stop()
    for name in ("nginx", "HAProxy"):
        print(f"forwarded by {name} and refused here: {len(through[name])} of {len(hostile.CASES)}")
    assert through["tidegate"] == set()
    for name, listed in PEERS_FORWARD.items():
        assert through[name] <= set(listed.split()), (name, through[name] - set(listed.split()))


def _passed(behind, case, number):
    if case.name == "target-star-with-get":  # carries no number
        return any(r.target == "*" for r in list(behind.requests))
    return forwarded(behind, number) or (smuggled(behind, number) and not case.well_framed)


def test_a_path_that_climbs_is_resolved_before_it_goes_on(front):
    """RFC 3986 §5.2.4: dots above the root vanish. nginx refuses such a path, HAProxy passes it on as it is."""
    front.get("/../../climbed")
    front.get("/a/b/../%2e%2e/climbed")
    assert [r.target for r in list(front.behind.requests) if "climbed" in r.target] == ["/climbed", "/climbed"]


# --- bounds ---------------------------------------------------------------------------------------


@pytest.fixture
def bounded(tidegate, server):
    """A gateway whose listener has these limits, and the server behind it."""

    def start(behaviour=None, **limits):
        behind = server(behaviour)
        gateway = tidegate(simple(behind), start=False)
        config = simple(behind)
        config["listeners"] = [{"name": "main", "address": f"127.0.0.1:{gateway.port}", "limits": limits}]
        gateway.write(config)
        return gateway.start(), behind

    return start


def test_a_head_that_never_ends_is_cut_off_in_time(bounded):
    gateway, behind = bounded(header_timeout="500ms")
    began = time.monotonic()
    with gateway.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test.local\r\n")
        client.sock.settimeout(0.05)
        got = b""
        while True:
            try:
                client.send(b"X-A: 1\r\n")
                got += client.sock.recv(65536) or b"\0"
                if got.endswith(b"\0"):
                    break
            except socket.timeout:
                assert time.monotonic() - began < 5, "still open"
            except OSError:
                break
    assert 0.4 < time.monotonic() - began < 5
    assert not statuses(got) or statuses(got) == [408]
    assert not behind.requests


def test_an_idle_connection_is_closed_after_its_time(bounded):
    gateway, _ = bounded(idle_timeout="500ms")
    with gateway.client() as client:
        assert client.request("GET", "/").status == 200
        began = time.monotonic()
        assert client.at_end(10)
        assert 0.4 < time.monotonic() - began < 5


def test_slow_heads_do_not_keep_others_from_being_served(bounded):
    gateway, _ = bounded(header_timeout="5s", connections=2000)
    slow = []
    try:
        for _ in range(500):
            client = gateway.client()
            client.send(b"GET / HTTP/1.1\r\nHost: t")
            slow.append(client)
        for _ in range(20):
            assert gateway.get().status == 200
    finally:
        for client in slow:
            client.close()


def test_a_body_that_trickles_is_cut_after_the_idle_time_of_its_route(tidegate, server):
    behind = server(upstream.echo())
    gateway = tidegate(simple(behind, idle_timeout="500ms"))
    with gateway.client() as client:
        client.send(http1.head("POST", "/", [("host", "a"), ("content-length", 1000)]) + b"x")
        began = time.monotonic()
        try:
            assert client.response().status in (408, 504)
        except http1.Closed:
            pass
        assert 0.4 < time.monotonic() - began < 5
    assert not [r for r in behind.requests if r.complete]


def test_bodies_beyond_the_limit_are_refused_with_413(bounded):
    gateway, behind = bounded(upstream.echo(), body_bytes="10KiB")
    assert gateway.request("POST", "/", body=b"x" * 10_240).status == 200
    assert gateway.request("POST", "/", [("expect", "100-continue"), ("content-length", "10241")]).status == 413
    with gateway.client() as client:
        client.send(http1.head("POST", "/", [("host", "a"), ("transfer-encoding", "chunked")]))
        try:
            for _ in range(20):
                client.send(b"400\r\n" + b"x" * 1024 + b"\r\n")
        except OSError:
            pass
        try:
            assert client.response().status == 413
        except http1.Closed as closed:
            assert statuses(closed.got) in ([], [413])
    assert len([r for r in behind.requests if r.complete]) == 1


def test_connections_beyond_the_limit_wait_and_are_served_when_one_ends(bounded):
    gateway, _ = bounded(connections=4)
    held = [gateway.client() for _ in range(4)]
    for client in held:
        assert client.request("GET", "/").status == 200
    with gateway.client() as fifth:
        fifth.send_request("GET", "/")
        fifth.sock.settimeout(0.3)
        with pytest.raises(socket.timeout):
            fifth.response()
        fifth.sock.settimeout(10)
        held.pop().close()
        assert fifth.response().status == 200
    for client in held:
        client.close()


def test_limits_of_head_size_and_count_are_exact(bounded):
    gateway, behind = bounded(header_bytes="8KiB", headers=20)
    assert gateway.get(headers=[(f"x-{n}", 1) for n in range(19)]).status == 200
    assert gateway.get(headers=[(f"x-{n}", 1) for n in range(20)]).status == 431
    assert gateway.get(headers=[("x", "a" * 7000)]).status == 200
    assert gateway.get(headers=[("x", "a" * 9000)]).status == 431


def test_pipelined_requests_are_answered_in_order(front):
    with front.client() as client:
        client.send(b"".join(http1.head("GET", f"/pipe-{n}", [("host", "a")]) for n in range(50)))
        for _ in range(50):
            assert client.response().status == 200
    assert [r.target for r in front.behind.requests if "/pipe-" in r.target] == [f"/pipe-{n}" for n in range(50)]


def test_thousands_of_broken_connections_leave_no_memory_and_no_panic(front):
    for _ in range(200):
        http1.exchange_raw(front.port, hostile.CASES[0].data)
    pid = front.roles().get("gateway", front.process.pid)
    before = resident_kib(pid)
    for round_number in range(3000):
        with front.client() as client:
            try:
                client.send(hostile.CASES[round_number % len(hostile.CASES)].data[: 1 + round_number % 97])
            except OSError:
                pass
    until(lambda: front.get("/alive").status == 200)
    until(lambda: sum(each["connections"] for each in front.api("listeners")) <= 1, what="connections gone")
    assert resident_kib(pid) - before < 16 * 1024
    assert "panicked" not in front.logs()
