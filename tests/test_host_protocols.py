"""The protocols of model servers, each with the clients that others use, all at one `tidegate serve`."""

import json

import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from harness import http1
from harness.heavy import environment
from harness.model import Chaos, call, failure, script

TENSORS = """
import numpy
from tidegate import Model


class Double(Model):
    inputs = [("x", "FP32", [-1, 2]), ("name", "BYTES", [1])]
    outputs = [("y", "FP32", [-1, 2]), ("who", "BYTES", [1])]

    def predict(self, x, name=None):
        x = numpy.asarray(x, dtype=numpy.float32)
        text = name if isinstance(name, (str, bytes)) else numpy.asarray(name).reshape(-1)[0] if name is not None else b"nobody"
        text = text.decode() if isinstance(text, bytes) else str(text)
        return {"y": x * 2, "who": numpy.array([text.upper()], dtype=object)}
"""

TRITON = """
import json, sys
import numpy
import tritonclient.http as http
import tritonclient.grpc as grpc

address = sys.argv[1]
seen = {}
for kind in (http, grpc):
    name = kind.__name__.rsplit(".", 1)[1]
    client = kind.InferenceServerClient(address)
    mine = seen[name] = {}
    mine["live"], mine["ready"] = client.is_server_live(), client.is_server_ready()
    mine["model_ready"], mine["other_ready"] = client.is_model_ready("double"), client.is_model_ready("other")
    as_json = {} if kind is http else {"as_json": True}
    mine["server"] = client.get_server_metadata(**as_json)["name"]
    metadata = client.get_model_metadata("double", **as_json)
    mine["versions"] = [metadata["versions"], client.get_model_metadata("double", "default", **as_json)["versions"]]
    mine["inputs"] = [[each["name"], each["datatype"], [int(n) for n in each["shape"]]] for each in metadata["inputs"]]
    x = numpy.arange(6, dtype=numpy.float32).reshape(3, 2)
    inputs = [kind.InferInput("x", [3, 2], "FP32"), kind.InferInput("name", [1], "BYTES")]
    inputs[0].set_data_from_numpy(x)
    inputs[1].set_data_from_numpy(numpy.array([b"ada"], dtype=object))
    wanted = [kind.InferRequestedOutput("y"), kind.InferRequestedOutput("who")]
    result = client.infer("double", inputs, outputs=wanted, request_id="7")
    y = result.as_numpy("y")
    assert y.dtype == numpy.float32 and (y == x * 2).all(), y
    mine["who"] = [each.decode() for each in result.as_numpy("who").tolist()]
    if kind is http:
        inputs[0].set_data_from_numpy(x, binary_data=False)
        inputs[1].set_data_from_numpy(numpy.array([b"ada"], dtype=object), binary_data=False)
        plain = [kind.InferRequestedOutput("y", binary_data=False), kind.InferRequestedOutput("who", binary_data=False)]
        result = client.infer("double", inputs, outputs=plain)
        assert (result.as_numpy("y") == x * 2).all()
        for algorithm in ("gzip", "deflate"):
            result = client.infer("double", inputs, outputs=wanted, request_compression_algorithm=algorithm, response_compression_algorithm=algorithm)
            assert (result.as_numpy("y") == x * 2).all()
    else:
        import queue
        results = queue.Queue()
        client.start_stream(lambda result, error: results.put((result, error)))
        for number in range(3):
            client.async_stream_infer("double", inputs, request_id=str(number))
        ids = []
        for number in range(3):
            result, error = results.get(timeout=20)
            assert error is None, error
            assert (result.as_numpy("y") == x * 2).all()
            ids.append(result.get_response().id)
        client.stop_stream()
        mine["stream"] = sorted(ids)
    client.load_model("double")
    mine["index"] = [each["name"] for each in (client.get_model_repository_index(**as_json) if kind is http else client.get_model_repository_index(**as_json)["models"])]
    try:
        client.infer("other", inputs)
    except Exception as error:
        mine["unknown"] = str(error)
    try:
        client.infer("double", inputs[1:])
    except Exception as error:
        mine["missing"] = str(error)
    client.close()
print(json.dumps(seen))
"""


def test_tritons_client_works_unmodified_over_http_and_grpc(serve):
    venv = environment("tritonclient")
    host = serve("Double", "--name", "double", source=TENSORS, python=venv / "bin/python")
    seen = script(venv, TRITON, f"127.0.0.1:{host.port}")
    for kind in ("http", "grpc"):
        mine = seen[kind]
        assert mine["live"] and mine["ready"] and mine["model_ready"] and not mine["other_ready"], mine
        assert mine["versions"] == [["default"], ["default"]]
        assert mine["inputs"] == [["x", "FP32", [-1, 2]], ["name", "BYTES", [1]]]
        assert mine["who"] == ["ADA"]
        assert mine["index"] == ["double"]
        assert "other" in mine["unknown"] and "x" in mine["missing"]
    assert seen["grpc"]["stream"] == ["0", "1", "2"]


def described(ch):
    """Calls a method as grpcurl does: everything that is known comes from reflection."""
    database = ProtoReflectionDescriptorDatabase(ch)
    pool = DescriptorPool(database)
    return database, pool


def test_a_version_without_a_name_is_told_by_one_that_can_be_asked_for(serve):
    host = serve("Example", "--name", "example")
    tensor = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1.5]}]}
    assert json.loads(http1.get(host.port, "/v2/models/example").body)["versions"] == ["default"]
    assert [each["version"] for each in json.loads(post(host, "/v2/repository/index", {}).body)] == ["default"]
    for path in ("/v2/models/example", "/v2/models/example/versions/default"):
        assert json.loads(post(host, f"{path}/infer", tensor).body)["model_version"] == "default"
        assert http1.get(host.port, f"{path}/ready").status == 200


def test_a_reflection_client_finds_and_calls_everything(serve, channel):
    host = serve("Example", "--name", "example")
    ch = channel(host.port)
    database, pool = described(ch)
    names = set(database.get_services())
    assert {"ai.AI", "inference.GRPCInferenceService", "grpc.health.v1.Health"} <= names, names
    assert any(name.startswith("grpc.reflection.") for name in names)

    service = pool.FindServiceByName("ai.AI")
    assert {method.name for method in service.methods} >= {"initialize", "train", "predict", "log", "chaos"}
    method = service.FindMethodByName("predict")
    request = message_factory.GetMessageClass(method.input_type)(kwargs_json=b'{"a": 1}')
    answer = message_factory.GetMessageClass(method.output_type)
    made = ch.unary_unary("/ai.AI/predict", request_serializer=lambda m: m.SerializeToString(), response_deserializer=answer.FromString)
    assert json.loads(made(request, timeout=20).data_json)["kwargs"] == {"a": 1}

    inference = pool.FindServiceByName("inference.GRPCInferenceService")
    assert {"ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer", "ModelStreamInfer", "RepositoryIndex"} <= {m.name for m in inference.methods}


def test_health_says_serving_for_the_server_and_its_services(serve, channel):
    host = serve("Example")
    stub = health_pb2_grpc.HealthStub(channel(host.port))
    for name in ("", "ai.AI", "inference.GRPCInferenceService"):
        assert stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10).status == health_pb2.HealthCheckResponse.SERVING, name
    assert failure(lambda: stub.Check(health_pb2.HealthCheckRequest(service="no.Such"), timeout=10))[0] == "NOT_FOUND"


def post(host, path, body, headers=(), **more):
    if not isinstance(body, (bytes, str)):
        body = json.dumps(body)
        headers = [("content-type", "application/json"), *headers]
    return http1.request(host.port, "POST", path, headers, body.encode() if isinstance(body, str) else body, **more)


def test_tensorflow_servings_rest_api(serve):
    host = serve("Example", "--name", "example")
    answer = post(host, "/v1/models/example:predict", {"instances": [{"x": 1.0}, {"x": 2.5}]})
    assert (answer.status, json.loads(answer.body)) == (200, {"predictions": [2.0, 5.0]}), answer.body  # of one output only the values, as there
    answer = post(host, "/v1/models/example:predict", {"inputs": {"x": [1.0, 2.5]}})
    assert (answer.status, json.loads(answer.body)) == (200, {"outputs": [2.0, 5.0]}), answer.body
    status = json.loads(http1.get(host.port, "/v1/models/example").body)
    assert [(each["version"], each["state"]) for each in status["model_version_status"]] == [("default", "AVAILABLE")], status
    # The name that is told is one that can be asked for.
    assert json.loads(http1.get(host.port, "/v1/models/example/versions/default").body) == status
    for path in ("/v1/models/example/metadata", "/v1/models/example/versions/default/metadata"):
        assert json.loads(http1.get(host.port, path).body)["model_spec"] == {"name": "example", "signature_name": "", "version": "default"}
    answer = post(host, "/v1/models/example/versions/default:predict", {"inputs": {"x": [1.0]}})
    assert (answer.status, json.loads(answer.body)) == (200, {"outputs": [2.0]}), answer.body
    answer = http1.get(host.port, "/v1/models/example:predict")
    assert (answer.status, dict(answer.headers)["allow"]) == (405, "POST")
    answer = post(host, "/v1/models/other:predict", {"instances": [1]})
    assert answer.status == 404 and "other" in json.loads(answer.body)["error"]


def test_plain_json_calls_any_public_method(serve):
    host = serve("Example", "--name", "example")
    answer = post(host, "/example/add", {"a": 2, "b": 3})
    assert (answer.status, json.loads(answer.body)) == (200, 5)
    answer = post(host, "/example/predict?version=v7", {"q": "x"})
    assert json.loads(answer.body)["version"] == "v7"
    assert json.loads(post(host, "/example/nothing", {}).body) is None
    for path, status, reason in [
        ("/example/_hidden", 501, "unknown_method"), ("/example/__init__", 501, "unknown_method"), ("/example/model_dir", 501, "unknown_method"),
        ("/example/none_such", 501, "unknown_method"), ("/other/add", 404, None),
    ]:  # fmt: skip
        answer = post(host, path, {"a": 1})
        assert answer.status == status, (path, answer.status, answer.body)
        if reason:
            assert answer.header("content-type") == "application/problem+json" and json.loads(answer.body)["code"] == reason
    answer = post(host, "/example/add", {"wrong": 1})
    assert (answer.status, json.loads(answer.body)["code"]) == (400, "bad_arguments")
    assert post(host, "/example/add", "[1]", [("content-type", "application/json")]).status == 400
    assert post(host, "/example/add", "{", [("content-type", "application/json")]).status == 400


def test_an_upload_as_a_form_and_as_a_body(serve):
    import hashlib

    host = serve("Example", "--name", "example")
    data = bytes(range(256)) * 10_000
    wanted = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    answer = post(host, "/example/digest", data, [("content-type", "application/octet-stream")])
    assert (answer.status, json.loads(answer.body)) == (200, wanted), answer.body
    form = b'--cut\r\ncontent-disposition: form-data; name="seconds"\r\n\r\n0.0\r\n'
    form += b'--cut\r\ncontent-disposition: form-data; name="binary_data"; filename="x.bin"\r\ncontent-type: application/octet-stream\r\n\r\n' + data + b"\r\n--cut--\r\n"
    answer = post(host, "/example/digest", form, [("content-type", "multipart/form-data; boundary=cut")])
    assert (answer.status, json.loads(answer.body)) == (200, wanted), answer.body


def events(body):
    """Server-sent events as (name, data); comments as (None, text)."""
    found = []
    for block in body.decode().split("\n\n"):
        name, data = "", []
        for line in block.splitlines():
            if line.startswith(":"):
                found.append((None, line[1:].strip()))
            elif line.startswith("event:"):
                name = line[6:].strip()
            elif line.startswith("data:"):
                data.append(line[5:].strip())
        if data:
            found.append((name, json.loads("\n".join(data))))
    return found


def test_a_generators_items_are_server_sent_events(serve):
    host = serve("Example", "--name", "example")
    answer = post(host, "/example/count", {"n": 3})
    assert (answer.status, answer.header("content-type").split(";")[0]) == (200, "text/event-stream")
    seen = events(answer.body)
    assert [data["n"] for name, data in seen if name == ""] == [0, 1, 2]
    assert seen[-1] == ("done", {"items": 3})
    answer = post(host, "/example/count", {"n": 3, "fail_at": 2, "seconds": 0.7})
    seen = events(answer.body)
    assert [data["n"] for name, data in seen if name == ""] == [0, 1]
    assert seen[-1][0] == "error" and "no item 2" in seen[-1][1]["detail"]


def test_a_slow_single_result_may_be_asked_for_as_events_with_heartbeats(serve):
    host = serve("Example", "--name", "example")
    answer = post(host, "/example/slow", {"seconds": 3.2}, [("accept", "text/event-stream")])
    seen = events(answer.body)
    assert len([1 for name, text in seen if name is None and text == "ping"]) >= 2, seen
    assert [data["slept"] for name, data in seen if name == "result"] == [3.2]


def test_chaos_names_any_public_method_and_tells_empty_results_and_errors_truthfully(serve, channel):
    host = serve("Example")
    ch = channel(host.port)
    assert Chaos(ch, "add", {"a": 2, "b": 3}).result() == 5
    assert Chaos(ch, "nothing").result() is None
    assert [each["n"] for each in Chaos(ch, "count", {"n": 4}).values()] == [0, 1, 2, 3]
    assert Chaos(ch, "predict", {"q": 1}, version="v3").result()["version"] == "v3"
    for name in ("_hidden", "__class__", "none_such", "model_dir", "release"):
        code, details, _ = failure(lambda: Chaos(ch, name).result())
        assert code == "UNIMPLEMENTED" and name in details, (name, code, details)
    code, details, metadata = failure(lambda: Chaos(ch, "raises", {"message": "cold"}).result())
    assert (code, "cold" in details) == ("INTERNAL", True)
    assert b"ValueError" in metadata["grpc-status-details-bin"]
    assert metadata["x-tidegate-error"] == "model_error"
    stream = Chaos(ch, "count", {"n": 5, "fail_at": 2})
    got = []
    code, details, _ = failure(lambda: got.extend(each["n"] for each in stream.values()))
    assert code == "INTERNAL" and "no item 2" in details


def test_unary_calls_answer_null_for_no_result(serve, channel):
    host = serve("Example")
    assert call(channel(host.port), "predict", {"n": None})["kwargs"] == {"n": None}


@pytest.mark.parametrize("method", ["held", "slow"])
def test_heartbeats_come_each_second_while_a_model_blocks_or_holds_the_interpreter(serve, channel, method):
    host = serve("Example")
    argument = {"gil": 4.3} if method == "held" else {"seconds": 4.3}
    made = Chaos(channel(host.port), method, argument)
    made.result()
    gaps = [b - a for a, b in zip([0.0, *made.arrivals], made.arrivals)]
    assert made.heartbeats >= 3 and max(gaps) < 2.5, made.arrivals
    stub = health_pb2_grpc.HealthStub(channel(host.port))
    assert stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status == health_pb2.HealthCheckResponse.SERVING


def test_the_description_of_methods_is_there_to_read(serve):
    host = serve("Example", "--name", "example")
    answer = http1.get(host.port, "/example")
    told = json.loads(answer.body)
    text = json.dumps(told)
    assert answer.status == 200 and "add" in text and "_hidden" not in text


def test_grpc_deadlines_reach_the_model_and_end_its_call(serve, channel):
    host = serve("Example")
    ch = channel(host.port)
    code, _, _ = failure(lambda: call(ch, "predict", {"x": 1}, timeout=20) and Chaos(ch, "slow", {"seconds": 30}, timeout=1).result())
    assert code == "DEADLINE_EXCEEDED"
    # The worker is free again: one worker, one call at a time.
    assert call(ch, kwargs={"after": 1}, timeout=10)["kwargs"] == {"after": 1}
