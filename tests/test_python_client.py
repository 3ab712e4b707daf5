"""The Python package's clients against models that Tidegate serves."""

import asyncio
import os
import signal
import sys
import threading

import pytest

from harness.gateway import TOP
from harness.model import workers
from harness.wait import until

sys.path.insert(0, str(TOP / "python"))
from tidegate import AsyncClient, Client, Error  # noqa: E402

MODEL = '''
import hashlib, os, time, typing
import numpy as np
from tidegate import Error, Model, batched

class Taken(Error):
    pass

class Example(Model):
    def predict(self, text: str = "", seconds: float = 0.0):
        time.sleep(seconds)
        return {"text": text, "version": self.version, "pid": os.getpid()}

    def digest(self, data: typing.BinaryIO):
        hasher, size = hashlib.sha256(), 0
        while block := data.read(1 << 20):
            hasher.update(block)
            size += len(block)
        return {"size": size, "sha256": hasher.hexdigest()}

    def count(self, n: int):
        yield from range(n)

    def give(self, size: int):
        return b"x" * size

    def tensors(self):
        return {"y": np.arange(6, dtype=np.float32).reshape(2, 3)}

    def raises(self):
        raise KeyError("luck")

    def chooses(self):
        raise Taken("ALREADY_EXISTS", "it is there")

    def train(self):
        self.progress(0.5, message="half")
        return "trained"

    @batched(max_size=64, max_delay=0.05)
    def together(self, n):
        return [[each, len(n)] for each in n]
'''


@pytest.fixture
def model(serve):
    """Serves the class above: `model(options…)` gives a client and what serves."""
    clients = []

    def start(*options, **more):
        host = serve("Example", *options, source=MODEL)
        clients.append(Client(f"127.0.0.1:{host.port}", **more))
        clients[-1].host = host
        return clients[-1]

    yield start
    for each in clients:
        each.close()


def test_calls_of_every_kind(model, tmp_path):
    client = model()
    assert client.predict(text="é")["text"] == "é"
    assert client.call("predict", {"text": "x"}, unary=True)["text"] == "x"
    assert client.options(version="v7").predict()["version"] == "v7"
    assert client.count(n=3) == [0, 1, 2] and client.count(n=1) == [0] and client.count(n=0) == []
    assert list(client.stream("count", {"n": 1000})) == list(range(1000))
    assert client.give(size=5) == b"xxxxx" and client.give(size=20 << 20) == b"x" * (20 << 20)
    assert client.tensors()["y"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert client.options(version="v7").train() == "trained"
    assert [line["message"] for line in client.options(version="v7").log()] == ["half"]
    path = tmp_path / "input"
    path.write_bytes(os.urandom(1 << 20) * 40)
    import hashlib

    wanted = {"size": 40 << 20, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert client.digest(data=path) == client.digest(data=path.read_bytes()) == client.call("digest", input=iter([path.read_bytes()])) == wanted


def test_errors_are_told_as_they_are(model):
    client = model()
    for method, kwargs, code, reason, exception, message in (
        ("raises", {}, "INTERNAL", "model_error", "KeyError", "luck"),
        ("chooses", {}, "ALREADY_EXISTS", "model_error", "Taken", "it is there"),
        ("predict", {"txt": 1}, "INVALID_ARGUMENT", "bad_arguments", None, "there is no 'txt'"),
        ("nowhere", {}, "UNIMPLEMENTED", "unknown_method", None, "nowhere"),
        ("warm_up", {}, "UNIMPLEMENTED", "unknown_method", None, "warm_up"),
    ):
        with pytest.raises(Error) as caught:
            client.call(method, kwargs)
        error = caught.value
        assert (error.code, error.reason) == (code, reason) and message in error.message, (error.code, error.reason, error.message)
        assert exception is None or error.exception == exception


def test_many_asynchronous_calls_run_as_batches(model):
    client = model("--replicas", "1")

    async def run():
        async with AsyncClient(f"127.0.0.1:{client.host.port}") as one:
            items = [item async for item in one.stream("count", {"n": 3})]
            return items, await asyncio.gather(*(one.together(n=n) for n in range(32)))

    items, values = asyncio.run(run())
    assert items == [0, 1, 2]
    assert [value[0] for value in values] == list(range(32)) and max(value[1] for value in values) > 1


def test_a_worker_that_is_killed_costs_no_prediction(model):
    client = model("--replicas", "2")
    killed, answers, ended = [], [], threading.Event()

    def kill():
        while not ended.wait(0.3):
            pids = workers(client.host)
            if len(pids) == 2:
                os.kill(pids[len(killed) % 2], signal.SIGKILL)
                killed.append(pids[0])

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        until(lambda: answers.append(client.predict(text=str(len(answers)))) or len(killed) >= 3, 60, "three were killed")
    finally:
        ended.set()
        killer.join()
    assert [answer["text"] for answer in answers] == [str(n) for n in range(len(answers))]
    until(lambda: len(workers(client.host)) == 2, what="both are there again")


MEETING = '''
import asyncio, threading
from tidegate import Model

class Threads(Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.barrier = threading.Barrier(2)

    def meet(self):
        return self.barrier.wait(30) >= 0

class Tasks(Model):
    async def warm_up(self):
        self.here, self.both = 0, asyncio.Event()

    async def meet(self):
        self.here += 1
        if self.here == 2:
            self.both.set()
        await asyncio.wait_for(self.both.wait(), 30)
        return True

    async def count(self, n: int):
        for number in range(n):
            yield number
'''


@pytest.mark.parametrize("cls", ["Threads", "Tasks"])
def test_calls_that_wait_for_each_other_meet_in_one_worker(serve, cls):
    host = serve(cls, "--concurrency", "2", source=MEETING)
    with Client(f"127.0.0.1:{host.port}") as client:
        answers = []
        callers = [threading.Thread(target=lambda: answers.append(client.meet())) for _ in range(2)]
        for each in callers:
            each.start()
        for each in callers:
            each.join(60)
        assert answers == [True, True]
        if cls == "Tasks":
            assert list(client.stream("count", {"n": 500})) == list(range(500))
