"""Real model servers behind the gateway. Heavy: they are installed for these tests."""

import json
import signal

import pytest

from harness import heavy, http1, protos
from harness.gateway import route, simple, upstream as pool
from harness.grpc_peers import GrpcLoad
from harness.wait import until

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]

messages, _ = protos.load("open_inference")
INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture
def tritons(tmp_path):
    started = [heavy.Triton(tmp_path, number) for number in range(3)]
    yield started
    for each in started:
        each.end()


def infer_request():
    request = messages.ModelInferRequest(model_name="double")
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[2])
    tensor.contents.fp32_contents.extend([1.5, 2.0])
    return request.SerializeToString()


def who(answer):
    """The instance that answered; fails unless the numbers are right."""
    import struct

    parsed = messages.ModelInferResponse.FromString(answer)
    values = {output.name: raw for output, raw in zip(parsed.outputs, parsed.raw_output_contents)}
    assert struct.unpack("<2f", values["y"]) == (3.0, 4.0)
    return str(int(struct.unpack("<f", values["who"])[0]))


def over_tritons(tritons, **more):
    return {
        "routes": [
            route(
                "triton",
                match={"grpc": {"service": "inference.GRPCInferenceService"}},
                retry={"attempts": 5, "replay": True, "on": ["connect-failure", "refused-stream", "unavailable", "reset", "cancelled"], "backoff": {"initial": "5ms", "max": "100ms"}, "budget": "off"},
                timeout="30s",
            )
        ],
        "upstreams": [pool("triton", *tritons, protocol="http2", balance="round_robin", **more)],
    }


def test_inference_is_spread_over_three_tritons(tidegate, tritons, channel):
    gateway = tidegate(over_tritons(tritons))
    load = GrpcLoad([channel(gateway.port)], count=600, threads=4, method=INFER, message=infer_request(), decode=who).__enter__().finish()
    assert not load.failures
    for number in "012":
        assert abs(load.answers[number] - 200) <= 10, load.answers


def test_a_rolling_restart_of_three_tritons_under_load_fails_nothing(tidegate, tritons, channel, tmp_path):
    """Each is taken out of discovery, finishes what it has, is ended in good order, started again and put back.

    It must be taken out first: a Triton that was told to end answers NOT_FOUND for its models before it closes, which no
    gateway may take for a reason to ask another one.
    """
    listed = tmp_path / "tritons.json"

    def list_all_but(absent=None):
        part = listed.with_suffix(".part")
        part.write_text(json.dumps({"endpoints": [{"address": each.address} for each in tritons if each is not absent]}))
        part.rename(listed)

    list_all_but()
    check = {"grpc": "", "interval": "500ms", "timeout": "500ms", "unhealthy_after": 1, "healthy_after": 1}
    config = over_tritons(tritons, health_check=check)
    del config["upstreams"][0]["endpoints"]
    config["upstreams"][0]["discover"] = {"file": str(listed)}
    gateway = tidegate(config)

    def drained(each):
        return all(member["id"] != each.address or (member["state"] == "draining" and member["inflight"] == 0) for member in gateway.upstream("triton")["members"])

    channels = [channel(gateway.port), channel(gateway.port)]
    with GrpcLoad(channels, threads=3, method=INFER, message=infer_request(), decode=who, limit=300) as load:
        until(lambda: load.total() > 300, 30)
        for each in tritons:
            list_all_but(each)
            until(lambda: drained(each), 30, "out of service")
            each.process.signal(signal.SIGTERM)
            each.process.wait(60)
            seen = load.total()
            until(lambda: load.total() > seen + 200, 30, "two serve on")
            each.start()
            list_all_but()
            until(lambda: gateway.members("triton").get(each.address) == "healthy", 30, "healthy again")
            until(lambda: [name for _, name in load.timeline[-60:]].count(str(each.number)) >= 10, 30, "takes part again")
    assert load.failures == [], (len(load.failures), load.failures[:5])
    assert set(load.answers) == {"0", "1", "2"}


def test_a_killed_triton_fails_no_replayable_call(tidegate, tritons, channel):
    gateway = tidegate(over_tritons(tritons))
    with GrpcLoad([channel(gateway.port)], threads=4, method=INFER, message=infer_request(), decode=who, limit=120) as load:
        until(lambda: load.total() > 300, 30)
        tritons[1].process.kill()
        seen = load.total()
        until(lambda: load.total() > seen + 1000, 60)
    assert load.failures == [], load.failures[:5]


def test_mlserver_over_rest_and_grpc(tidegate, tmp_path, channel):
    server = heavy.MlServer(tmp_path)
    try:
        gateway = tidegate(
            {
                "routes": [route("grpc", match={"grpc": {"service": "inference.GRPCInferenceService"}}), route("rest", match={"path": {"prefix": "/v2"}})],
                "upstreams": [pool("rest", server.port, health_check={"http": "/v2/health/ready", "interval": "500ms", "timeout": "500ms"}), pool("grpc", server.grpc_port)],
            }
        )
        body = json.dumps({"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1.5, 2.0]}]})
        for _ in range(50):
            answer = gateway.request("POST", "/v2/models/double/infer", [("content-type", "application/json")], body)
            assert answer.status == 200
            assert json.loads(answer.body)["outputs"][0]["data"] == [3.0, 4.0]
        assert gateway.get("/v2/models/double").status == 200
        assert gateway.get("/v2/models/none").status == 404
        answer = channel(gateway.port).unary_unary("/inference.GRPCInferenceService/ServerReady")(b"", timeout=10)
        assert messages_ready(answer)
    finally:
        server.end()


def messages_ready(data):
    return messages.ServerReadyResponse.FromString(data).ready


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    started = heavy.Llama(tmp_path_factory.mktemp("llama"))
    yield started
    started.end()


def chat(tokens, stream=True):
    return json.dumps({"stream": stream, "max_tokens": tokens, "temperature": 0, "messages": [{"role": "user", "content": "Count from one to fifty in words."}]})


def test_tokens_of_llama_cpp_stream_one_by_one(tidegate, llama):
    gateway = tidegate(simple(llama.port))
    with gateway.client(timeout=60) as client:
        client.send_request("POST", "/v1/chat/completions", [("content-type", "application/json")], chat(24))
        answer = client.response_head()
        assert answer.status == 200 and answer.header("content-type").startswith("text/event-stream")
        reads, text = 0, b""
        while True:
            chunk = client.read_chunk()
            if chunk is None:
                break
            reads, text = reads + 1, text + chunk
    assert text.rstrip().endswith(b"data: [DONE]")
    assert reads >= 20, "tokens came in one piece"


def test_an_answer_of_llama_cpp_is_the_same_through_the_gateway(tidegate, llama):
    gateway = tidegate(simple(llama.port))

    def content(port):
        answer = http1.request(port, "POST", "/v1/chat/completions", [("content-type", "application/json")], chat(12, stream=False), timeout=60)
        return json.loads(answer.body)["choices"][0]["message"]["content"]

    assert content(gateway.port) == content(llama.port) != ""


def test_a_caller_that_leaves_frees_the_model(tidegate, llama):
    """Generation stops at the server when the caller goes: the next one does not wait for it."""
    gateway = tidegate(simple(llama.port))
    for _ in range(4):
        with gateway.client(timeout=60) as client:
            client.send_request("POST", "/v1/chat/completions", [("content-type", "application/json")], chat(900))
            client.response_head()
            client.read_chunk()
    def idle():
        slots = json.loads(http1.get(llama.port, "/slots").body)
        return not any(slot["is_processing"] for slot in slots)

    until(idle, 20, "no slot is busy for callers that left", every=0.1)
    assert gateway.request("POST", "/v1/chat/completions", [("content-type", "application/json")], chat(4), timeout=60).status == 200
