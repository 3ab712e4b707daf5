"""What can't be said or read: each call has an answer all the same, and its worker goes on."""

import pytest
from test_life import wait_for

MODEL = """
    import asyncio, os
    from pathlib import Path
    from tidegate import Error, Model, batched

    class Silent(Exception):
        def __str__(self):
            raise RuntimeError("no words")

    class Odd(Error):
        def __init__(self):  # not the base's
            pass

    def trouble(what):
        if what == "surrogate": raise ValueError("bad \\ud800 name")
        if what == "silent": raise Silent()
        if what == "long": raise ValueError("m" * (20 << 20))
        if what == "odd": raise Odd()
        if what == "own": raise Error("NOT_FOUND", "bad \\ud800 name")
        return what

    class M(Model):
        def plain(self, what):
            return trouble(what)

        def items(self, what):
            yield 1
            yield trouble(what)

        @batched(max_size=2, max_delay=0.001)
        def batch(self, what):
            return [trouble(each) for each in what]

        @batched(max_size=2, max_delay=0.001)
        def each(self, what):
            def made(one):
                try:
                    return trouble(one)
                except Exception as error:
                    return error
            return [made(one) for one in what]

        def told(self, what):
            self.progress(0.5, message=what * (20 << 20) if what == "m" else what)
            return "told"

        def takes(self, **kwargs):
            return sorted(kwargs)

        def folder(self):
            return Path(os.getcwd())

        def pipe(self):
            os.mkfifo("pipe")
            return Path("pipe")
"""
ASYNC = """
        async def later(self, what):
            await asyncio.sleep(0)
            return trouble(what)

        async def later_items(self, what):
            yield 1
            yield trouble(what)
"""


def answered(model, method, number, **kwargs):
    """How a call ends; its items are passed over."""
    model.begin(number, method, kwargs)
    answer = model.next("RESULT", "ERROR", "DONE")
    assert answer.call == number
    return answer


@pytest.mark.parametrize("concurrency, more", [(1, ""), (3, ""), (1, ASYNC), (3, ASYNC)], ids=["one", "threads", "loop", "threads and loop"])
def test_an_exception_that_cannot_be_written_ends_its_call_alone(host, concurrency, more):
    model = host(MODEL + more, concurrency=concurrency)
    model.ready()
    number = 0
    for _ in range(2):  # more often than there are places
        for method in ("plain", "items", "batch", "each", *(("later", "later_items") if more else ())):
            for what, kind, words in (
                ("surrogate", "ValueError", "bad ? name"),
                ("silent", "Silent", "Silent, whose text can't be had: RuntimeError"),
                ("long", "ValueError", "mmm"),
                ("odd", "Odd", "can't be told"),
            ):
                number += 1
                answer = answered(model, method, number, what=what)
                assert answer.name == "ERROR", (method, what, answer)
                assert (answer.meta["code"], answer.meta["reason"], answer.meta["kind"]) == ("INTERNAL", "model_error", kind), (method, what, answer)
                assert words in answer.meta["message"] and len(answer.meta["message"]) < 1 << 17, (method, what)
            number += 1
            meta = answered(model, method, number, what="own").meta
            assert (meta["code"], meta["message"]) == ("NOT_FOUND", "bad ? name"), method
    assert answered(model, "plain", 1000, what="x").value == "x"


@pytest.mark.parametrize("concurrency", [1, 3])
def test_progress_that_cannot_be_written_is_the_methods_own_trouble(host, concurrency):
    model = host(MODEL, concurrency=concurrency)
    model.ready()
    assert answered(model, "told", 1, what="bad \ud800").value == "told"
    long = answered(model, "told", 2, what="m")
    assert (long.meta["reason"], long.meta["kind"]) == ("model_error", "ValueError") and "more than" in long.meta["message"]
    assert answered(model, "plain", 3, what="x").value == "x"


@pytest.mark.parametrize(
    "text, why",
    [
        (b'{"a": "\xff"}', "utf-8"),
        (b'{"a": NaN}', "NaN is no JSON"),
        (b' {"a": -Infinity} ', "-Infinity is no JSON"),
        (b'{"a": %s1%s}' % (b"[" * 100_000, b"]" * 100_000), "nested too deeply"),
        (b'{"a": }', "Expecting value"),
        (b"[1]", "must be a JSON object"),
    ],
    ids=["utf-8", "nan", "infinity", "deep", "syntax", "list"],
)
def test_arguments_that_are_no_json_are_the_callers_fault(host, text, why):
    model = host(MODEL)
    model.ready()
    model.send("CALL", 1, {"method": "takes", "version": "", "json": len(text)}, text)
    meta = model.next().meta
    assert (meta["code"], meta["reason"], meta["traceback"]) == ("INVALID_ARGUMENT", "bad_arguments", ""), meta
    assert why in meta["message"] and len(meta["message"]) < 500, meta
    both = {"method": "batch", "version": "", "calls": [{"call": 2, "json": len(text)}, {"call": 3, "json": 13}]}
    model.send("BATCH", 2, both, text + b'{"what": "x"}')
    answers = {answer.call: answer for answer in (model.next(), model.next())}
    assert answers[2].meta["reason"] == "bad_arguments" and answers[3].value == "x"


@pytest.mark.parametrize("method, why", [("folder", "it is a folder"), ("pipe", "it is no file")])
def test_a_result_that_is_no_file_is_told(host, method, why):
    model = host(MODEL)
    model.ready()
    meta = model.call(method).meta
    assert meta["reason"] == "bad_result" and why in meta["message"], meta


CHATTY = """
    import asyncio, logging, time
    from tidegate import Model
    class M(Model):
        def talks(self, way):
            text = "x" * (6 << 20)
            while True:
                if way == "progress":
                    self.progress(0.5, data=text)
                else:
                    logging.getLogger("m").info(text)
        def predict(self): return "next"
"""


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("way", ["progress", "log"])
def test_a_call_that_is_cancelled_while_it_tells_something_leaves_the_connection_whole(host, concurrency, way):
    model = host(CHATTY, concurrency=concurrency)
    model.ready()
    for call in range(1, 10):
        model.begin(call, "talks", {"way": way})
        # Its socket is full: it is in the middle of a frame.
        for _ in range(1 + call % 5):
            model.next("PROGRESS", "LOG")
        model.send("CANCEL", call)
        ended = model.next("ERROR", "RESULT")
        assert (ended.call, ended.meta["code"]) == (call, "CANCELLED")
    assert model.call("predict", call=100).value == "next"


BUSY = """
    import asyncio, time
    from tidegate import Model
    class M(Model):
        async def holds(self, sign):
            open(sign, "w").close()
            time.sleep(1)
            return "held"
        async def predict(self): return "next"
"""


def test_a_call_that_is_cancelled_before_the_event_loop_comes_to_it_is_answered(host, tmp_path):
    model = host(BUSY, concurrency=2)
    model.ready()
    model.begin(1, "holds", {"sign": str(tmp_path / "sign")})
    wait_for((tmp_path / "sign").exists, "the loop is held")
    model.begin(2, "predict")
    model.send("CANCEL", 2)
    answers = {}
    for _ in range(2):
        frame = model.next("ERROR", "RESULT")
        answers[frame.call] = frame
    assert answers[1].value == "held" and answers[2].meta["code"] == "CANCELLED"
    model.send("DRAIN", 0)
    assert model.process.wait(20) == 0
