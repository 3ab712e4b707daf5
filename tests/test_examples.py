"""Every example in examples/ is started as it stands (with other ports) and does what its first lines say."""

import os
import re

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
                (self.folder / path.name).write_text(re.sub(r"127\.0\.0\.1:(\d+)", self._mapped, path.read_text()))
        self.path = self.folder / name

    def _mapped(self, matched):
        return f"127.0.0.1:{self.port(int(matched[1]))}"

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
    example.path.write_text(example.path.read_text().replace(f"127.0.0.1:{example.port(8501)}", f"127.0.0.1:{consul.port}"))
    servers = [grpc_server(name) for name in "ab"]
    for each in servers:
        consul.register("tfserving", each.name, each.port)
    gateway = example.start(tidegate)
    until(lambda: len(gateway.members("tfserving")) == 2)
    messages, services = protos.load("prediction_service")
    stub = services.PredictionServiceStub(channel(example.port(8500)))
    request = messages.PredictRequest(model_spec=messages.ModelSpec(name="m"))
    request.inputs["x"].float_val.append(2.0)

    def served():
        return {stub.Predict(request, timeout=10).model_spec.version_label for _ in range(10)}

    until(lambda: served() == {"a", "b"}, what="both work")
    servers[0].kill()
    assert served() == {"b"}


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
    statuses = [gateway.request("POST", "/predict", [("x-user", "a")], b"x").status for _ in range(65)]
    assert statuses[:60] == [200] * 60 and 429 in statuses[60:]
    assert gateway.request("POST", "/predict", [("x-user", "b")], b"x").status == 200
    assert gateway.request("POST", "/predict", [("x-user", "b"), ("content-length", str(17 << 20))], None).status == 413


def tls(example, tidegate, server, authority, **_):
    authority.issue("test.local", stem="server")
    authority.issue("gateway.internal", stem="gateway")
    server(upstream.ok(b"inside"), port=example.port(8501), tls=authority.server("ranker.internal", require_client=True))
    example.start(tidegate, env={"CERTIFICATES": str(authority.folder)})
    with http1.Client(example.port(8443), tls=authority.client(), server_name="test.local") as client:
        assert client.request("GET", "/").body == b"inside"



def regions(example, tidegate, server, **_):
    near, next_door, embed_near, embed_far = (
        server(upstream.named(), name=n, port=example.port(p)) for n, p in (("near", 8501), ("next-door", 8502), ("embed-near", 8503), ("embed-far", 8504))
    )
    gateway = example.start(tidegate)
    assert {gateway.get().text() for _ in range(20)} == {"near"}
    assert {gateway.get(headers=[("x-upstream", "embedder"), ("x-user", str(n))]).text() for n in range(20)} == {"embed-near"}
    assert gateway.get(headers=[("x-upstream", "other")]).status == 404
    near.stop()
    until(lambda: gateway.get().text() == "next-door", what="the next zone serves")
    assert next_door.requests and not embed_far.requests and embed_near.requests


EXERCISES = {"first.yaml": first, "tfserving-consul.yaml": tfserving_consul, "canary.yaml": canary, "protect.yaml": protect, "tls.yaml": tls, "regions.yaml": regions}


def test_every_example_has_an_exercise():
    assert {path.name for path in FOLDER.glob("*.yaml")} == set(EXERCISES)


@pytest.mark.parametrize("name", EXERCISES)
def test_the_example_works(name, tmp_path, request, tidegate, server):
    example = Example(tmp_path, name)
    exercise = EXERCISES[name]
    wanted = {n: request.getfixturevalue(n) for n in ("authority", "grpc_server", "consul", "channel") if n in exercise.__code__.co_varnames[: exercise.__code__.co_argcount]}
    exercise(example, tidegate=tidegate, server=server, **wanted)


def test_every_example_is_accepted_by_check(tmp_path):
    for path in FOLDER.glob("*.yaml"):
        checked = command("check", path, env={**os.environ, "CERTIFICATES": str(tmp_path)})
        assert checked.returncode in (0, 2), checked.stderr
        if path.name != "tls.yaml":  # whose certificates do not exist here
            assert checked.returncode == 0, checked.stderr
