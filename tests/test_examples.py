"""Every example in examples/ is started as it stands (with other ports) and does what its first lines say."""

import json
import os
import re
import ssl
import subprocess
import sys

import pytest

from harness import http1, protos, upstream
from harness.gateway import TOP, command
from harness.net import free_port
from harness.wait import until

FOLDER = TOP / "examples"


class Example:
    """An example with its ports mapped to free ones, and a server for whatever it names."""

    def __init__(self, tmp_path, name):
        self.folder, self.ports = tmp_path / "example", {}
        self.folder.mkdir()
        for path in FOLDER.iterdir():
            if path.is_file():
                (self.folder / path.name).write_text(re.sub(r"(127\.0\.0\.1:|port: )(\d+)", self._mapped, path.read_text()))
        self.path = self.folder / name

    def _mapped(self, matched):
        return f"{matched[1]}{self.port(int(matched[2]))}"

    def port(self, written):
        return self.ports.setdefault(written, free_port())

    def start(self, tidegate, env=None):
        gateway = tidegate("{}", start=False, env=env)
        gateway.path = self.path
        gateway.admin_port = self.port(9900)
        gateway.port = self.port(8080)
        return gateway.start()


def first(example, tidegate, server, **_):
    one, two = (server(upstream.named(), name=n, port=example.port(p)) for n, p in (("one", 8501), ("two", 8502)))
    gateway = example.start(tidegate)
    assert {gateway.get().text() for _ in range(40)} == {"one", "two"}
    assert one.requests and two.requests


def tfserving_consul(example, tidegate, grpc_server, consul, channel, **_):
    example.path.write_text(example.path.read_text().replace(f"127.0.0.1:{example.port(8500)}", f"127.0.0.1:{consul.port}"))
    servers = [grpc_server(name) for name in "ab"]
    for each in servers:
        consul.register("tfserving", each.name, each.port)
    gateway = example.start(tidegate)
    until(lambda: len(gateway.members("tfserving")) == 2)
    messages, services = protos.load("prediction_service")
    stub = services.PredictionServiceStub(channel(example.port(8080)))
    request = messages.PredictRequest(model_spec=messages.ModelSpec(name="m"))
    request.inputs["x"].float_val.append(2.0)

    def served():
        return {stub.Predict(request, timeout=10).model_spec.version_label for _ in range(10)}

    until(lambda: served() == {"a", "b"}, what="both work")
    servers[0].kill()
    assert served() == {"b"}


def tracing(example, tidegate, server, collector, **_):
    one, two = (server(upstream.named(), name=n, port=example.port(p)) for n, p in (("one", 8501), ("two", 8502)))
    seen = collector(port=example.port(4318))
    gateway = example.start(tidegate)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert gateway.get(headers=[("traceparent", parent)]).text() in ("one", "two")
    gateway.stop()
    request, attempt = seen.traces()[0]
    assert request.parent == parent.split("-")[2] and attempt["tidegate.member"] in (one.address, two.address)
    assert request.resource["service.name"] == "edge"


def canary(example, tidegate, server, **_):
    v1, v2, v3, old = (server(upstream.named(), name=n, port=example.port(p)) for n, p in (("v1", 8501), ("v2", 8502), ("v3", 8503), ("old", 8504)))
    gateway = example.start(tidegate)
    path = "/v1/models/ranker:predict"
    seen = [gateway.get(path, [("x-user", str(n))]).text() for n in range(400)]
    assert 330 < seen.count("v1") < 385 and seen.count("v1") + seen.count("v2") == 400
    assert [gateway.get(path, [("x-user", str(n))]).text() for n in range(20)] == seen[:20]
    assert gateway.get(path, [("x-version", "v2")]).text() == "v2"
    until(lambda: v3.requests, what="a copy arrived")
    v1.stop()
    v2.stop()
    assert gateway.get(path).text() == "old"
    assert old.requests
    assert gateway.get("/other").status == 404


def protect(example, tidegate, server, **_):
    healthy = upstream.by_path({"/healthz": upstream.ok(), "/predict": upstream.named()})
    for name, port in (("one", 8501), ("two", 8502)):
        server(healthy, name=name, port=example.port(port))
    gateway = example.start(tidegate)
    assert gateway.get("/healthz").text() == "ok\n"
    assert gateway.get("/predict").status == 404, "POST only"
    until(lambda: set(gateway.members("sentiment").values()) == {"healthy"}, what="both passed their checks")
    statuses = [gateway.request("POST", "/predict", [("x-user", "a")], b"x").status for _ in range(65)]
    assert statuses[:60] == [200] * 60 and 429 in statuses[60:]
    assert gateway.request("POST", "/predict", [("x-user", "b")], b"x").status == 200
    assert gateway.request("POST", "/predict", [("x-user", "b"), ("content-length", str(17 << 20))], None).status == 413


def outliers(example, tidegate, server, **_):
    one, two, three = (server(upstream.named(), name=n, port=example.port(p)) for n, p in (("one", 8501), ("two", 8502), ("three", 8503)))
    gateway = example.start(tidegate)
    assert {gateway.get().text() for _ in range(6)} == {"one", "two", "three"}
    two.behaviour = upstream.status(500)
    before = len(two.requests)
    assert {gateway.request("POST", "/", body=b"x").status for _ in range(60)} == {200}
    assert len(two.requests) - before == 5
    assert gateway.members("ranker")[two.address] == "ejected"
    three.stop()
    assert {gateway.get().text() for _ in range(20)} == {"one"}
    assert one.requests


def tls(example, tidegate, process, **_):
    run = subprocess.run([FOLDER / "make-certificates"], cwd=example.folder, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    folder = example.folder / "certificates"
    process([sys.executable, FOLDER / "servers.py", "--tls", folder, example.port(8509)])
    example.start(tidegate)
    trusted = ssl.create_default_context(cafile=folder / "ca.pem")

    def answer(port, context):
        with http1.Client(port, tls=context, server_name="localhost") as client:
            return client.request("GET", "/")

    until(lambda: answer(example.port(8443), trusted).text() == f"{example.port(8509)}\n", what="the member answers over TLS")
    with pytest.raises((ssl.SSLError, ConnectionError, http1.Closed)):
        answer(example.port(8509), trusted)  # the member asks for a certificate
    trusted.load_cert_chain(folder / "gateway.pem", folder / "gateway.key")
    assert answer(example.port(8509), trusted).status == 200


def regions(example, tidegate, server, **_):
    near, next_door, abroad = (server(upstream.named(), name=n, port=example.port(p)) for n, p in (("near", 8501), ("next-door", 8502), ("abroad", 8503)))
    gateway = example.start(tidegate)
    assert {gateway.get().text() for _ in range(20)} == {"near"}
    near.stop()
    until(lambda: gateway.get().text() == "next-door", what="the next zone serves")
    assert next_door.requests and not abroad.requests


def by_name(example, tidegate, server, **_):
    for name, port in (("ranker", 8501), ("embedder-1", 8502), ("embedder-2", 8503)):
        server(upstream.named(), name=name, port=example.port(port))
    gateway = example.start(tidegate)
    assert gateway.get().text() == gateway.get(headers=[("x-upstream", "ranker")]).text() == "ranker"
    assert gateway.get(headers=[("x-upstream", "other")]).status == 404

    def embedders(user):
        return {gateway.get(headers=[("x-upstream", "embedder"), ("x-user", user)]).text() for _ in range(5)}

    of_each = [embedders(f"user-{n}") for n in range(20)]
    assert all(len(each) == 1 for each in of_each) and set.union(*of_each) == {"embedder-1", "embedder-2"}


def discovery(example, tidegate, server, **_):
    for name, port in (("one", 8501), ("two", 8502), ("three", 8503)):
        server(upstream.named(), name=name, port=example.port(port))
    gateway = example.start(tidegate)
    until(lambda: {gateway.get().text() for _ in range(20)} == {"one", "two"}, what="both members of the file work")
    until(lambda: gateway.get("/dns").text() == "two", what="DNS gave an address")
    part = example.folder / "endpoints.part"
    part.write_text(json.dumps({"endpoints": [{"address": f"127.0.0.1:{example.port(8503)}"}]}))
    part.rename(example.folder / "endpoints.json")
    until(lambda: {gateway.get().text() for _ in range(10)} == {"three"}, what="the file is read again")


def providers(example, tidegate, process, **_):
    process([sys.executable, FOLDER / "llm.py", example.port(8601), example.port(8602)])
    gateway = example.start(tidegate)
    until(lambda: http1.get(example.port(8601), "/fail").status == 200, what="the stand-ins listen")

    def chat(user="a", stream=False):
        body = json.dumps({"model": "gpt-mini", "user": user, "stream": stream, "messages": [{"role": "user", "content": "Hello?"}]})
        answer = gateway.request("POST", "/v1/chat/completions", [("content-type", "application/json")], body)
        assert answer.status == 200, answer.body
        return answer.text()

    first, second = "sk-stand-in-one-0001", "sk-stand-in-two-0002"
    assert f"{example.port(8601)} says hello" in chat()
    for key, status in ((first, 401), (second, 429)):
        http1.get(example.port(8601), f"/fail?key={key}&status={status}")
    assert all(f"{example.port(8602)} says hello" in chat(str(user)) for user in range(10)), "the other provider takes over"
    assert "[DONE]" in chat(stream=True)
    shown = command("status", "providers", "--admin", f"http://127.0.0.1:{gateway.admin_port}")
    assert shown.returncode == 0 and "sk-…0001" in shown.stdout and "401" in shown.stdout and "429" in shown.stdout, shown.stdout + shown.stderr
    http1.get(example.port(8601), f"/fail?key={first}")
    until(lambda: f"{example.port(8601)} says hello" in chat(), 15, "a probe brings the first key back")


EXERCISES = {
    f"{exercise.__name__.replace('_', '-')}.yaml": exercise
    for exercise in (by_name, canary, discovery, first, outliers, protect, providers, regions, tfserving_consul, tls, tracing)
}


def test_every_example_has_an_exercise():
    assert {path.name for path in FOLDER.glob("*.yaml")} == set(EXERCISES)


@pytest.mark.parametrize("name", EXERCISES)
def test_the_example_works(name, tmp_path, request, tidegate, server):
    example = Example(tmp_path, name)
    exercise = EXERCISES[name]
    wanted = {n: request.getfixturevalue(n) for n in ("process", "grpc_server", "consul", "channel", "collector") if n in exercise.__code__.co_varnames[: exercise.__code__.co_argcount]}
    exercise(example, tidegate=tidegate, server=server, **wanted)


def test_every_example_is_accepted_by_check(tmp_path):
    certificates = tmp_path / "certificates"
    subprocess.run([FOLDER / "make-certificates", certificates], check=True, capture_output=True, timeout=60)
    for path in FOLDER.glob("*.yaml"):
        checked = command("check", path, env={**os.environ, "CERTIFICATES": str(certificates)})
        assert checked.returncode == 0, checked.stderr
