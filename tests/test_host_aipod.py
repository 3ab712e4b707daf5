"""The package aipod 1.0.0 as it is: its client against `tidegate serve`, its server behind a route."""

import json

import pytest

from harness.gateway import route, upstream as pool
from harness.heavy import environment
from harness.model import Load, call, script, service
from harness.net import free_port
from harness.process import Process
from harness.wait import until

CLIENT = """
import json, sys
from aipod.rpc.client import AIClient
import grpc

address, version = sys.argv[1:]
model = AIClient(address=address, version=version, datapath="client-data")
seen = {}
seen["initialize"] = model.initialize(labels=["a", "b"], depth=3)
seen["info"] = model.predict(ask="info")
seen["train"] = model.train(steps=2, binary_data=b"corpus")
seen["log"] = model.log()
seen["predict"] = model.predict(text="lovely \\u00e4", binary_data=b"\\x00" * 1000)
seen["large"] = len(model.predict(ask="large")["text"])
try:
    model.predict(ask="error")
except grpc.RpcError as error:
    seen["error"] = [error.code().name, error.details()]
other = AIClient(address=address, version="other", datapath="client-data")
seen["other"] = other.predict(ask="version")
print(json.dumps(seen))
"""

# Runs on both: on aipod's server with its base class, on ours with the SDK's.
MODEL = """
class User(Base):
    def train(self, steps=1, binary_data=None, **kwargs):
        for step in range(steps):
            self.trainning_logger.append(progress=(step + 1) / steps, message="step %d" % (step + 1), stage="fit")
        return {"steps": steps, "bytes": len(binary_data)}

    def predict(self, ask=None, binary_data=None, **kwargs):
        if ask == "info":
            return self.model_info
        if ask == "large":
            return {"text": "x" * 3000000}
        if ask == "error":
            raise ValueError("the weights are cold")
        if ask == "version":
            return self.version
        return {"kwargs": kwargs, "bytes": len(binary_data)}
"""
OURS = "from tidegate import Model as Base\n" + MODEL
THEIRS = "import sys\nfrom aipod.model import AIModelBase as Base\nfrom aipod.rpc.server import serve\n" + MODEL + "\nserve(User, int(sys.argv[1]))\n"


def seen_by_the_client(tmp_path, port, version="v1"):
    folder = tmp_path / "client"
    folder.mkdir(exist_ok=True)
    return script(environment("aipod"), CLIENT, f"127.0.0.1:{port}", version, cwd=folder)


def check(seen, code, details):
    assert seen["initialize"] == {"result": True}
    assert seen["info"] == {"labels": ["a", "b"], "depth": 3}
    assert seen["train"] == {"steps": 2, "bytes": 6}
    assert [(line["progress"], line["message"], line["stage"], line["status"]) for line in seen["log"]] == [(0.5, "step 1", "fit", "running"), (1.0, "step 2", "fit", "running")]
    assert all(isinstance(line["timestamp"], int) for line in seen["log"])
    assert seen["predict"] == {"kwargs": {"text": "lovely \u00e4"}, "bytes": 1000}
    assert seen["large"] == 3_000_000
    assert seen["error"][0] == code and details in seen["error"][1]
    assert seen["other"] == "other"


def test_aipods_client_works_unmodified(serve, tmp_path):
    host = serve("User", source=OURS)
    check(seen_by_the_client(tmp_path, host.port), "INTERNAL", "the weights are cold")
    assert json.loads((host.data / "models/v1/model.json").read_text()) == {"labels": ["a", "b"], "depth": 3}
    assert len((host.data / "models/v1/trainning.log").read_text().splitlines()) == 2


def test_aipods_client_works_unmodified_with_several_workers(serve, tmp_path):
    """What one worker has trained or initialized, the next call sees on another one."""
    host = serve("User", "--replicas", 3, "--max-loaded", 2, source=OURS)
    for version in ("v1", "v2"):
        check(seen_by_the_client(tmp_path, host.port, version), "INTERNAL", "the weights are cold")


def test_aipods_server_works_behind_a_route(tidegate, tmp_path, channel):
    folder, port = tmp_path / "server", free_port()
    folder.mkdir()
    server = Process([environment("aipod") / "bin/python", "-u", "-c", THEIRS, port], tmp_path / "server.txt", cwd=folder)
    try:
        until(lambda: "listening" in server.log(), 20, "aipod's server listens")
        gateway = tidegate({"routes": [route("aipod", match={"grpc": {"service": "ai.AI"}})], "upstreams": [pool("aipod", port, protocol="http2")]})
        check(seen_by_the_client(tmp_path, gateway.port), "UNKNOWN", "the weights are cold")
        load = Load([channel(gateway.port)], rate=100, seconds=1, kwargs={"text": "x"})
        with load:
            load.finish()
        assert not load.failures and sum(load.answers.values()) == load.begun
    finally:
        server.end()


def test_a_service_of_ours_and_aipods_server_share_a_split(tidegate, tmp_path, channel):
    """A move from aipod: both answer the same callers."""
    folder, port = tmp_path / "server", free_port()
    folder.mkdir()
    server = Process([environment("aipod") / "bin/python", "-u", "-c", THEIRS, port], tmp_path / "server.txt", cwd=folder)
    try:
        until(lambda: "listening" in server.log(), 20, "aipod's server listens")
        gateway = tidegate(
            {
                "routes": [route([{"upstream": "old", "weight": 50}, {"service": "user", "weight": 50}], match={"grpc": {"service": "ai.AI"}})],
                "upstreams": [pool("old", port, protocol="http2")],
                "services": [service(tmp_path, "user", "User", OURS)],
            }
        )
        ch = channel(gateway.port)
        until(lambda: call(ch, kwargs={"a": 1}), 20, "a first answer")
        for number in range(40):
            assert call(ch, kwargs={"a": number}) == {"kwargs": {"a": number}, "bytes": 0}
    finally:
        server.end()


@pytest.mark.parametrize("size", [50 << 20])
def test_unary_messages_may_be_large_both_ways(serve, channel, size):
    """aipod's own server takes 50 MiB; its client's answers end at 4 MiB, ours do not."""
    host = serve("Example")
    answer = call(channel(host.port, max_send_message_length=-1), kwargs={"a": 1}, binary=bytes(size))
    assert answer["binary"] == size
