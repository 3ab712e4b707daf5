"""What both clients send with a call: inputs of every kind, and uploads that go on where they broke."""

import io
import os

import pytest

pytest.importorskip("grpc")
pytest.importorskip("zstandard")

from fakechaos import fail, failing  # noqa: E402
from tidegate import Error  # noqa: E402


@pytest.mark.parametrize("kind", ["bytes", "path", "file", "iterator", "pipe"])
def test_an_input_is_streamed_compressed(client, server, tmp_path, kind):
    data = os.urandom(300_000) * 3
    (tmp_path / "input").write_bytes(data)
    given = {
        "bytes": lambda: data,
        "path": lambda: tmp_path / "input",
        "file": lambda: open(tmp_path / "input", "rb"),
        "iterator": lambda: iter([data[:10], data[10:]]),
        "pipe": lambda: Unseekable(data),
    }[kind]()
    seen = []
    assert client(server, progress=lambda sent, size: seen.append((sent, size))).call("train", {"a": 1}, input=given) == {"ok": True}
    (call,) = server.calls
    assert bytes(call.data) == data
    size = None if kind in ("iterator", "pipe") else len(data)
    assert call.kwargs == {"a": 1, **({"_aipod_binary_size": size} if size else {})}
    assert seen[-1] == (len(data), size)
    if hasattr(given, "close"):
        given.close()


class Unseekable(io.RawIOBase):
    def __init__(self, data):
        self.rest = io.BytesIO(data)

    def read(self, size=-1):
        return self.rest.read(size)

    def tell(self):
        raise OSError("a pipe")


def test_an_input_may_be_among_the_arguments_and_is_one(client, server, tmp_path):
    (tmp_path / "input").write_bytes(b"abc")
    client(server).predict(image=tmp_path / "input", size=3)
    assert bytes(server.calls[0].data) == b"abc" and server.calls[0].kwargs["size"] == 3 and "image" not in server.calls[0].kwargs
    with pytest.raises(TypeError, match="one binary input"):
        client(server).predict(a=b"1", b=b"2")


def test_trouble_with_the_input_is_told_as_it_is(client, server):
    def broken():
        yield b"abc"
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        client(server).call("predict", input=broken())


def test_an_upload_goes_on_where_it_broke(client, server):
    data = os.urandom(20 << 20)
    server.break_after = [15 << 20, 18 << 20]
    seen = []
    # Not marked as one that may run twice: it never began.
    assert client(server, progress=lambda sent, size: seen.append(sent)).call("train", input=data) == {"ok": True}
    first, second, third = server.calls
    assert third.data == data
    assert "x-tidegate-upload-offset" not in first.metadata
    assert 15 << 20 <= int(second.metadata["x-tidegate-upload-offset"]) < int(third.metadata["x-tidegate-upload-offset"])
    assert {call.metadata["x-tidegate-upload-id"] for call in server.calls} == {first.metadata["x-tidegate-upload-id"]}
    assert {call.kwargs["_aipod_binary_size"] for call in server.calls} == {20 << 20}


def test_an_upload_may_break_more_often_than_a_call_is_tried_while_it_gets_further(client, server):
    data = os.urandom(17 << 20)
    server.break_after = [at << 20 for at in (2, 4, 6, 8, 10, 12, 14)]
    assert client(server).call("train", input=data) == {"ok": True}
    assert len(server.calls) == 8 and server.calls[-1].data == data


def test_a_call_whose_input_was_sent_whole_is_not_sent_again_unless_it_may_run_twice(client, server):
    server.answer = failing(1)
    with pytest.raises(Error, match="try again"):
        client(server).call("train", input=os.urandom(17 << 20))
    assert len(server.calls) == 1


def test_an_upload_that_the_server_has_lost_begins_anew(client, server):
    data = os.urandom(17 << 20)
    server.break_after = [10 << 20]
    one = client(server, idempotent=True)
    server.status = lambda request, context: fail(context, "NOT_FOUND", "gone", "upload_unknown")
    assert one.call("train", input=data) == {"ok": True}
    assert server.calls[-1].data == data and "x-tidegate-upload-offset" not in server.calls[-1].metadata


def test_an_iterator_that_was_begun_is_not_sent_twice(client, server):
    server.break_after = [1]
    with pytest.raises(Error, match="broken"):
        client(server).call("predict", input=iter([b"abc" * 100_000, b"def" * 100_000]))
    assert len(server.calls) == 1
