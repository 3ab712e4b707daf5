"""What a model may take and give."""

import json
import struct
from pathlib import Path

import pytest

MODEL = """
    import dataclasses, datetime, enum, pathlib, typing, uuid
    from tidegate import Error, File, Model

    @dataclasses.dataclass
    class Point:
        x: int
        at: datetime.datetime

    class NoSuchUser(Error): pass

    class Colour(enum.Enum):
        RED = "red"

    class M(Model):
        def predict(self, text: str, limit: int = 10):
            return {"text": text, "limit": limit}

        def kinds(self):
            return {"point": Point(1, datetime.datetime(2026, 1, 2)), "colour": Colour.RED, "set": {1}, "id": uuid.UUID(int=0), "tuple": (1, None)}

        def nothing(self):
            pass

        def text(self):
            return "é"

        def as_bytes(self, data: bytes, name=""):
            return {"type": type(data).__name__, "size": len(data), "name": name}

        def as_file(self, data: typing.Optional[typing.BinaryIO] = None):
            return {"start": data.read(3).decode(), "rest": len(data.read())}

        def as_path(self, where: pathlib.Path):
            return {"type": type(where).__name__, "size": where.stat().st_size, "path": str(where)}

        def old(self, binary_data=None, **kwargs):
            return {"binary": None if binary_data is None else len(binary_data), "kwargs": kwargs}

        def give(self, size: int):
            return b"x" * size

        def give_file(self, remove: bool):
            path = pathlib.Path("given.bin").absolute()
            path.write_bytes(b"content")
            return File(path, remove=True) if remove else path

        def long(self, size: int):
            return "x" * size

        def raises(self, what: str):
            if what == "own":
                raise NoSuchUser("NOT_FOUND", "no such user")
            if what == "type":
                return len(5)
            if what == "exit":
                raise SystemExit(3)
            if what == "missing":
                raise NotImplementedError("later")
            raise ValueError("bad " + what)

        def bad(self, what: str):
            if what == "object":
                return {"a": [1, {"b": object()}]}
            if what == "nan":
                return {"scores": [1.0, float("nan")]}
            if what == "loop":
                loop = []; loop.append(loop); return loop
            if what == "bytes":
                return {"a": b"x"}
            if what == "key":
                return {(1, 2): 3}
            return "\\ud800"

        def tensor(self, x):
            return {"type": type(x).__name__, "values": x.tolist() if hasattr(x, "tolist") else x}

        def listed(self, many: typing.List[str]):
            return [type(many).__name__, many]

        def _private(self):
            return 1

        @property
        def prop(self):
            return 1

        @staticmethod
        def static(a):
            return a

        @classmethod
        def of_class(cls, a):
            return cls.__name__ + a
"""


@pytest.fixture
def model(host):
    worker = host(MODEL)
    worker.about = worker.ready()
    return worker


def test_hello_tells_who_it_is(model):
    assert model.hello.meta["token"] == "secret" and model.hello.meta["protocol"] == 1 and model.hello.meta["epoch"] == 3
    assert model.hello.meta["pid"] == model.process.pid


def test_ready_describes_the_public_methods(model):
    methods = model.about["methods"]
    assert {"predict", "initialize", "log", "static", "of_class"} <= set(methods)
    assert not {"train", "_private", "prop", "warm_up", "release", "dispose", "progress", "model_dir"} & set(methods)
    assert methods["predict"] == {"stream": False, "retry": True, "parameters": ["text", "limit"], "any": False, "reload": False, "doc": ""}
    assert methods["as_path"]["binary"] == "where" and methods["old"]["binary"] == "binary_data" 
    assert not any("binary" in methods[name] for name in ("text", "initialize", "log"))
    assert methods["static"]["parameters"] == methods["of_class"]["parameters"] == ["a"]
    assert not methods["as_bytes"]["retry"]


def test_keyword_arguments_and_results_of_many_kinds(model):
    assert model.call("predict", text="é").value == {"text": "é", "limit": 10}
    assert model.call("kinds").value == {
        "point": {"x": 1, "at": "2026-01-02T00:00:00"}, "colour": "red", "set": [1], "id": "00000000-0000-0000-0000-000000000000", "tuple": [1, None]
    }  # fmt: skip
    assert model.call("nothing").value is None
    assert model.call("text").data == '"é"'.encode()
    assert model.call("static", a=1).value == 1 and model.call("of_class", a="x").value == "Mx"


@pytest.mark.parametrize("method", ["_private", "__init__", "prop", "warm_up", "release", "model_dir", "train", "nowhere", ""])
def test_what_is_not_public_is_unimplemented(model, method):
    answer = model.call(method)
    assert answer.name == "ERROR" and answer.meta["code"] == "UNIMPLEMENTED" and answer.meta["reason"] == "unknown_method"


def test_wrong_arguments_are_told_with_the_signature(model):
    for kwargs, message in (
        ({}, "predict(text, limit=10): 'text' is missing"),
        ({"text": "x", "txt": 1}, "predict(text, limit=10): there is no 'txt'"),
        ({"self": 1, "text": "x"}, "predict(text, limit=10): there is no 'self'"),
    ):
        model.begin(4, "predict", kwargs)
        answer = model.next()
        assert (answer.meta["code"], answer.meta["reason"]) == ("INVALID_ARGUMENT", "bad_arguments")
        assert answer.meta["message"] == message and not answer.meta["traceback"]


def test_arguments_must_be_an_object(model):
    model.begin(4, "predict", [1])
    assert model.next().meta["code"] == "INVALID_ARGUMENT"


def test_exceptions_are_told_with_type_message_and_the_models_own_traceback(model):
    meta = model.call("raises", what="luck").meta
    assert (meta["code"], meta["reason"], meta["kind"], meta["message"]) == ("INTERNAL", "model_error", "ValueError", "bad luck")
    assert 'raise ValueError("bad " + what)' in meta["traceback"] and "_single.py" not in meta["traceback"]
    meta = model.call("raises", what="own").meta
    assert (meta["code"], meta["reason"], meta["kind"], meta["message"]) == ("NOT_FOUND", "", "NoSuchUser", "no such user")
    meta = model.call("raises", what="type").meta
    assert (meta["code"], meta["kind"]) == ("INTERNAL", "TypeError") and "has no len()" in meta["message"]
    assert model.call("raises", what="missing").meta["code"] == "UNIMPLEMENTED"
    assert model.call("raises", what="exit").meta["kind"] == "SystemExit"
    assert model.call("predict", text="still here").name == "RESULT"


@pytest.mark.parametrize(
    "what, message",
    [
        ("object", "result['a'][1]['b']: a object can't be written as JSON"),
        ("nan", "result['scores'][1]: nan is no number in JSON"),
        ("loop", "the result holds itself"),
        ("bytes", "result['a']: bytes can't stand inside JSON"),
        ("key", "the key (1, 2) is a tuple"),
        ("surrogate", "no Unicode"),
    ],
)
def test_a_result_that_cannot_be_written_is_a_precise_error(model, what, message):
    meta = model.call("bad", what=what).meta
    assert (meta["code"], meta["reason"]) == ("INTERNAL", "bad_result") and message in meta["message"], meta


def test_binary_input_comes_as_the_annotation_says(model, tmp_path):
    part = [{"name": "", "size": 5}]
    assert model.call("as_bytes", parts=part, data=b"hello", name="n").value == {"type": "bytes", "size": 5, "name": "n"}
    assert model.call("as_file", parts=part, data=b"hello").value == {"start": "hel", "rest": 2}
    spooled = model.call("as_path", parts=part, data=b"hello").value
    assert spooled["size"] == 5 and not Path(spooled["path"]).exists(), "removed after the call"
    assert model.call("old", parts=part, data=b"hello", a=1).value == {"binary": 5, "kwargs": {"a": 1}}
    assert model.call("old", a=1).value == {"binary": None, "kwargs": {"a": 1}}


def test_binary_input_in_a_file_is_read_where_it_is_and_left_there(model, tmp_path):
    path = tmp_path / "input"
    path.write_bytes(b"hello world")
    part = [{"name": "", "file": str(path), "size": 11}]
    assert model.call("as_bytes", parts=part).value["size"] == 11
    assert model.call("as_file", parts=part).value == {"start": "hel", "rest": 8}
    assert model.call("as_path", parts=part).value["path"] == str(path)
    assert path.exists()


def test_binary_input_where_none_is_taken_or_twice_is_refused(model):
    part = [{"name": "", "size": 1}]
    assert "takes no binary input" in model.call("predict", parts=part, data=b"x", text="a").meta["message"]
    twice = model.call("as_bytes", parts=[{"name": "data", "size": 1}], data=b"x", data_="y")
    assert twice.meta["code"] == "INVALID_ARGUMENT"
    model.begin(9, "as_bytes", {"data": "y"}, b"x", parts=[{"name": "data", "size": 1}])
    assert "given twice" in model.next().meta["message"]


def test_bytes_are_a_part_and_many_go_in_a_file(model):
    answer = model.call("give", size=10)
    assert answer.value is None and [(part, data) for part, data in answer.parts()] == [({"name": "", "size": 10}, b"x" * 10)]
    answer = model.call("give", size=9 << 20)
    ((part, data),) = answer.parts()
    assert part["remove"] and part["size"] == len(data) == 9 << 20
    Path(part["file"]).unlink()


def test_a_path_gives_the_files_content(model):
    ((part, data),) = model.call("give_file", remove=False).parts()
    assert data == b"content" and "remove" not in part
    ((part, _),) = model.call("give_file", remove=True).parts()
    assert part["remove"]


def test_a_result_longer_than_a_frame_comes_in_pieces(model):
    assert len(model.call("long", size=40 << 20).value) == 40 << 20


def test_arguments_longer_than_a_frame_come_in_pieces(model):
    text = json.dumps({"text": "x" * (20 << 20)}).encode()
    meta = {"method": "predict", "version": "", "json": len(text)}
    model.send("CALL", 7, meta, text[: 8 << 20], flags=1)
    model.send("CALL", 7, None, text[8 << 20 : 16 << 20], flags=1)
    model.send("CALL", 7, None, text[16 << 20 :])
    assert len(model.next().value["text"]) == 20 << 20


def test_tensors_come_and_go_with_type_and_shape(model):
    data = struct.pack("<6f", *range(6))
    answer = model.call("tensor", parts=[{"name": "x", "size": 24, "datatype": "FP32", "shape": [2, 3]}], data=data)
    assert answer.value["values"] == [[0, 1, 2], [3, 4, 5]]
    words = b"".join(struct.pack("<I", len(word)) + word for word in (b"a", b"bc"))
    text = [{"name": "text", "size": 9, "datatype": "BYTES", "shape": [1]}]
    assert model.call("predict", parts=text, data=b"\5\0\0\0hello").value["text"] == "hello", "a parameter that wants a str"
    many = [{"name": "many", "size": len(words), "datatype": "BYTES", "shape": [2]}]
    assert model.call("listed", parts=many, data=words).value == ["list", ["a", "bc"]]
    short = model.call("tensor", parts=[{"name": "x", "size": 20, "datatype": "FP32", "shape": [2, 3]}], data=data[:20])
    assert "20 bytes are no tensor of FP32 [2, 3]" in short.meta["message"]
    cut = model.call("tensor", parts=[{"name": "x", "size": 6, "datatype": "BYTES", "shape": [2]}], data=words[:6])
    assert cut.meta["code"] == "INVALID_ARGUMENT"


def test_numpy_results_are_tensors_alone_and_lists_inside(host):
    pytest.importorskip("numpy")
    worker = host(
        """
        import numpy as np
        from tidegate import Model
        class M(Model):
            inputs = [("x", "FP32", [-1, 3])]
            outputs = [{"name": "y", "datatype": "FP32", "shape": [-1]}]
            def predict(self, x): return {"y": x.sum(axis=1), "words": np.array([["a", "bc"]])}
            def one(self): return np.arange(3)
            def mixed(self): return {"score": np.float32(0.5), "label": "x", "all": np.array([1, 2]), "yes": np.bool_(True)}
            def odd(self): return np.array([1 + 2j])
        """
    )
    about = worker.ready()
    assert about["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}] and about["outputs"][0]["name"] == "y"
    data = struct.pack("<6f", *range(6))
    answer = worker.call("predict", parts=[{"name": "x", "size": 24, "datatype": "FP32", "shape": [2, 3]}], data=data)
    (y, y_data), (words, words_data) = answer.parts()
    assert (y["datatype"], y["shape"], struct.unpack("<2f", y_data)) == ("FP32", [2], (3.0, 12.0))
    assert (words["datatype"], words["shape"]) == ("BYTES", [1, 2]) and words_data == b"\1\0\0\0a\2\0\0\0bc"
    ((one, one_data),) = worker.call("one").parts()
    assert one == {"name": "", "size": 24, "datatype": "INT64", "shape": [3]} and one_data == struct.pack("<3q", 0, 1, 2)
    assert worker.call("mixed").value == {"score": 0.5, "label": "x", "all": [1, 2], "yes": True}
    assert "complex128" in worker.call("odd").meta["message"]
