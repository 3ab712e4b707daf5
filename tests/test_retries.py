"""Which failures a caller never sees, which it must see, and what another attempt may cost."""

import asyncio
import socket
import threading
import time

import grpc
import pytest

from harness import http1, http2, upstream
from harness.gateway import route, simple, upstream as pool
from harness.load import Load
from harness.net import free_port
from harness.wait import until

QUICK = {"initial": "1ms", "max": "5ms"}


def retry(**more):
    return {"attempts": 3, "backoff": QUICK, **more}


def in_order(*servers, **more):
    """A pool whose first member is tried first."""
    endpoints = [{"address": getattr(s, "address", f"127.0.0.1:{s}"), "priority": n} for n, s in enumerate(servers)]
    return {"endpoints": endpoints, "outlier_detection": "off", "panic_threshold": "0%", "balance": "round_robin", **more}


# --- safe whatever the method ---------------------------------------------------------------------


def test_a_connect_failure_is_retried_on_another_member_even_for_post(tidegate, server):
    live = server()
    gateway = tidegate(simple(free_port(), live, upstream_more={"balance": "round_robin", "outlier_detection": "off"}, retry=retry()))
    for _ in range(20):
        assert gateway.request("POST", "/", body=b"x").status == 200
    assert len(live.requests) == 20


def test_a_kept_connection_that_the_server_closed_costs_no_request(tidegate, server):
    """The race of keep-alive: the server closes an idle connection while a request is on its way to it."""

    async def once(_request, connection):
        await connection.respond(200, b"ok")
        connection.close()  # without having said so

    one = server(once)
    gateway = tidegate(simple(one, retry=retry()))
    report = Load(gateway.port, connections=4, count=400).__enter__().finish()
    assert not report.bad(), report


# --- written but unanswered -----------------------------------------------------------------------


def test_a_post_that_was_written_and_not_answered_is_not_sent_twice(tidegate, server):
    one, two = server(upstream.reset()), server()
    gateway = tidegate(simple(one, two, upstream_more={"balance": "round_robin", "outlier_detection": "off"}, retry=retry(on=["reset", "connect-failure"])))
    answers = [gateway.request("POST", "/", body=b"x") for _ in range(10)]
    assert sorted({a.status for a in answers}) in ([200, 502], [200, 503])
    failed = [a for a in answers if a.status != 200]
    assert all(a.error_code() for a in failed)
    assert len(one.requests) == len(failed) and len(two.requests) == 10 - len(failed)
    assert len(failed) == 5


def test_a_get_that_was_written_and_not_answered_is_retried_where_asked(tidegate, server):
    one, two = server(upstream.reset()), server()
    gateway = tidegate(simple(one, two, upstream_more={"balance": "round_robin", "outlier_detection": "off"}, retry=retry(on=["reset"], budget="off")))
    assert [gateway.get().status for _ in range(10)] == [200] * 10
    assert one.requests


def test_a_post_marked_replayable_is_retried_with_its_whole_body(tidegate, server):
    one, two = server(upstream.reset()), server(upstream.echo())
    gateway = tidegate(simple(one, two, upstream_more={"balance": "round_robin", "outlier_detection": "off"}, retry=retry(on=["reset"], replay=True, budget="off")))
    for _ in range(6):
        for body in (b"p" * 20_000, [b"chunk" * 100, b"more"]):
            answer = gateway.request("POST", "/", body=body)
            assert (answer.status, answer.body) == (200, b"".join(body) if isinstance(body, list) else body)
    assert one.requests


def test_a_body_beyond_the_buffer_commits_the_attempt(tidegate, server):
    one, two = server(upstream.reset()), server(upstream.echo())
    gateway = tidegate(simple(upstream_more=in_order(one, two), retry=retry(on=["reset"], replay=True, buffer="4KiB")))
    assert gateway.request("POST", "/", body=b"p" * 1000).status == 200
    assert gateway.request("POST", "/", body=b"p" * 100_000).status in (502, 503)
    assert len(two.requests) == 1


# --- answered with an error: the policy decides ---------------------------------------------------


@pytest.mark.parametrize(
    "on, status, tries",
    [(["5xx"], 500, 3), (["gateway-error"], 500, 1), (["gateway-error"], 503, 3), ([429], 429, 3), (["5xx"], 429, 1), (["connect-failure"], 503, 1)],
)
def test_statuses_are_retried_as_the_policy_names_them(tidegate, server, on, status, tries):
    one = server(upstream.status(status))
    gateway = tidegate(simple(one, upstream_more={"outlier_detection": "off"}, retry=retry(on=[str(o) for o in on], budget="off")))
    assert gateway.request("POST", "/", body=b"x").status == status
    assert len(one.requests) == tries


def test_members_that_failed_are_avoided_by_the_next_attempt(tidegate, server):
    servers = [server(upstream.status(503)), server(upstream.status(503)), server()]
    gateway = tidegate(simple(*servers, upstream_more={"balance": "random", "outlier_detection": "off"}, retry=retry(on=["gateway-error"], budget="off")))
    assert [gateway.get().status for _ in range(30)] == [200] * 30


def test_the_last_answer_goes_to_the_caller_unchanged_when_all_attempts_fail(tidegate, server):
    one = server(upstream.status(503, b"busy", [("x-from", "upstream")]))
    gateway = tidegate(simple(one, upstream_more={"outlier_detection": "off"}, retry=retry(on=["5xx"], budget="off")))
    answer = gateway.get()
    assert (answer.status, answer.body, answer.header("x-from")) == (503, b"busy", "upstream")
    assert answer.error_code() is None


def test_once_content_has_gone_out_nothing_is_retried_and_the_cut_is_passed_on(tidegate, server):
    for behaviour in (upstream.truncated(1000, 100), upstream.truncated_chunks()):
        one, two = server(behaviour), server()
        gateway = tidegate(simple(upstream_more=in_order(one, two), retry=retry(on=["5xx", "reset"], replay=True)))
        with pytest.raises(http1.Closed):
            gateway.get()
        assert not two.requests
        until(lambda: gateway.member(one)["failures"] == 1, what="the cut counts as a failure")


def test_the_retry_budget_bounds_what_a_dead_pool_can_cost(tidegate, server):
    one = server(upstream.delay(0.05, upstream.status(503)))
    gateway = tidegate(simple(one, upstream_more={"outlier_detection": "off"}, retry=retry(attempts=5, on=["5xx"], budget={"percent": "20%", "min": 1})))
    report = Load(gateway.port, connections=20, count=200).__enter__().finish()
    assert report.statuses[503] == 200
    # Without a budget it would be 1,000. One retry per five requests in flight, with room for the edges.
    assert 200 < len(one.requests) < 200 * 1.6, len(one.requests)


# --- time -----------------------------------------------------------------------------------------


def test_a_try_that_takes_too_long_is_given_up_for_another_member(tidegate, server):
    slow, quick = server(upstream.hang()), server()
    gateway = tidegate(simple(upstream_more=in_order(slow, quick), retry=retry(on=["per-try-timeout"], per_try_timeout="100ms")))
    began = time.monotonic()
    assert gateway.get().status == 200
    assert time.monotonic() - began >= 0.1
    until(lambda: slow.cancelled, what="the slow member is told to stop")


def test_the_total_timeout_covers_all_attempts_and_is_never_retried(tidegate, server):
    slow = server(upstream.hang())
    gateway = tidegate(simple(slow, timeout="300ms", retry=retry(on=["per-try-timeout", "5xx"], per_try_timeout="100ms", budget="off", attempts=10)))
    began = time.monotonic()
    answer = gateway.get()
    took = time.monotonic() - began
    assert answer.status == 504 and answer.error_code()
    assert 0.3 <= took < 3
    assert 2 <= len(slow.requests) <= 3
    until(lambda: len(slow.cancelled) == len(slow.requests), what="all attempts cancelled")


def test_a_hedge_answers_while_the_first_member_is_stuck(tidegate, server):
    slow, quick = server(upstream.hang()), server(upstream.ok(b"quick"))
    gateway = tidegate(simple(upstream_more=in_order(slow, quick), hedge={"delay": "50ms", "max": 2}))
    answer = gateway.get()
    assert answer.body == b"quick"
    until(lambda: slow.cancelled, what="the loser is cancelled")


def test_a_post_is_not_hedged_unless_marked_replayable(tidegate, server):
    slow, quick = server(upstream.delay(0.3, upstream.ok(b"slow"))), server(upstream.ok(b"quick"))
    config = simple(upstream_more=in_order(slow, quick), hedge={"delay": "50ms", "max": 2})
    gateway = tidegate(config)
    assert gateway.request("POST", "/", body=b"x").body == b"slow"
    assert not quick.requests
    config["routes"][0]["retry"] = {"replay": True}
    gateway.reload(config)
    assert gateway.request("POST", "/", body=b"x").body == b"quick"


def test_a_hedge_that_finds_no_place_leaves_the_first_attempt_running(tidegate, server):
    answers = threading.Event()

    async def waits(request, connection):
        while not answers.is_set():
            await asyncio.sleep(0.005)
        await connection.respond(200, b"slow")

    slow, other = server(waits), server()
    pool = {**in_order(slow, other), "connection_pool": {"max_connections": 1, "max_pending_requests": 1}}
    gateway = tidegate(simple(upstream_more=pool, retry={"attempts": 2, "on": ["5xx"]}, hedge={"delay": "500ms", "max": 2}), workers=1)
    with gateway.client() as first, gateway.client() as queued:
        first.send_request("GET", "/")
        until(lambda: slow.requests, what="the only connection is taken")
        queued.send_request("POST", "/")  # and the only place in the queue
        until(lambda: gateway.metric("tidegate_retries_total", kind="hedge") == 1, what="the hedge")
        answers.set()
        assert first.response().body == b"slow"
        assert queued.response().body == b"slow"
    assert [request.method for request in slow.requests] == ["GET", "POST"] and not other.requests


# --- whose fault the silence is --------------------------------------------------------------------


def test_time_in_our_own_queue_is_not_held_against_the_member(tidegate, server):
    slow = server(upstream.hang())
    pool = {**in_order(slow), "connection_pool": {"max_connections": 1}}
    routes = [
        route("up", name="long", match={"path": {"prefix": "/long"}}),
        route("up", name="deadline", match={"path": {"prefix": "/deadline"}}, timeout="50ms"),
        route("up", name="try", match={"path": {"prefix": "/try"}}, retry={"attempts": 1, "per_try_timeout": "50ms"}),
    ]
    gateway = tidegate({"routes": routes, "upstreams": [{"name": "up", **pool}]}, workers=1)
    with gateway.client() as client:
        client.send_request("GET", "/long")
        until(lambda: slow.requests, what="the only connection is taken")
        for path in ("/deadline", "/try"):
            assert gateway.get(path).status == 504
            assert gateway.request("POST", path, body=b"x").status == 504
        assert gateway.member(slow)["failures"] == 0
        assert len(slow.requests) == 1
    until(lambda: slow.cancelled)
    # The same silence of the member itself is.
    assert gateway.get("/deadline").status == 504
    until(lambda: gateway.member(slow)["failures"] == 1)


def test_a_connect_that_takes_too_long_is_the_members_fault(tidegate):
    with socket.socket() as full, socket.socket() as one, socket.socket() as two:
        # A listener whose queue is full answers no further SYN.
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for each in (one, two):
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        port = full.getsockname()[1]
        pool = {**in_order(port), "connection_pool": {"connect_timeout": "10s"}}
        gateway = tidegate(simple(upstream_more=pool, timeout="300ms"))
        assert gateway.get().status == 504
        assert gateway.member(f"127.0.0.1:{port}")["failures"] == 1


def test_a_member_that_says_it_has_too_much_to_do_gets_less(tidegate, server):
    limited, free = server(upstream.status(429)), server()
    gateway = tidegate(simple(limited, free, upstream_more={"balance": "peak_ewma"}))
    for _ in range(100):
        assert gateway.get().status in (200, 429)
    assert len(limited.requests) < 20
    assert gateway.member(limited)["failures"] == 0


# --- injected delays ------------------------------------------------------------------------------


def delayed(*servers, delay="60s", **more):
    return simple(*servers, fault={"delay": {"duration": delay, "percent": 100}}, **more)


def inflight(gateway):
    return gateway.metric("tidegate_inflight", route="all")


@pytest.mark.parametrize("leave", ["whole", "unfinished", "http2"])
def test_a_caller_that_leaves_a_delay_gives_its_place_back(tidegate, server, leave):
    behind = server()
    gateway = tidegate(delayed(behind, concurrency={"requests": 1}))
    for _ in range(2):
        with http2.Client(gateway.port) if leave == "http2" else gateway.client() as client:
            if leave == "http2":
                client.request()
            elif leave == "whole":
                client.send_request("GET", "/")
            else:
                client.send(http1.head("POST", "/", [("host", "a"), ("content-length", 9)]) + b"half")
            until(lambda: inflight(gateway) == 1, what="the only place is taken")
            assert gateway.get().status == 429
        until(lambda: inflight(gateway) == 0, what="the place is free again")
    assert not behind.requests


def test_a_delay_does_not_outlast_the_timeout_and_blames_nobody(tidegate, server):
    behind = server()
    gateway = tidegate(delayed(behind, timeout="200ms"))
    answer = gateway.get()
    assert answer.status == 504 and answer.error_code() == "timeout"
    assert gateway.member(behind)["failures"] == 0 and not behind.requests


def test_a_delayed_request_keeps_its_body(tidegate, server):
    gateway = tidegate(delayed(server(upstream.echo()), delay="100ms"))
    for body in (b"x" * 100_000, [b"chunk" * 100, b"more"]):
        answer = gateway.request("POST", "/", body=body)
        assert answer.body == (b"".join(body) if isinstance(body, list) else body)


# --- calls cut in the middle ----------------------------------------------------------------------


def test_a_grpc_call_whose_server_dies_in_the_middle_is_unavailable(tidegate, grpc_server, channel):
    behind = grpc_server("one")
    gateway = tidegate(simple(behind))
    said = threading.Semaphore(1)

    def talk():
        while said.acquire(timeout=10):
            yield b"word"

    answers = channel(gateway.port).stream_stream("/bench.Echo/Chat")(talk(), timeout=20)
    assert next(answers) == b"word"
    behind.kill()
    with pytest.raises(grpc.RpcError) as error:
        next(answers)
    said.release()
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "upstream died" in error.value.details()
    until(lambda: gateway.member(behind)["failures"] == 1)


def test_a_grpc_call_that_outlasts_the_timeout_is_told_so_after_its_first_answers(tidegate, grpc_server, channel):
    behind = grpc_server("one")
    gateway = tidegate(simple(behind, timeout="500ms"))
    said = threading.Semaphore(1)

    def talk():
        while said.acquire(timeout=10):
            yield b"word"

    answers = channel(gateway.port).stream_stream("/bench.Echo/Chat")(talk(), timeout=20)
    assert next(answers) == b"word"
    with pytest.raises(grpc.RpcError) as error:
        next(answers)
    said.release()
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert "not complete in time" in error.value.details()


# --- fallback -------------------------------------------------------------------------------------


def test_fallback_is_used_when_nothing_is_fit_or_all_failed(tidegate, server):
    failing, old = server(upstream.status(503)), server(upstream.ok(b"old"))
    gateway = tidegate(
        {
            "routes": [
                route("empty", match={"path": {"prefix": "/empty"}}, fallback=[{"upstream": "old"}], retry=retry()),
                route("failing", match={"path": {"prefix": "/failing"}}, fallback=[{"upstream": "old"}], retry=retry(on=["5xx"], budget="off")),
                route("failing", name="unasked", match={"path": {"prefix": "/unasked"}}, fallback=[{"upstream": "old"}], retry=retry(on=["reset"])),
            ],
            "upstreams": [pool("empty", free_port()), pool("failing", failing, outlier_detection="off"), pool("old", old)],
        }
    )
    assert gateway.get("/empty").body == b"old"
    assert gateway.get("/failing").body == b"old"
    assert gateway.request("POST", "/failing", body=b"again").body == b"old"
    assert old.requests[-1].body == b"again"
    assert gateway.get("/unasked").status == 503


# --- callers who leave ----------------------------------------------------------------------------


def test_a_caller_that_leaves_stops_the_attempt_at_once_and_hurts_no_member(tidegate, server):
    slow = server(upstream.hang())
    gateway = tidegate(simple(slow, upstream_more={"outlier_detection": {"consecutive_5xx": 1, "consecutive_local_origin": 1}}))
    for number in range(3):
        with gateway.client() as client:
            client.send_request("GET", "/")
            until(lambda: len(slow.requests) == number + 1, what="request at the member")
        until(lambda: len(slow.cancelled) == number + 1, what="member told")
    member = gateway.member(slow)
    assert (member["state"], member["failures"], member["ejections"]) == ("healthy", 0, 0)


# --- ejection over HTTP ---------------------------------------------------------------------------


def test_a_member_that_answers_500_five_times_is_ejected_and_comes_back(tidegate, server):
    good, bad = server(), server(upstream.in_turn(*[upstream.status(500)] * 5, upstream.ok()))
    detection = {"consecutive_5xx": 5, "base_ejection_time": "1s", "interval": "100ms"}
    gateway = tidegate(simple(good, bad, upstream_more={"balance": "round_robin", "outlier_detection": detection}))
    # One request at a time: with more, another may be under way when the fifth is answered.
    with Load(gateway.port, connections=1) as load:
        until(lambda: gateway.member(bad)["state"] == "ejected", what="ejected")
        seen = len(bad.requests)
        began = time.monotonic()
        until(lambda: gateway.member(bad)["state"] == "healthy", what="returned")
        away = time.monotonic() - began
        until(lambda: len(bad.requests) > seen + 10, what="used again")
    assert load.report.statuses[500] == 5
    assert seen == 5 and away > 0.7


def test_failures_that_came_by_different_routes_count_together(tidegate, server):
    good, bad = server(), server(upstream.status(500))
    config = simple(good, bad, upstream_more={"balance": "round_robin", "outlier_detection": {"consecutive_5xx": 4, "base_ejection_time": "1m"}})
    config["routes"] = [route("up", name="one", match={"path": {"prefix": "/one"}}), route("up", name="other")]
    gateway = tidegate(config, workers=1)
    until(lambda: gateway.get("/one").status == 500, what="the bad one's turn")
    for number in range(6):
        # Every second request is the bad one's: its failures come by both routes in turn.
        gateway.get("/one" if number % 4 < 2 else "/other")
    until(lambda: gateway.member(bad)["state"] == "ejected", what="ejected")
    assert len(bad.requests) == 4


def test_the_last_fit_member_is_never_ejected_by_statistics(tidegate, server):
    bad = server(upstream.status(500))
    gateway = tidegate(simple(bad, upstream_more={"outlier_detection": {"consecutive_5xx": 2, "max_ejection_percent": "10%"}}))
    for _ in range(10):
        assert gateway.get().status == 500
    assert gateway.member(bad)["state"] == "healthy"


def test_a_windowed_rule_counts_failures_that_are_not_in_a_row(tidegate, server):
    good = server()
    flaky = server(upstream.in_turn(*[upstream.ok(), upstream.status(500)] * 5, upstream.ok()))
    detection = {"consecutive_5xx": 0, "errors": {"count": 5, "within": "5m"}, "base_ejection_time": "60s"}
    gateway = tidegate(simple(good, flaky, upstream_more={"balance": "round_robin", "outlier_detection": detection}))
    with Load(gateway.port, connections=1):
        until(lambda: gateway.member(flaky)["state"] == "ejected", what="ejected")
    assert len(flaky.requests) <= 11


def test_concurrent_failures_do_not_eject_more_than_the_policy_allows(tidegate, server):
    servers = [server(upstream.delay(0.02, upstream.status(500))) for _ in range(4)]
    detection = {"consecutive_5xx": 3, "max_ejection_percent": "50%", "base_ejection_time": "60s"}
    gateway = tidegate(simple(*servers, upstream_more={"balance": "round_robin", "outlier_detection": detection}), workers=2)
    worst, stop = [0], threading.Event()

    def watch():
        while not stop.is_set():
            worst[0] = max(worst[0], list(gateway.members().values()).count("ejected"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        Load(gateway.port, connections=32, count=1000).__enter__().finish()
    finally:
        stop.set()
        watcher.join()
    assert worst[0] == 2
