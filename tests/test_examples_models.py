"""The models in examples/models are served and called as their first lines say."""

import json
import random
import shlex
import sys

import pytest

from harness import http1
from harness.gateway import TOP, command

sys.path.insert(0, str(TOP / "python"))
from tidegate import Client  # noqa: E402

FOLDER = TOP / "examples" / "models"


@pytest.fixture
def example(serve):
    """Serves an example: `example("sentiment", "Sentiment")`; gives a function that posts JSON to a method of it."""

    def start(name, cls, *options):
        host = serve(cls, *options, source=(FOLDER / f"{name}.py").read_text())

        def post(method, body=None, query="", kind="application/json", **kwargs):
            target = f"/{cls.lower()}/{method}{query}"
            answer = http1.request(host.port, "POST", target, [("content-type", kind)], body or json.dumps(kwargs).encode(), timeout=60)
            return answer.status, json.loads(answer.body) if "json" in dict(answer.headers).get("content-type", "") else answer.body

        post.port = host.port
        return post

    return start


def test_every_example_has_a_test_and_a_command_that_is_understood():
    assert {path.stem for path in FOLDER.glob("*.py")} == {"sentiment", "embeddings", "training", "tokens"}
    for path in FOLDER.glob("*.py"):
        line = next(line.strip() for line in path.read_text().splitlines() if line.strip().startswith("tidegate serve"))
        shown = command(*shlex.split(line)[1:], "--print-config", cwd=TOP)
        assert shown.returncode == 0 and f"{path.stem}:" in shown.stdout, shown.stderr


def test_sentiment(example):
    post = example("sentiment", "Sentiment", "--replicas", "2")
    assert post("predict", text="not a bad day at all, lovely!") == (200, {"label": "glad", "score": 0.737, "words": ["bad", "lovely"]})
    status, problem = post("predict", text=" ")
    assert (status, problem["code"], problem["detail"]) == (400, "bad_arguments", "the text is empty"), problem


def test_embeddings(example):
    post = example("embeddings", "Embeddings")
    status, value = post("predict", text="A cat sits on the mat.")
    assert status == 200 and len(value["embedding"]) == 384 and abs(sum(x * x for x in value["embedding"]) - 1) < 1e-3
    near = post("likeness", a="A cat sits on the mat.", b="A kitten rests on a rug.")[1]
    far = post("likeness", a="A cat sits on the mat.", b="The stock market fell today.")[1]
    assert near > 0.5 > 0.3 > far


def test_a_training_with_progress(example):
    post = example("training", "Classifier")
    version = "?version=v1"
    assert post("initialize", query=version, epochs=10, rate=0.5) == (200, {"result": True})
    assert post("predict", query=version, features=[1, 1])[1]["exception"] == "NotTrained"
    chance = random.Random(1)
    points = [(chance.uniform(-3, 3), chance.uniform(-3, 3)) for _ in range(500)]
    data = "".join(f"{x:.3f},{y:.3f},{int(x > y)}\n" for x, y in points).encode()
    status, value = post("train", body=data, query=version, kind="text/csv")
    assert status == 200 and value["points"] == 500 and value["loss"] < 0.2, value
    steps = [number / 10 for number in range(1, 11)]
    log = post("log", query=version)[1]
    assert [line["progress"] for line in log] == steps
    # Whoever called sees it, too: over events, and in the client.
    headers = [("content-type", "text/csv"), ("accept", "text/event-stream")]
    answer = http1.request(post.port, "POST", f"/classifier/train{version}", headers, data, timeout=60)
    events = [event.split("\ndata: ") for event in answer.body.decode().strip().split("\n\n") if not event.startswith(":")]
    assert [name for name, _ in events] == ["event: progress"] * 10 + ["event: result", "event: done"]
    assert [json.loads(told)["progress"] for _, told in events[:10]] == steps and json.loads(events[0][1])["message"] == "epoch 1 of 10"
    seen = []
    with Client(f"127.0.0.1:{post.port}", version="v1", on_progress=seen.append) as client:
        assert client.call("train", {"epochs": 2}, input=data)["points"] == 500
    assert [told["progress"] for told in seen] == [0.5, 1.0] and seen[0]["stage"] == "fit"
    assert post("predict", query=version, features=[2, -1])[1]["probability"] > 0.95
    assert post("predict", query=version, features=[-1, 2])[1]["probability"] < 0.05
    assert "line 1 is no list of numbers" in post("train", body=b"1,x,0\n", query=version, kind="text/csv")[1]["detail"]


def test_tokens_come_as_events(example):
    post = example("tokens", "Tokens")
    status, events = post("generate", prompt="the tide", limit=8)
    assert status == 200
    lines = [line[5:].strip() for line in events.decode().splitlines() if line.startswith("data:")]
    tokens = [json.loads(line) for line in lines[:-1]]
    assert [each["index"] for each in tokens] == list(range(len(tokens))) and tokens[-1]["token"] == "."
    assert json.loads(lines[-1]) == {"items": len(tokens)}
    assert post("predict", prompt="the tide", limit=8)[1]["text"] == " ".join(each["token"] for each in tokens)


def test_two_models_behind_one_gateway(tidegate, tmp_path):
    text = (FOLDER / "models.yaml").read_text()
    gateway = tidegate("{}", start=False)
    for name in ("sentiment", "tokens"):
        (gateway.folder / f"{name}.py").write_text((FOLDER / f"{name}.py").read_text())
    gateway.write(text.replace(":8080", f":{gateway.port}").replace(":9900", f":{gateway.admin_port}"))
    gateway.start()
    headers = [("content-type", "application/json"), ("x-user", "a")]
    answer = gateway.request("POST", "/sentiment/predict", headers, b'{"text": "a lovely day"}', timeout=60)
    assert answer.status == 200 and json.loads(answer.body)["label"] == "glad"
    answer = gateway.request("POST", "/tokens/generate", headers, b'{"prompt": "the tide", "limit": 3}', timeout=60)
    assert answer.status == 200 and b"event: done" in answer.body
