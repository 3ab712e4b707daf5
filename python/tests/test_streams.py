"""Generators, batches, several calls at a time."""

import time
from pathlib import Path

import pytest
from test_life import wait_for

STREAMS = """
    import time, typing
    from tidegate import Model
    class M(Model):
        def count(self, n, fail_at=-1, sign=None):
            try:
                for i in range(n):
                    if i == fail_at: raise ValueError("at %d" % i)
                    yield i
            finally:
                if sign: open(sign, "w").close()
        def slow(self, sign=None):
            try:
                yield 0
                for _ in range(6000): time.sleep(0.01)  # a thread is interrupted between calls of native code only
            finally:
                if sign: open(sign, "w").close()
        def given(self) -> typing.Iterator[int]: return iter([1, 2])
        def bad(self):
            yield 1
            yield object()
        def predict(self): return "next"
        def binary(self):
            yield b"ab"
"""
ASYNC = STREAMS.replace("def count", "async def count").replace("def slow", "async def slow").replace("time.sleep(0.01)", "await asyncio.sleep(0.01)").replace("import time", "import asyncio, time")
WAYS = [(STREAMS, 1), (STREAMS, 3), (ASYNC, 1), (ASYNC, 3)]


@pytest.fixture(params=WAYS, ids=["single", "threads", "async", "async-3"])
def model(request, host):
    source, concurrency = request.param
    worker = host(source, concurrency=concurrency)
    worker.about = worker.ready()
    return worker


def items_of(worker):
    items = []
    while True:
        frame = worker.next()
        if frame.name != "ITEM":
            return items, frame
        items.append(frame.value if not frame.meta.get("parts") else [data for _, data in frame.parts()])


def test_a_generator_gives_items_and_done(model):
    assert model.about["methods"]["count"]["stream"] and model.about["methods"]["given"]["stream"]
    for method, kwargs, wanted in (("count", {"n": 3}, [0, 1, 2]), ("count", {"n": 0}, []), ("given", {}, [1, 2]), ("binary", {}, [[b"ab"]])):
        model.begin(5, method, kwargs, credit=100)
        items, last = items_of(model)
        assert (items, last.name, last.call) == (wanted, "DONE", 5)


def test_no_more_items_are_sent_than_there_is_credit(model):
    model.begin(5, "count", {"n": 5}, credit=2)
    assert [model.next().value for _ in range(2)] == [0, 1]
    model.send("PING", 0)
    assert model.next().name == "PONG", "nothing else came first"
    model.send("CREDIT", 5, {"items": 1})
    assert model.next().value == 2
    model.send("CREDIT", 5, {"items": 10})
    assert items_of(model)[0] == [3, 4]


def test_a_generator_that_fails_gives_its_items_first(model):
    model.begin(5, "count", {"n": 5, "fail_at": 2}, credit=100)
    items, last = items_of(model)
    assert items == [0, 1] and (last.name, last.meta["message"]) == ("ERROR", "at 2")
    model.begin(6, "bad", credit=100)
    items, last = items_of(model)
    assert items == [1] and last.meta["reason"] == "bad_result"


def test_wrong_arguments_of_a_generator_are_told(model):
    model.begin(5, "count", {"m": 5}, credit=100)
    assert model.next().meta["reason"] == "bad_arguments"


@pytest.mark.parametrize("method", ["count", "slow"])
def test_a_cancelled_generator_is_closed(model, method, tmp_path):
    sign = tmp_path / "sign"
    model.begin(5, method, {"sign": str(sign), **({"n": 10} if method == "count" else {})}, credit=1)
    assert model.next().value == 0
    if method == "slow":
        model.send("CREDIT", 5, {"items": 5})
    model.send("CANCEL", 5)
    last = model.next()
    assert last.meta["code"] == "CANCELLED"
    wait_for(sign.exists, "the generator was closed")
    assert model.call("predict").value == "next"


BATCHED = """
    from tidegate import Model, batched, retryable
    class M(Model):
        @batched(max_size=8, max_delay=0.01)
        {0}def predict(self, text, limit=3):
            if "break" in text: raise RuntimeError("broken")
            if "few" in text: return []
            return [ValueError("odd") if each == "odd" else [each, lim, len(text)] for each, lim in zip(text, limit)]
        @retryable()
        def again(self): pass
"""


@pytest.mark.parametrize("word, concurrency", [("", 1), ("", 2), ("async ", 1)])
def test_a_batch_is_one_call_of_lists_and_each_gets_its_own(host, word, concurrency):
    import json

    worker = host(BATCHED.replace("{0}", word), concurrency=concurrency)
    methods = worker.ready()["methods"]
    assert methods["predict"]["batch"] == {"max_size": 8, "max_delay_us": 10000} and not methods["predict"]["stream"]
    assert methods["again"]["retry"]

    def run(*kwargs):
        texts = [json.dumps(each).encode() for each in kwargs]
        calls = [{"call": 10 + number, "json": len(text)} for number, text in enumerate(texts)]
        worker.send("BATCH", 0, {"method": "predict", "version": "", "calls": calls}, b"".join(texts))
        answers = {frame.call: frame for frame in (worker.next() for _ in kwargs)}
        return [answers[10 + number] for number in range(len(kwargs))]

    a, b, c, d = run({"text": "a"}, {"text": "b", "limit": 9}, {"text": "odd"}, {"txt": "x"})
    assert a.value == ["a", 3, 3] and b.value == ["b", 9, 3]
    assert (c.meta["kind"], c.meta["message"]) == ("ValueError", "odd") and d.meta["reason"] == "bad_arguments"
    assert [each.meta["message"] for each in run({"text": "break"}, {"text": "b"})] == ["broken", "broken"]
    assert "gave 0 results for a batch of 2" in run({"text": "few"}, {"text": "b"})[0].meta["message"]
    assert run({"text": "a"}, [1])[1].meta["code"] == "INVALID_ARGUMENT"
    assert worker.call("predict", text="alone").value == ["alone", 3, 1]


MEETING = """
    import threading
    from tidegate import Model
    class M(Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.barrier = threading.Barrier(2)
        def meet(self): return self.barrier.wait(20) >= 0
        def sleep(self, seconds, sign):
            import time
            open(sign, "w").close()
            end = time.monotonic() + seconds
            while time.monotonic() < end: time.sleep(0.01)
        def train(self): self.barrier.wait(20)
        def release(self): print("released")
        def predict(self): return 1
"""


def test_threads_run_as_many_calls_as_were_agreed(host, tmp_path):
    worker = host(MEETING, concurrency=2)
    worker.ready()
    worker.begin(1, "meet")
    worker.begin(2, "meet")
    assert {worker.next().value, worker.next().value} == {True}
    sign = tmp_path / "sign"
    worker.begin(3, "sleep", {"seconds": 60, "sign": str(sign)})
    wait_for(sign.exists, "it runs")
    assert worker.call("predict", call=4).value == 1, "the other thread is free"
    worker.send("CANCEL", 3)
    assert worker.next().meta["code"] == "CANCELLED"
    assert worker.call("predict", call=5).value == 1


def test_a_model_in_use_is_released_after_its_last_call(host):
    worker = host(MEETING, concurrency=2)
    worker.ready()
    worker.begin(1, "train")
    worker.begin(2, "meet")
    assert {worker.next().name, worker.next().name} == {"RESULT"}
    wait_for(lambda: "released" in worker.log(), "released after both")
    worker.send("DRAIN", 0)
    assert worker.process.wait(10) == 0


def test_async_calls_overlap_and_drain_waits_for_them(host):
    worker = host(
        """
        import asyncio
        class M:
            async def warm_up(self): self.event = asyncio.Event()
            async def wait(self): await asyncio.wait_for(self.event.wait(), 20); return "woken"
            async def wake(self): self.event.set()
            def plain(self): return 5
        """,
        concurrency=2,
    )
    worker.ready()
    worker.begin(1, "wait")
    assert worker.call("plain", call=9).value == 5
    worker.begin(2, "wake")
    assert {worker.next().call, worker.next().call} == {1, 2}
    worker.begin(3, "wait")
    worker.send("DRAIN", 0)
    assert worker.next().value == "woken"
    assert worker.process.wait(10) == 0


HOOKS = """
    import asyncio
    from tidegate import Model, batched
    class M(Model):
        loading = None
        async def warm_up(self):
            if self.version == "late":
                M.loading = asyncio.Event()
                await M.loading.wait()
        async def release(self):
            await asyncio.sleep(0)
            print("released", self.version)
        async def train(self): return "trained"
        async def predict(self): return self.version
        async def go(self):
            while not M.loading: await asyncio.sleep(0.01)
            M.loading.set()
        @batched(max_size=4)
        async def gathered(self, n): return n
"""


def test_the_loop_answers_calls_while_a_version_is_loaded_by_it(host):
    worker = host(HOOKS, concurrency=4)
    worker.ready()
    worker.begin(1, "predict", version="late")
    worker.begin(2, "go")
    answers = {frame.call: frame.value for frame in (worker.next(), worker.next())}
    assert answers == {1: "late", 2: None}


def test_a_model_with_an_async_release_is_released_by_its_own_training(host):
    worker = host(HOOKS, concurrency=4)
    worker.ready()
    assert worker.call("train", call=1).value == "trained"
    assert worker.call("predict", call=2).value == "default"
    wait_for(lambda: worker.log().count("released default") == 1, "the model of before is released")
    worker.send("DRAIN", 0)
    assert worker.process.wait(10) == 0
    assert worker.log().count("released default") == 2


def test_a_model_that_was_called_in_batches_is_released(host):
    worker = host(HOOKS, concurrency=2)
    worker.ready()
    worker.send("BATCH", 0, {"method": "gathered", "version": "", "calls": [{"call": 1, "json": 7}, {"call": 2, "json": 7}]}, b'{"n":1}{"n":2}')
    assert {worker.next().value, worker.next().value} == {1, 2}
    worker.send("RELEASE", 9, {"version": ""})
    assert worker.next().name == "RELEASED"
    wait_for(lambda: "released default" in worker.log(), "it is released")


def test_plain_methods_may_have_async_hooks(host):
    worker = host(
        """
        import asyncio
        class M:
            async def warm_up(self): self.warm = await asyncio.sleep(0, "warm")
            def predict(self): return self.warm
        """,
        concurrency=2,
    )
    worker.ready()
    assert worker.call("predict").value == "warm"


@pytest.mark.parametrize("way", ["def", "async def"])
def test_a_call_behind_the_answer_of_a_training_gets_the_new_model(host, way):
    worker = host(
        f"""
        from tidegate import Model
        class M(Model):
            made = 0
            def __init__(self, **kwargs):
                M.made += 1
                self.number = M.made
            {way} train(self): return self.number
            {way} predict(self): return self.number
        """,
        concurrency=4,
    )
    worker.ready()
    for number in range(1, 30):
        assert worker.call("train", call=2 * number).value == number
        assert worker.call("predict", call=2 * number + 1).value == number + 1
