"""What callers send to a hosted model that does not fit, and models whose answers can't be written."""

import json

import pytest
from harness.model import Chaos, call, failure

MODEL = """
from pathlib import Path
from tidegate import Model

class M(Model):
    def any(self, **kwargs):
        return sorted(kwargs)

    def size(self, data: bytes):
        return len(data)

    def perhaps(self, data: bytes = None):
        return None if data is None else len(data)

    def aipod(self, binary_data: bytes, **kwargs):
        return len(binary_data)

    def predict(self, **kwargs):
        return sorted(kwargs)

    def raises(self):
        raise ValueError("bad \\ud800 name")

    def folder(self):
        return Path(".").absolute()
"""


@pytest.fixture
def host(serve):
    return serve("M", "--name", "m", "--concurrency", 2, source=MODEL)


def post(host, method, body=b"{}"):
    answer = host.request("POST", f"/m/{method}", [("content-type", "application/json")], body, timeout=20)
    return answer.status, json.loads(answer.body)


def test_a_binary_input_that_is_not_there_is_given_to_binary_data_alone(host, channel):
    ch = channel(host.port)
    none = {"_aipod_binary_size": None}
    for kwargs in ({}, none):
        assert Chaos(ch, "any", {"a": 1, **kwargs}).result() == ["a"]
        assert Chaos(ch, "perhaps", kwargs).result() is None
        assert Chaos(ch, "aipod", kwargs).result() == 0
        code, details, _ = failure(lambda kwargs=kwargs: Chaos(ch, "size", kwargs).result())
        assert (code, details) == ("INVALID_ARGUMENT", "TypeError: size(data): 'data' is missing")
    assert call(ch, "predict", {"a": 1}) == ["a"]
    # An input of no bytes is one.
    for method in ("size", "perhaps", "aipod"):
        assert Chaos(ch, method, binary=b"").result() == 0
        assert Chaos(ch, method, binary=iter([b""])).result() == 0, "of an unknown size"
        assert Chaos(ch, method, binary=b"12").result() == 2
    assert post(host, "any", b'{"a": 1}') == (200, ["a"])
    assert post(host, "size")[0] == 400


@pytest.mark.parametrize(
    "value",
    [b'"\xff"', b"[" * 3000 + b"]" * 3000, b"NaN", b"1e400", b'"\\ud800"'],
    ids=["utf-8", "deep", "nan", "huge", "surrogate"],
)
def test_arguments_that_are_no_json_are_the_callers_fault(host, channel, value):
    text = b'{"a": ' + value + b"}"
    status, problem = post(host, "predict", text)
    assert (status, problem["code"]) == (400, "bad_arguments"), problem
    code, details, _ = failure(lambda: call(channel(host.port), raw=text))
    assert code == "INVALID_ARGUMENT", details
    assert "Traceback" not in host.logs()


def test_an_exception_or_a_result_that_cannot_be_written_is_told_and_costs_no_place(host):
    for _ in range(4):  # more than there are places
        assert post(host, "raises") == (500, {**post(host, "raises")[1], "code": "model_error", "detail": "ValueError: bad ? name"})
        status, problem = post(host, "folder")
        assert (status, problem["code"]) == (500, "bad_result") and "it is a folder" in problem["detail"]
    assert post(host, "any") == (200, [])
