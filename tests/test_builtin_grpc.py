"""gRPC services that every listener answers itself: health and reflection, with the clients that others use."""

import json
import queue
import signal
import struct
import threading

import grpc
import pytest
from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from harness import http2
from harness.gateway import route, upstream as pool
from harness.net import free_port
from harness.wait import until

State = health_pb2.HealthCheckResponse
CHECK, LIST = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/List"
HEALTH_FILE = "grpc/health/v1/health.proto"


def following(path, *ports):
    """Upstream `up` has the endpoints of a file; no route takes what is asked here."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"endpoints": [{"address": f"127.0.0.1:{port}"} for port in ports]}))
    part.rename(path)
    return {
        "routes": [route("up", match={"path": {"prefix": "/up"}})],
        "upstreams": [{"name": "up", "discover": {"file": str(path)}}],
    }


@pytest.fixture
def idle(tidegate):
    """A gateway with an upstream that nobody asks for anything."""
    return tidegate({"routes": [route("up", match={"path": {"prefix": "/up"}})], "upstreams": [pool("up", free_port())]})


def check(ch, service="", **more):
    return health_pb2_grpc.HealthStub(ch).Check(health_pb2.HealthCheckRequest(service=service), timeout=10, **more).status


class Watching:
    """The states that a Watch tells, and how it ended."""

    def __init__(self, ch, service=""):
        self.states, self.end = queue.Queue(), None
        self.call = health_pb2_grpc.HealthStub(ch).Watch(health_pb2.HealthCheckRequest(service=service), timeout=60)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        try:
            for state in self.call:
                self.states.put(state.status)
        except grpc.RpcError as error:
            self.end = error.code()

    def next(self):
        return self.states.get(timeout=10)


# --- health ---------------------------------------------------------------------------------------


def test_the_gateway_and_each_upstream_have_a_state(tidegate, channel, tmp_path):
    gateway = tidegate(following(tmp_path / "endpoints.json", free_port()))
    ch = channel(gateway.port)
    assert check(ch) == State.SERVING
    assert check(ch, "up") == State.SERVING
    following(tmp_path / "endpoints.json")
    until(lambda: check(ch, "up") == State.NOT_SERVING, what="an upstream without members serves nothing")
    assert check(ch) == State.SERVING
    with pytest.raises(grpc.RpcError) as unknown:
        check(ch, "down")
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_watch_tells_the_state_now_and_every_change(tidegate, channel, tmp_path):
    path = tmp_path / "endpoints.json"
    gateway = tidegate(following(path, free_port()))
    watching = Watching(channel(gateway.port), "up")
    assert watching.next() == State.SERVING
    following(path)
    assert watching.next() == State.NOT_SERVING
    following(path, free_port())
    assert watching.next() == State.SERVING
    assert watching.states.empty() and watching.end is None


def test_a_watch_of_an_unknown_service_waits_for_it(idle, channel):
    watching = Watching(channel(idle.port), "later")
    assert watching.next() == State.SERVICE_UNKNOWN
    idle.reload({**idle.config, "upstreams": [*idle.config["upstreams"], pool("later", free_port())]})
    assert watching.next() == State.SERVING


def test_a_drain_is_told_and_ends_the_watches(idle, channel):
    ch = channel(idle.port)
    of_all, of_one = Watching(ch), Watching(ch, "up")
    assert of_all.next() == State.SERVING and of_one.next() == State.SERVING
    idle.process.signal(signal.SIGTERM)
    for watching in (of_all, of_one):
        assert watching.next() == State.NOT_SERVING
        watching.thread.join(10)
        assert watching.end is grpc.StatusCode.UNAVAILABLE
    assert idle.process.wait(15) == 0


def test_watches_of_callers_that_left_leave_nothing(idle, channel):
    ch = channel(idle.port)
    watching = [Watching(ch) for _ in range(20)]
    assert {each.next() for each in watching} == {State.SERVING}
    assert idle.metric("tidegate_inflight") == 20
    for each in watching:
        each.call.cancel()
    until(lambda: idle.metric("tidegate_inflight") == 0, what="the calls are over")


# --- reflection -----------------------------------------------------------------------------------


def test_a_client_finds_calls_and_understands_the_services_by_reflection_alone(idle, channel):
    ch = channel(idle.port)
    found = ProtoReflectionDescriptorDatabase(ch)
    assert sorted(found.get_services()) == ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]
    health = DescriptorPool(found).FindServiceByName("grpc.health.v1.Health")
    assert [m.name for m in health.methods] == ["Check", "List", "Watch"]
    method = health.methods_by_name["List"]
    question, answer = (message_factory.GetMessageClass(each) for each in (method.input_type, method.output_type))
    listed = ch.unary_unary(LIST, question.SerializeToString, answer.FromString)(question(), timeout=10)
    assert {name: state.status for name, state in listed.statuses.items()} == {"": State.SERVING, "up": State.SERVING}


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_questions_of_reflection_are_answered_in_their_order(idle, channel, version):
    ask = reflection_pb2.ServerReflectionRequest
    questions = [
        ask(host="h", file_by_filename=HEALTH_FILE),
        ask(file_containing_symbol="grpc.health.v1.Health.Check"),
        ask(file_by_filename="no.proto"),
        ask(file_containing_symbol="no.Such"),
        ask(file_containing_extension=reflection_pb2.ExtensionRequest(containing_type="grpc.health.v1.HealthCheckRequest", extension_number=1)),
        ask(all_extension_numbers_of_type="grpc.health.v1.HealthCheckRequest"),
        ask(list_services=""),
    ]
    call = channel(idle.port).stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo", ask.SerializeToString, reflection_pb2.ServerReflectionResponse.FromString
    )
    answers = list(call(iter(questions), timeout=10))
    assert [each.original_request for each in answers] == questions
    assert [each.WhichOneof("message_response") for each in answers] == [
        "file_descriptor_response", "file_descriptor_response", "error_response", "error_response", "error_response",
        "all_extension_numbers_response", "list_services_response",
    ]  # fmt: skip
    assert answers[0].file_descriptor_response == answers[1].file_descriptor_response
    file = descriptor_pb2.FileDescriptorProto.FromString(answers[0].file_descriptor_response.file_descriptor_proto[0])
    assert file.name == HEALTH_FILE and file.package == "grpc.health.v1"
    assert {each.error_response.error_code for each in answers[2:5]} == {grpc.StatusCode.NOT_FOUND.value[0]}
    assert answers[5].all_extension_numbers_response.base_type_name == "grpc.health.v1.HealthCheckRequest"


# --- what is wrong --------------------------------------------------------------------------------


def test_a_compressed_message_is_refused_with_what_is_understood(idle, channel):
    with pytest.raises(grpc.RpcError) as refused:
        check(channel(idle.port), "x" * 5000, compression=grpc.Compression.Gzip)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    answer = raw(idle, framed(b"x", flag=1), more=[("grpc-encoding", "gzip")])
    assert answer.header("grpc-status") == "12" and answer.header("grpc-accept-encoding") == "identity"


def test_a_message_is_bounded(idle, channel):
    with pytest.raises(grpc.RpcError) as refused:
        check(channel(idle.port), "x" * 70_000)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_an_unknown_method_is_unimplemented(idle, channel):
    with pytest.raises(grpc.RpcError) as refused:
        channel(idle.port).unary_unary("/grpc.health.v1.Health/Cure")(b"", timeout=10)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def framed(message, flag=0, length=None):
    return struct.pack(">BI", flag, len(message) if length is None else length) + message


def raw(gateway, body, path=CHECK, more=()):
    headers = http2.request_headers("POST", path, more=[("content-type", "application/grpc"), ("te", "trailers"), *more])
    with http2.Client(gateway.port) as client:
        return client.response(client.request(headers, body))


def test_answers_are_framed_as_grpc_frames_them(idle):
    answer = raw(idle, framed(b""))
    assert answer.status == 200 and answer.header("content-type") == "application/grpc"
    assert answer.body == framed(b"\x08\x01")
    assert dict(answer.trailers) == {"grpc-status": "0"}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 13),  # no message
        (framed(b"") * 2, 13),  # two
        (framed(b"abc", length=9), 13),  # cut
        (framed(b"\x0a\x05ab"), 13),  # no protobuf
        (framed(b"\x0a\x02\xff\xfe"), 13),  # no text
        (framed(b"", flag=7), 13),
        (framed(b"x", flag=1), 12),
        (framed(b"", length=0xFFFFFFFF), 8),
    ],
)
def test_a_call_that_breaks_the_rules_ends_with_the_right_status(idle, body, status):
    answer = raw(idle, body)
    assert answer.status == 200 and answer.trailers is None
    assert answer.header("grpc-status") == str(status), answer.headers


def test_a_passed_deadline_ends_a_watch(idle):
    answer = raw(idle, framed(b""), "/grpc.health.v1.Health/Watch", [("grpc-timeout", "300m")])
    assert answer.body == framed(b"\x08\x01")
    assert dict(answer.trailers)["grpc-status"] == "4"


def test_there_is_nothing_for_who_does_not_speak_grpc(idle):
    answer = idle.request("POST", CHECK, [("content-type", "application/grpc")], framed(b""))
    assert answer.status == 404 and answer.header("x-tidegate-error") == "no-route"
    with http2.Client(idle.port) as client:
        assert client.response(client.request(http2.request_headers("POST", CHECK), framed(b""))).status == 404
        more = [("content-type", "application/grpc")]
        assert client.response(client.request(http2.request_headers("GET", CHECK, more=more))).header("grpc-status") == "12"
