"""gRPC through the gateway: statuses, streams, deadlines, cancellation, retries as in gRFC A6."""

import threading
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from harness import http2, protos
from harness.gateway import route, simple, upstream as pool
from harness.grpc_peers import GrpcLoad
from harness.net import free_port
from harness.wait import until

NAME, UNARY = "/bench.Echo/Name", "/bench.Echo/Unary"


def call(grpc_channel, method=NAME, message=b"", timeout=10, metadata=()):
    return grpc_channel.unary_unary(method)(message, timeout=timeout, metadata=metadata)


def status(grpc_channel, method=NAME, **more):
    """Status code and details of a call that must fail."""
    with pytest.raises(grpc.RpcError) as caught:
        call(grpc_channel, method, **more)
    return caught.value.code().name, caught.value.details()


@pytest.fixture
def echo(tidegate, grpc_server, channel):
    """A server, a gateway in front of it, a channel to that."""

    def start(**config):
        behind = grpc_server("one")
        gateway = tidegate(simple(behind, **config))
        return behind, gateway, channel(gateway.port)

    return start


def test_unary_calls_carry_messages_metadata_and_trailers(echo):
    _, _, ch = echo()
    data = bytes(range(256)) * 400
    answer, done = ch.unary_unary(UNARY).with_call(data, timeout=10, metadata=(("x-a", "1"), ("x-bin-bin", b"\0\xff")))
    assert answer == data
    assert dict(done.initial_metadata())["x-server"] == "one"
    assert dict(done.trailing_metadata())["x-trailer"] == "end"
    seen = eval(call(ch, "/bench.Echo/Metadata", metadata=(("x-a", "1"), ("x-bin-bin", b"\0\xff"))))
    assert ("x-a", "1") in seen and ("x-bin-bin", b"\0\xff") in seen


def test_every_status_of_a_server_reaches_the_caller(echo):
    _, _, ch = echo(retry={"attempts": 1}, upstream_more={"outlier_detection": "off"})
    for code in grpc.StatusCode:
        if code is not grpc.StatusCode.OK:
            assert status(ch, metadata=(("x-fail", code.name),)) == (code.name, "as asked")
    assert status(ch, "/bench.Echo/Nothing")[0] == "UNIMPLEMENTED"


def test_streams_pass_in_all_directions(echo):
    _, _, ch = echo()
    down = list(ch.unary_stream("/bench.Echo/Download")(b"500", timeout=20))
    assert down == [b"%d" % n for n in range(500)]
    assert ch.stream_unary("/bench.Echo/Upload")(iter([b"x" * 50_000] * 100), timeout=20) == b"5000000"
    assert list(ch.stream_stream("/bench.Echo/Chat")(iter([b"a", b"b", b"c"]), timeout=20)) == [b"a", b"b", b"c"]


def test_a_conversation_is_not_held_back(echo):
    """Each message is answered before the next one is sent."""
    _, _, ch = echo()
    step, words = threading.Semaphore(1), [b"one", b"two", b"three"]

    def talk():
        for word in words:
            assert step.acquire(timeout=10)
            yield word

    heard = []
    for answer in ch.stream_stream("/bench.Echo/Chat")(talk(), timeout=20):
        heard.append(answer)
        step.release()
    assert heard == words


def test_a_large_message_passes(echo):
    _, _, ch = echo()
    data = b"m" * (32 << 20)
    assert call(ch, UNARY, data, timeout=30) == data


def test_a_thousand_calls_at_once_on_one_connection(echo):
    _, _, ch = echo()
    futures = [ch.unary_unary(UNARY).future(b"%d" % n, timeout=30) for n in range(1000)]
    assert [f.result() for f in futures] == [b"%d" % n for n in range(1000)]


def test_the_deadline_travels_and_gets_shorter(echo):
    _, _, ch = echo()
    left = float(call(ch, "/bench.Echo/Deadline", timeout=8))
    assert 4 < left < 8
    assert call(ch, "/bench.Echo/Deadline", timeout=None) == b""


def test_the_routes_timeout_becomes_the_servers_deadline(echo):
    _, _, ch = echo(timeout="5s")
    assert 2 < float(call(ch, "/bench.Echo/Deadline", timeout=60)) <= 5
    assert 2 < float(call(ch, "/bench.Echo/Deadline", timeout=None)) <= 5


def test_a_passed_deadline_is_told_and_the_server_is_cancelled(echo):
    _, gateway, ch = echo(timeout="300ms")
    began = time.monotonic()
    assert status(ch, timeout=20, metadata=(("x-delay", "30"),))[0] == "DEADLINE_EXCEEDED"
    assert 0.3 <= time.monotonic() - began < 5
    until(lambda: int(call(ch, "/bench.Echo/Cancelled")) == 1, what="the server saw the cancellation")


def test_a_callers_cancellation_reaches_the_server_at_once(echo):
    behind, gateway, ch = echo()
    future = ch.unary_unary(NAME).future(b"", timeout=60, metadata=(("x-delay", "30"),))
    until(lambda: gateway.member(behind)["inflight"] == 1, what="call at the server")
    future.cancel()
    until(lambda: int(call(ch, "/bench.Echo/Cancelled")) == 1, what="the server saw the cancellation")
    assert gateway.member(behind)["failures"] == 0


def test_no_server_is_unavailable_and_no_route_unimplemented(tidegate, channel):
    gateway = tidegate({"routes": [route("up", match={"grpc": {"service": "bench.Echo"}})], "upstreams": [pool("up", free_port())]})
    ch = channel(gateway.port)
    assert status(ch)[0] == "UNAVAILABLE"
    assert status(ch, "/other.Service/Method")[0] == "UNIMPLEMENTED"


def test_routes_by_service_and_method(tidegate, grpc_server, channel):
    one, two = grpc_server("one"), grpc_server("two")
    gateway = tidegate(
        {
            "routes": [
                route("two", match={"grpc": {"service": "bench.Echo", "method": "Name"}, "headers": {"x-to": "two"}}),
                route("one", match={"grpc": {"service": "bench.Echo"}}),
            ],
            "upstreams": [pool("one", one), pool("two", two)],
        }
    )
    ch = channel(gateway.port)
    assert call(ch) == b"one"
    assert call(ch, metadata=(("x-to", "two"),)) == b"two"


def test_unavailable_is_retried_on_another_server(tidegate, grpc_server, channel):
    servers = [grpc_server(name) for name in "abc"]
    gateway = tidegate(simple(*servers, upstream_more={"balance": "round_robin"}, retry={"attempts": 3, "backoff": {"initial": "1ms", "max": "5ms"}}))
    ch = channel(gateway.port)
    call(ch)
    servers[0].tell("fail", 1, "UNAVAILABLE")
    assert {call(ch) for _ in range(9)} == {b"a", b"b", b"c"}


def test_a_server_may_push_retries_back(tidegate, grpc_server, channel):
    behind = grpc_server("one")
    gateway = tidegate(simple(behind, upstream_more={"outlier_detection": "off"}, retry={"attempts": 2, "backoff": {"initial": "1ms", "max": "1ms"}}))
    ch = channel(gateway.port)
    began = time.monotonic()
    status(ch, metadata=(("x-fail", "UNAVAILABLE"), ("x-pushback", "400")))
    assert time.monotonic() - began >= 0.4
    before = gateway.member(behind)["attempts"]
    status(ch, metadata=(("x-fail", "UNAVAILABLE"), ("x-pushback", "-1")))
    until(lambda: gateway.member(behind)["attempts"] == before + 1, what="one attempt only")


def test_rate_limits_and_overflows_speak_grpc(tidegate, grpc_server, channel):
    behind = grpc_server("one")
    gateway = tidegate(simple(behind, rate_limit={"requests": 2, "per": "hour"}))
    ch = channel(gateway.port)
    call(ch), call(ch)
    assert status(ch)[0] == "RESOURCE_EXHAUSTED"
    small = tidegate(simple(behind, upstream_more={"connection_pool": {"max_requests": 1}}, retry={"attempts": 1}))
    ch = channel(small.port)
    held = ch.unary_unary(NAME).future(b"", timeout=20, metadata=(("x-delay", "2"),))
    until(lambda: small.member(behind)["inflight"] == 1)
    assert status(ch)[0] == "UNAVAILABLE"
    assert held.result() == b"one"


def test_an_injected_abort_speaks_grpc(tidegate, grpc_server, channel):
    gateway = tidegate(simple(grpc_server("one"), fault={"abort": {"grpc_status": "PERMISSION_DENIED"}}))
    assert status(channel(gateway.port))[0] == "PERMISSION_DENIED"


def test_health_is_answered_here_unless_routed(tidegate, grpc_server, channel):
    gateway = tidegate({"routes": [route("up", match={"grpc": {"service": "bench.Echo"}})], "upstreams": [pool("up", grpc_server("one"))]})
    stub = health_pb2_grpc.HealthStub(channel(gateway.port))
    assert stub.Check(health_pb2.HealthCheckRequest(), timeout=10).status == health_pb2.HealthCheckResponse.SERVING
    assert next(iter(stub.Watch(health_pb2.HealthCheckRequest(), timeout=10))).status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as unknown:
        stub.Check(health_pb2.HealthCheckRequest(service="no.such"), timeout=10)
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_routed_health_service_is_the_servers(tidegate, grpc_server, channel):
    behind = grpc_server("one")
    gateway = tidegate(simple(behind))
    behind.tell("health", "NOT_SERVING")
    stub = health_pb2_grpc.HealthStub(channel(gateway.port))
    assert stub.Check(health_pb2.HealthCheckRequest(), timeout=10).status == health_pb2.HealthCheckResponse.NOT_SERVING


def test_a_servers_goaway_costs_no_call(tidegate, grpc_server, channel):
    servers = [grpc_server(name) for name in "abc"]
    # Python's server cancels calls that reach it in its last moment, and says so.
    retry = {"attempts": 4, "budget": "off", "on": ["connect-failure", "refused-stream", "unavailable", "cancelled"]}
    gateway = tidegate(simple(*servers, upstream_more={"balance": "round_robin"}, retry=retry))
    with GrpcLoad([channel(gateway.port)], threads=6) as load:
        until(lambda: load.total() > 200)
        for each in servers:
            each.tell("goaway")
            each.process.wait(30)
            seen = load.total()
            until(lambda: load.total() > seen + 100)
            each.start()
            seen = load.total()
            until(lambda: load.total() > seen + 100)
    assert load.failures == []


def test_an_aged_upstream_connection_is_replaced_without_a_failure(tidegate, grpc_server, channel):
    gateway = tidegate(simple(grpc_server("one"), upstream_more={"protocol": "http2", "http2": {"max_connection_age": "1s"}}))
    with GrpcLoad([channel(gateway.port)], threads=4) as load:
        began = time.monotonic()
        until(lambda: time.monotonic() - began > 5, 30, "some generations of connections", every=0.1)
    assert load.failures == [] and load.total() > 100


def test_an_aged_listener_connection_is_told_by_goaway(tidegate, grpc_server, channel):
    behind = grpc_server("one")
    gateway = tidegate(simple(behind), start=False)
    gateway.write({**simple(behind), "listeners": [{"name": "main", "address": f"127.0.0.1:{gateway.port}", "max_connection_age": "1s"}]})
    gateway.start()
    with GrpcLoad([channel(gateway.port)], threads=4) as load:
        began = time.monotonic()
        until(lambda: time.monotonic() - began > 5, 30, "some generations of connections", every=0.1)
    assert load.failures == [] and load.total() > 100


def test_a_dead_peer_is_found_by_pings(tidegate, grpc_server, channel):
    """A stopped process answers nothing and closes nothing: only a ping tells."""
    import os
    import signal

    stuck, live = grpc_server("stuck"), grpc_server("live")
    endpoints = [{"address": stuck.address}, {"address": live.address, "priority": 1}]
    more = {"protocol": "http2", "http2": {"ping_interval": "1s", "ping_timeout": "1s"}, "panic_threshold": "0%", "outlier_detection": {"consecutive_local_origin": 1}}
    gateway = tidegate(simple(*endpoints, upstream_more=more, retry={"attempts": 3, "replay": True, "on": ["reset", "connect-failure", "refused-stream", "unavailable"]}))
    ch = channel(gateway.port)
    assert call(ch) == b"stuck"
    os.kill(stuck.process.pid, signal.SIGSTOP)
    try:
        assert call(ch, timeout=20) == b"live"
    finally:
        os.kill(stuck.process.pid, signal.SIGCONT)


def test_http2_callers_reach_an_http1_server(tidegate, server):
    behind = server()
    gateway = tidegate(simple(behind))
    with http2.Client(gateway.port) as client:
        assert client.response(client.request()).body == b"ok"
    assert behind.requests[0].version == "HTTP/1.1"


# --- TensorFlow Serving ---------------------------------------------------------------------------


def test_predictions_of_a_tensorflow_serving_cluster(tidegate, grpc_server, channel):
    """The interface of TensorFlow Serving, three servers of two versions, the version chosen by metadata."""
    messages, services = protos.load("prediction_service")
    v1 = [grpc_server("v1-a"), grpc_server("v1-b")]
    v2 = grpc_server("v2")
    match = {"grpc": {"service": "tensorflow.serving.PredictionService", "method": "Predict"}}
    gateway = tidegate(
        {
            "routes": [route("v2", match={**match, "headers": {"x-version": "2"}}), route("v1", match=match)],
            "upstreams": [pool("v1", *v1, balance="round_robin"), pool("v2", v2)],
        }
    )
    stub = services.PredictionServiceStub(channel(gateway.port))
    request = messages.PredictRequest(model_spec=messages.ModelSpec(name="ranker"))
    request.inputs["x"].CopyFrom(messages.TensorProto(dtype=messages.DT_FLOAT, float_val=[1.5, 2.0], tensor_shape=messages.TensorShapeProto(dim=[messages.TensorShapeProto.Dim(size=2)])))
    seen = []
    for _ in range(40):
        answer = stub.Predict(request, timeout=10)
        assert list(answer.outputs["y"].float_val) == [3.0, 4.0] and answer.model_spec.name == "ranker"
        seen.append(answer.model_spec.version_label)
    assert seen.count("v1-a") == 20 and seen.count("v1-b") == 20
    assert stub.Predict(request, timeout=10, metadata=(("x-version", "2"),)).model_spec.version_label == "v2"


def test_many_streams_use_several_connections_to_one_server(tidegate, grpc_server, channel):
    """A full connection holds nobody up: a further one is opened."""
    behind = grpc_server("one", streams=10)
    gateway = tidegate(simple(behind, upstream_more={"protocol": "http2"}), workers=1)
    ch = channel(gateway.port)
    futures = [ch.unary_unary(NAME).future(b"", timeout=30, metadata=(("x-delay", "2"),)) for _ in range(50)]
    until(lambda: gateway.member(behind)["connections"] >= 5, what="five connections of ten streams, which the server allows")
    assert [f.result() for f in futures] == [b"one"] * 50


def test_a_hedged_call_answers_while_the_first_server_is_stuck(tidegate, grpc_server, channel):
    slow, quick = grpc_server("slow", delay=30), grpc_server("quick")
    endpoints = [{"address": slow.address}, {"address": quick.address, "priority": 1}]
    gateway = tidegate(simple(*endpoints, hedge={"delay": "100ms", "max": 2}, retry={"replay": True}))
    assert call(channel(gateway.port), timeout=20) == b"quick"


def test_calls_are_found_in_metrics_by_their_grpc_status(tidegate, grpc_server, channel):
    gateway = tidegate(simple(grpc_server("one"), retry={"attempts": 1}))
    ch = channel(gateway.port)
    for _ in range(3):
        call(ch)
    status(ch, metadata=(("x-fail", "NOT_FOUND"),))
    until(lambda: gateway.metric("tidegate_grpc_requests_total", route="all") == 4, what="four calls counted")
    codes = {labels["grpc_status"]: value for labels, value in gateway.metrics()["tidegate_grpc_requests_total"] if value}
    assert sorted(codes.values()) == [1, 3], codes


def test_the_reflection_service_lists_what_the_listener_answers(tidegate, grpc_server, channel):
    """Through the client of grpcio-tools' neighbours one would need another package; the frames are few."""
    gateway = tidegate({"routes": [route("up", match={"grpc": {"service": "bench.Echo"}})], "upstreams": [pool("up", grpc_server("one"))]})
    call_ = channel(gateway.port).stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    # list_services (field 7) of any host
    answers = list(call_(iter([b"\x3a\x01*"]), timeout=10))
    assert b"grpc.health.v1.Health" in answers[0]
