"""Distributed traces: spans by OpenTelemetry's conventions, at a collector that reads them with OpenTelemetry's own messages."""

import json
import time
import urllib.parse

import grpc
import pytest

from harness import faults, faults_wire, http1, tls, upstream
from harness.gateway import command, route, simple, upstream as pool
from harness.model import service
from harness.net import free_port
from harness.providers import fingerprint, post, provider, route_to, token
from harness.wait import until

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"
ONE_TRY = {"attempts": 1}


def spans_counted(gateway, result):
    return gateway.metric("tidegate_trace_spans_total", result=result)


# --- what a span says -----------------------------------------------------------------------------------


def test_a_request_and_its_attempt_are_a_trace_and_the_endpoint_is_within_the_attempt(tidegate, server, collector, tmp_path):
    behind, seen = server(), collector()
    log = tmp_path / "access.log"
    node = {"region": "eu", "zone": "a"}
    gateway = tidegate({**simple(behind), "node": node, "tracing": seen.config(resource={"deployment.environment.name": "test"}), "access_log": {"to": str(log)}})
    before = time.time_ns()
    gateway.request("POST", "/a/b?token=of-the-caller", [("user-agent", "it"), ("x-request-id", "mine")], b"abc", host="of.test:81")
    request, (attempt,) = seen.trace()
    assert (request.name, request.parent, request.flags) == ("POST all", "", 0x101)
    assert before <= request.start <= request.end <= time.time_ns()
    assert request.attributes == {
        "http.request.method": "POST",
        "url.scheme": "http",
        "url.path": "/a/b",
        "http.route": "all",
        "network.protocol.version": "1.1",
        "client.address": "127.0.0.1",
        "user_agent.original": "it",
        "http.request.body.size": 3,
        "http.response.body.size": 2,
        "http.response.status_code": 200,
        "server.address": "of.test",
        "server.port": 81,
        "tidegate.listener": "main",
        "tidegate.attempts": 1,
        "tidegate.request_id": "mine",
    }
    assert (attempt.name, attempt.failed, request.failed) == ("POST", False, False)
    assert attempt.attributes == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "url.full": f"http://{behind.address}/a/b",
        "server.address": "127.0.0.1",
        "server.port": behind.port,
        "network.protocol.version": "1.1",
        "tidegate.pool": "up",
        "tidegate.member": behind.address,
        "tidegate.verdict": "ok",
    }
    assert behind.requests[0].header("traceparent") == attempt.traceparent
    resource = request.resource
    assert resource.pop("service.instance.id") and resource.pop("service.version")
    assert resource == {"service.name": "tidegate", "deployment.environment.name": "test", "cloud.region": "eu", "cloud.availability_zone": "a"}
    until(lambda: spans_counted(gateway, "exported") == 2)
    assert json.loads(log.read_text())["trace_id"] == request.trace


def test_every_attempt_is_a_span_over_retries_and_a_fallback(tidegate, server, collector):
    bad, gone, good, seen = server(upstream.status(503)), free_port(), server(), collector()
    retry = {"attempts": 3, "on": ["5xx", "connect-failure"], "budget": "off", "backoff": {"initial": "1ms", "max": "1ms"}}
    config = {
        "routes": [route("bad", name="r", fallback=[{"upstream": "gone"}, {"upstream": "good"}], retry=retry)],
        "upstreams": [pool("bad", bad, outlier_detection="off"), pool("gone", gone, outlier_detection="off"), pool("good", good)],
        "tracing": seen.config(),
    }
    gateway = tidegate(config)
    assert gateway.get("/x").status == 200
    request, attempts = seen.trace()
    assert request["tidegate.attempts"] == len(attempts) >= 3 and not request.failed
    pools = [each["tidegate.pool"] for each in attempts]
    assert pools == sorted(pools, key=["bad", "gone", "good"].index) and pools[-1] == "good"
    assert [each.get("http.request.resend_count") for each in attempts] == [None, *range(1, len(attempts))]
    assert len({each.id for each in attempts}) == len(attempts)
    for each in attempts:
        if each["tidegate.pool"] == "bad":
            assert each.failed and (each["http.response.status_code"], each["error.type"], each["tidegate.verdict"]) == (503, "503", "failure")
        if each["tidegate.pool"] == "gone":
            assert each.failed and each.get("http.response.status_code") is None and each["error.type"] == each["tidegate.cause"] == "connect-failure"
    carried = [each.header("traceparent") for each in [*bad.requests, *good.requests]]
    assert carried == [each.traceparent for each in attempts if each["tidegate.pool"] != "gone"]


def test_hedges_are_spans_beside_each_other(tidegate, server, collector):
    slow, seen = upstream.hang(), collector()
    # Whichever is asked first keeps silent.
    first = []

    async def behave(request, connection):
        first.append(request)
        await (slow if len(first) == 1 else upstream.ok())(request, connection)

    one, two = server(behave), server(behave)
    gateway = tidegate({**simple(one, two, hedge={"max": 2, "delay": "50ms"}), "tracing": seen.config()})
    assert gateway.get().status == 200
    _, attempts = seen.trace()
    assert [(each.get("tidegate.cause"), each["tidegate.verdict"], each.failed) for each in attempts] == [("cancelled", "neutral", False), (None, "ok", False)]
    assert [each.header("traceparent") for each in first] == [each.traceparent for each in attempts]
    assert attempts[1].start < attempts[0].end


def test_what_tidegate_answers_itself_is_a_span_with_its_code(tidegate, server, collector):
    seen = collector()
    config = {
        "routes": [
            route("gone", name="gone", match={"path": {"prefix": "/gone"}}, retry=ONE_TRY),
            {"name": "own", "match": {"path": {"exact": "/own"}}, "respond": {"status": 418, "body": "x"}},
        ],
        "upstreams": [pool("gone", free_port())],
        "tracing": seen.config(),
    }
    gateway = tidegate(config)
    for target in ("/nowhere", "/own", "/gone"):
        gateway.request("BREW" if target == "/own" else "GET", target)
    by_path = {spans[0]["url.path"]: spans for spans in seen.traces(3)}
    (nowhere,), (own,), (gone, *attempts) = by_path["/nowhere"], by_path["/own"], by_path["/gone"]
    assert (nowhere.name, nowhere["tidegate.error"], nowhere["http.response.status_code"], nowhere.failed) == ("GET", "no-route", 404, False)
    assert (own.name, own["http.request.method"], own["http.request.method_original"], own["http.response.status_code"], own.failed) == ("HTTP own", "_OTHER", "BREW", 418, False)
    assert (gone["tidegate.error"], gone["error.type"], gone["http.response.status_code"], gone.failed) == ("connect-failure", "connect-failure", 503, True)
    assert attempts and all(each.failed and each["error.type"] == "connect-failure" for each in attempts)


def test_a_caller_who_leaves_is_no_error(tidegate, server, collector):
    behind, seen = server(upstream.hang()), collector()
    gateway = tidegate({**simple(behind), "tracing": seen.config()})
    client = gateway.client()
    client.send_request("GET", "/")
    until(lambda: behind.requests)
    client.close()
    request, (attempt,) = seen.trace()
    assert request["tidegate.caller_gone"] is True and not request.failed and request.get("http.response.status_code") is None
    assert attempt["tidegate.cause"] == "cancelled" and not attempt.failed


def test_an_answer_that_is_cut_is_an_error_of_both(tidegate, server, collector):
    seen = collector()
    gateway = tidegate({**simple(server(upstream.truncated())), "tracing": seen.config()})
    with pytest.raises(Exception):
        gateway.get()
    request, (attempt,) = seen.trace()
    assert request.failed and request["error.type"] == "upstream-cut"
    assert attempt.failed and (attempt["tidegate.verdict"], attempt["error.type"]) == ("failure", "upstream-cut")


def test_a_tunnel_is_an_attempt_as_long_as_it_is_open(tidegate, server, collector):
    behind, seen = server(upstream.websocket()), collector()
    gateway = tidegate({**simple(behind), "tracing": seen.config()})
    handshake = [("host", "a"), ("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", 13), ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")]
    with gateway.client() as client:
        client.send(http1.head("GET", "/chat", handshake))
        assert client.response_head().status == 101
        opened = time.time_ns()
        client.send(b"hello")
        assert client.exactly(5) == b"hello"
        assert not seen.taken
        closed = time.time_ns()
    request, (attempt,) = seen.trace()
    assert request["http.response.status_code"] == attempt["http.response.status_code"] == 101 and attempt["tidegate.verdict"] == "ok"
    assert attempt.start < opened and attempt.end > closed and attempt.end == request.end
    assert behind.requests[0].header("traceparent") == attempt.traceparent


def test_a_call_that_its_caller_resets_is_a_span_all_the_same(tidegate, grpc_server, channel, collector):
    behind, seen = grpc_server("one"), collector()
    gateway = tidegate({**simple(behind), "tracing": seen.config()})
    future = channel(gateway.port).unary_unary("/bench.Echo/Name").future(b"", timeout=60, metadata=(("x-delay", "30"),))
    until(lambda: gateway.member(behind)["inflight"] == 1, what="call at the server")
    future.cancel()
    request, (attempt,) = seen.trace()
    assert request["tidegate.caller_gone"] is True and not request.failed
    assert attempt["tidegate.cause"] == "cancelled" and not attempt.failed


def test_calls_of_grpc_are_told_as_calls(tidegate, grpc_server, channel, collector):
    behind, seen = grpc_server("one"), collector()
    gateway = tidegate({**simple(behind, retry=ONE_TRY), "tracing": seen.config()})
    ch = channel(gateway.port)
    ch.unary_unary("/bench.Echo/Name")(b"", timeout=10)
    with pytest.raises(grpc.RpcError):
        ch.unary_unary("/bench.Echo/Name")(b"", timeout=10, metadata=(("x-fail", "INTERNAL"),))
    with pytest.raises(grpc.RpcError):
        ch.unary_unary("/bench.Echo/Name")(b"", timeout=10, metadata=(("x-fail", "NOT_FOUND"),))
    of = {spans[0].get("rpc.response.status_code"): spans for spans in seen.traces(3)}
    for status, failed in (("OK", (False, False)), ("INTERNAL", (True, True)), ("NOT_FOUND", (False, True))):
        request, attempt = of[status]
        for each in (request, attempt):
            assert each.name == each["rpc.method"] == "bench.Echo/Name" and each["rpc.system.name"] == "grpc"
            assert each["rpc.response.status_code"] == status
        assert (request.failed, attempt.failed) == failed
        assert attempt["network.protocol.version"] == "2"
    assert of["INTERNAL"][1]["error.type"] == "INTERNAL"


# --- which requests are recorded ---------------------------------------------------------------------------


def test_a_callers_flag_is_obeyed_in_both_directions(tidegate, server, collector):
    behind, seen = server(), collector()
    gateway = tidegate({**simple(behind), "tracing": seen.config(sample="0%")})
    gateway.get(headers=[("traceparent", f"{PARENT}-00"), ("tracestate", "v=1")])
    gateway.get()
    gateway.get(headers=[("traceparent", f"{PARENT}-01"), ("tracestate", "v=1")])
    request, (attempt,) = seen.trace()
    assert (request.trace, request.parent, request.flags, request.state) == (PARENT.split("-")[1], PARENT.split("-")[2], 0x301, "v=1")
    assert [each.header("traceparent") for each in behind.requests] == [f"{PARENT}-00", None, attempt.traceparent]
    assert behind.requests[2].header("tracestate") == "v=1"
    gateway.reload({**gateway.config, "tracing": seen.config(sample="100%")})
    gateway.get(headers=[("traceparent", f"{PARENT}-00")])
    gateway.get("/last")
    seen.traces(2)
    assert behind.requests[3].header("traceparent") == f"{PARENT}-00", "its trace is not recorded"


def test_callers_who_are_not_trusted_decide_nothing(tidegate, server, collector):
    behind, seen = server(), collector()
    gateway = tidegate({**simple(behind), "tracing": seen.config(sample="0%", parent_based=False)})
    for at, flags in enumerate(("00", "01", "02", "03")):
        gateway.get(headers=[("traceparent", f"{PARENT}-{flags}"), ("tracestate", "v=1")])
        assert behind.requests[at].header("traceparent") == f"{PARENT}-{flags}", "nothing of ours is its parent"
        assert behind.requests[at].header("tracestate") == "v=1"
    gateway.reload({**gateway.config, "tracing": seen.config(parent_based=False)})
    gateway.get(headers=[("traceparent", f"{PARENT}-00")])
    request, (attempt,) = seen.trace()
    assert (request.trace, request.parent, request.flags) == (PARENT.split("-")[1], PARENT.split("-")[2], 0x301)
    assert behind.requests[4].header("traceparent") == attempt.traceparent


def test_a_share_of_the_requests_is_recorded_and_their_endpoints_know(tidegate, server, collector):
    behind, seen = server(), collector()
    gateway = tidegate({**simple(behind), "tracing": seen.config(sample="20%")})
    with gateway.client() as client:
        for _ in range(1000):
            client.request("GET", "/")
    carried = [each.header("traceparent") for each in behind.requests]
    recorded = [each for each in carried if each]
    # Six standard deviations.
    assert 124 <= len(recorded) <= 276
    traces = seen.traces(len(recorded))
    assert sorted(recorded) == sorted(attempt.traceparent for _, attempt in traces)


def test_two_gateways_make_one_trace(tidegate, server, collector):
    seen, behind = collector(), server()
    inner = tidegate({**simple(behind), "tracing": seen.config(sample="0%", service_name="inner")})
    outer = tidegate({**simple(inner.port), "tracing": seen.config(service_name="outer")})
    outer.get()
    spans = until(lambda: len(seen.taken) == 4 and seen.taken)
    by = {(each.resource["service.name"], each.kind): each for each in spans}
    assert len({each.trace for each in spans}) == 1
    assert by["inner", "server"].parent == by["outer", "client"].id
    assert behind.requests[0].header("traceparent") == by["inner", "client"].traceparent


# --- models --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", ["openai", "anthropic", "gemini"])
def test_an_attempt_at_a_provider_has_the_attributes_of_genai(tidegate, faulty, collector, dialect, stream):
    seen, key = collector(), token("one")
    gateway = tidegate({"routes": [route_to("p")], "providers": [provider("p", faulty, [key], dialect, model_mapping={"*": "large"})], "tracing": seen.config()})
    assert post(gateway, "openai", stream=stream).status == 200
    request, (attempt,) = seen.trace()
    assert request.name == "POST p" and request["http.response.status_code"] == 200
    assert attempt.name == "chat large"
    told = attempt.attributes
    assert {name: told[name] for name in told if name.startswith("gen_ai.") and "response" not in name} == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": {"gemini": "gcp.gemini"}.get(dialect, dialect),
        "gen_ai.request.model": "large",
        "gen_ai.request.stream": stream,
        "gen_ai.usage.input_tokens": faults_wire.USAGE[0],
        "gen_ai.usage.output_tokens": faults_wire.USAGE[1],
    }
    assert told["gen_ai.response.id"] and told["gen_ai.response.model"] == "large"
    assert len(told["gen_ai.response.finish_reasons"]) == 1 and told["gen_ai.response.finish_reasons"][0] in ("stop", "STOP", "end_turn")
    assert 0 < told["gen_ai.response.time_to_first_chunk"] <= (attempt.end - attempt.start) / 1e9
    assert (told["tidegate.key"], told["tidegate.pool"], told["tidegate.verdict"], told["tidegate.tokens_estimated"]) == (fingerprint(key), "p", "ok", False)
    assert (told["server.address"], told["server.port"], told["http.response.status_code"]) == ("127.0.0.1", faulty.port, 200)
    assert "key=" not in told["url.full"] and "?" not in told["url.full"]


def test_keys_that_fail_over_and_a_fallback_are_attempts_with_their_cause(tidegate, faulty, collector):
    seen, one, two, other = collector(), token("one"), token("two"), token("other")
    faulty.scripts = {one: faults.dead(), two: faults.limited(30)}
    providers = [provider("p", faulty, [one, two]), provider("q", faulty, [other], "anthropic")]
    gateway = tidegate({"routes": [route_to("p", "q", name="r")], "providers": providers, "tracing": seen.config()})
    assert post(gateway).status == 200
    request, attempts = seen.trace()
    assert request["tidegate.attempts"] == 3 and not request.failed
    by_key = {each["tidegate.key"]: each for each in attempts}
    dead, limited, good = by_key[fingerprint(one)], by_key[fingerprint(two)], by_key[fingerprint(other)]
    assert (dead["tidegate.cause"], dead["tidegate.verdict"], dead["http.response.status_code"], dead["error.type"], dead.failed) == ("key_dead", "evidence", 401, "401", True)
    assert (limited["tidegate.cause"], limited["tidegate.verdict"], limited["http.response.status_code"]) == ("limited", "evidence", 429)
    assert attempts[-1] is good and good["tidegate.pool"] == "q" and good["gen_ai.provider.name"] == "anthropic"
    parents = {call.key: call.header("traceparent") for call in faulty.calls}
    assert parents == {one: dead.traceparent, two: limited.traceparent, other: good.traceparent}


def test_a_stream_that_breaks_off_is_an_error_with_what_was_used_so_far(tidegate, faulty, collector):
    seen = collector()
    faulty.default = faults.broken_stream("eof", True)
    gateway = tidegate({"routes": [route_to("p")], "providers": [provider("p", faulty, [token("one")])], "tracing": seen.config()})
    post(gateway, stream=True)
    request, (attempt,) = seen.trace()
    assert request.failed and request["error.type"] == "stream_broken" and request["http.response.status_code"] == 200
    assert attempt.failed and attempt["tidegate.verdict"] == "failure" and attempt["tidegate.tokens_estimated"] is True
    assert attempt["gen_ai.usage.output_tokens"] > 0


def test_a_stream_that_goes_on_elsewhere_has_an_attempt_for_each_part_with_its_own_tokens(tidegate, faulty, collector):
    seen, keys = collector(), [token("one"), token("two")]
    faulty.default = faults.in_turn(faults.broken_stream("eof", True), faults.answer())
    providers = [provider("p", faulty, keys, "anthropic")]
    gateway = tidegate({"routes": [route_to("p", **{"continue": True})], "providers": providers, "tracing": seen.config()})
    assert post(gateway, stream=True, model="claude-3-5-haiku").status == 200
    request, attempts = seen.trace()
    assert not request.failed and len(attempts) == 2
    broken, good = attempts
    assert broken.failed and broken["tidegate.verdict"] == "failure" and broken["tidegate.tokens_estimated"] is True
    assert not good.failed and good["gen_ai.usage.output_tokens"] == faults_wire.USAGE[1] and good["tidegate.tokens_estimated"] is False


def test_no_key_left_is_a_request_without_attempts(tidegate, faulty, collector):
    seen = collector()
    faulty.default = faults.dead()
    gateway = tidegate({"routes": [route_to("p")], "providers": [provider("p", faulty, [token("one")], failover={"health_check_interval": "60s"})], "tracing": seen.config()})
    for _ in range(2):
        assert post(gateway).status in (429, 503)
    first, second = sorted(seen.traces(2), key=len, reverse=True)
    assert len(first) == 2 and len(second) == 1
    assert second[0].failed and second[0]["tidegate.error"] and second[0]["tidegate.attempts"] == 0


def test_a_call_of_a_hosted_model_is_an_attempt_like_any_other(tidegate, collector, tmp_path):
    seen = collector()
    gateway = tidegate({"routes": [route([{"service": "example"}], name="r")], "services": [service(tmp_path)], "tracing": seen.config()})
    until(lambda: gateway.api("services")[0]["ready"] == 1, 30, "an instance")
    assert gateway.request("POST", "/example/predict", [("content-type", "application/json")], b"{}", timeout=30).status == 200
    request, (attempt,) = seen.trace()
    assert (request["http.route"], request["url.path"]) == ("r", "/example/predict")
    assert attempt["network.transport"] == "unix" and attempt["server.address"].endswith(".sock") and attempt.get("server.port") is None
    assert attempt["url.full"] == "http://localhost/example/predict" and attempt["tidegate.verdict"] == "ok"


# --- the way to the collector --------------------------------------------------------------------------------


def test_a_dead_collector_is_told_once_and_changes_nothing_for_callers(tidegate, server, collector):
    port = free_port()
    gateway = tidegate({**simple(server()), "tracing": {"otlp": f"http://127.0.0.1:{port}", "schedule_delay": "10ms"}})
    for _ in range(50):
        assert gateway.get().status == 200
    until(lambda: "traces are not taken" in gateway.logs())
    back = collector(port=port)
    gateway.get()
    back.traces(51)
    until(lambda: spans_counted(gateway, "exported") == 102)
    assert spans_counted(gateway, "failed") == spans_counted(gateway, "dropped") == 0
    until(lambda: "traces are taken again" in gateway.logs())
    assert gateway.logs().count("traces are not taken") == 1


def test_a_silent_collector_fills_the_queue_and_what_is_too_much_is_counted(tidegate, server, collector):
    seen = collector(*[None] * 20)
    gateway = tidegate({**simple(server()), "tracing": seen.config(timeout="10s"), "shutdown": {"grace": "2s"}})
    with gateway.client() as client:
        for _ in range(2600):
            assert client.request("GET", "/").status == 200
    # One batch is under way, 2048 requests wait, the rest is lost: two spans each.
    until(lambda: spans_counted(gateway, "dropped") > 0)
    assert spans_counted(gateway, "dropped") <= 2 * (2600 - 2048) and spans_counted(gateway, "exported") == 0


def test_a_collector_that_has_too_much_to_do_is_asked_again_when_it_says(tidegate, server, collector):
    async def busy(request, connection):
        await connection.respond(429, b"", [("retry-after", 1)])

    seen = collector(busy, 503)
    gateway = tidegate({**simple(server()), "tracing": seen.config()})
    began = time.monotonic()
    gateway.get()
    seen.trace()
    assert time.monotonic() - began >= 1
    assert len(seen.requests) == 3 and len({request.body for request in seen.requests}) == 1
    until(lambda: spans_counted(gateway, "exported") == 2)


def test_spans_that_a_collector_refuses_are_counted_and_not_sent_again(tidegate, server, collector):
    seen = collector(400)
    seen.answers.append(seen.rejecting(1))
    gateway = tidegate({**simple(server()), "tracing": seen.config()})
    gateway.get()
    until(lambda: spans_counted(gateway, "failed") == 2)
    gateway.get()
    until(lambda: spans_counted(gateway, "rejected") == 1)
    assert spans_counted(gateway, "exported") == 1 and len(seen.requests) == 2


def test_what_waits_is_sent_when_the_gateway_is_told_to_end(tidegate, server, collector):
    seen = collector()
    gateway = tidegate({**simple(server()), "tracing": seen.config(schedule_delay="10m")})
    for _ in range(3):
        gateway.get()
    assert not seen.taken
    gateway.stop()
    assert len(seen.taken) == 6


def test_the_end_waits_for_a_silent_collector_no_longer_than_the_grace(tidegate, server, collector):
    seen = collector(None, None)
    gateway = tidegate({**simple(server()), "tracing": seen.config(timeout="1h"), "shutdown": {"grace": "1s"}})
    gateway.get()
    until(lambda: seen.requests)
    began = time.monotonic()
    gateway.stop()
    assert time.monotonic() - began < 15


def test_a_reload_turns_traces_on_moves_them_and_turns_them_off(tidegate, server, collector):
    first, second = collector(), collector()
    gateway = tidegate(simple(server()))
    gateway.get("/before")
    gateway.reload({**gateway.config, "tracing": first.config(schedule_delay="10m")})
    gateway.get("/first")
    gateway.reload({**gateway.config, "tracing": second.config()})
    gateway.get("/second")
    without = {name: value for name, value in gateway.config.items() if name != "tracing"}
    gateway.reload(without)
    gateway.get("/after")
    assert [spans[0]["url.path"] for spans in first.traces()] == ["/first"], "what waited was sent at once"
    assert [spans[0]["url.path"] for spans in second.traces()] == ["/second"]
    until(lambda: spans_counted(gateway, "exported") == 4)


def test_a_header_for_the_collector_is_a_secret(tidegate, server, collector):
    seen, secret = collector(401), "Bearer canary-of-the-collector-0123456789"
    gateway = tidegate({**simple(server()), "tracing": seen.config(headers={"authorization": "${COLLECTOR}"})}, env={"COLLECTOR": secret, "TIDEGATE_LOG": "debug"})
    gateway.get()
    until(lambda: spans_counted(gateway, "failed") == 2)
    assert seen.requests[0].header("authorization") == secret
    shown = gateway.admin("/api/v1/config").text()
    assert "<secret " in shown and "canary" not in shown
    gateway.stop()
    assert "canary" not in gateway.logs()


def test_a_collector_behind_tls_is_asked_with_its_authority(tidegate, server, collector, authority):
    seen = collector(tls=authority.server("localhost"))
    port = urllib.parse.urlsplit(seen.url).port
    ca = {"ca": str(authority.pem)}
    gateway = tidegate({**simple(server()), "tracing": {"otlp": f"https://localhost:{port}/", "schedule_delay": "10ms", "tls": ca}})
    gateway.get()
    seen.trace()


def test_a_reload_reads_a_renewed_authority_of_the_collector(tidegate, server, collector, authority, tmp_path):
    seen, ca = collector(tls=authority.server("localhost")), tmp_path / "ca.pem"
    ca.write_bytes(tls.Authority(tmp_path / "another").pem.read_bytes())
    port = urllib.parse.urlsplit(seen.url).port
    gateway = tidegate({**simple(server()), "tracing": {"otlp": f"https://localhost:{port}", "schedule_delay": "10ms", "tls": {"ca": str(ca)}}})
    gateway.get("/before")
    until(lambda: "traces are not taken" in gateway.logs())
    ca.write_bytes(authority.pem.read_bytes())
    gateway.reload(gateway.config)
    gateway.get("/after")
    assert seen.trace()[0]["url.path"] == "/after"


def test_mistakes_in_the_section_are_told_with_their_place(tmp_path):
    path = tmp_path / "tidegate.yaml"
    for text, said in (
        ("tracing:\n  otlp: http://127.0.0.1:4318\n  sample: 101%\n  service_nam: a\n", ("from 0% to 100%", "`service_name`", f"{path}:3:", f"{path}:4:")),
        ("tracing:\n  otlp: http://127.0.0.1:4318/v1/traces\n  headers: { host: x }\n", ("leave `/v1/traces` out", "`host` is set by the export itself", f"{path}:2:", f"{path}:3:")),
        ("tracing: { otlp: http://me:secret@127.0.0.1:4318 }\n", ("credentials in a URL", "`headers`")),
        ("tracing: { otlp: http://127.0.0.1:4318, tls: { ca: none.pem }, resource: { service.name: x } }\n", ("none.pem",)),
        ("tracing: { sample: 1% }\n", ("`otlp`",)),
    ):
        path.write_text(text)
        ran = command("check", path)
        assert ran.returncode == 2
        for each in said:
            assert each in ran.stderr, (each, ran.stderr)
