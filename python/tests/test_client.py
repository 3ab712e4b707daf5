"""The clients, both of them, against a server whose behaviour is written down."""

import asyncio
import base64
import http.server
import json
import threading

import pytest

pytest.importorskip("grpc")
pytest.importorskip("zstandard")

from bothclients import QUICK  # noqa: E402
from fakechaos import error_info, fail, failing, packed  # noqa: E402
from tidegate import AsyncClient, Client, Error  # noqa: E402
from tidegate.client import Retry, _protocol as protocol  # noqa: E402
from tidegate.client._common import split  # noqa: E402
from tidegate.client._retry import Throttle  # noqa: E402

PONG = protocol.raw(b"PONG")


def test_any_method_by_its_name_with_its_arguments(client, server):
    server.answer = lambda received, context: iter([PONG, packed({"text": received.kwargs["text"]}), PONG])
    assert client(server).classify(text="é") == {"text": "é"}
    (call,) = server.calls
    assert call.metadata["x-func-name"] == "classify" and call.kwargs == {"text": "é", "_aipod_binary_size": None}
    assert "idempotency-key" not in call.metadata


def test_a_version_and_metadata_go_along(client, server):
    client(server, version="v2", metadata={"X-Upstream": "pool"}).predict()
    assert server.calls[0].kwargs["version"] == "v2" and server.calls[0].metadata["x-upstream"] == "pool"
    assert server.calls[0].metadata["idempotency-key"]


def test_items_are_a_list_or_come_one_by_one(client, server):
    def answer(received, context):
        context.set_trailing_metadata([("x-tidegate-result", "items")])
        for number in range(received.kwargs["n"]):
            yield packed(number)

    server.answer = answer
    one = client(server)
    assert one.generate(n=3) == [0, 1, 2] and one.generate(n=1) == [0] and one.generate(n=0) == []
    assert list(one.stream("generate", {"n": 3})) == [0, 1, 2]


def test_the_first_item_is_there_before_the_second_is_made(client, server):
    taken = threading.Event()

    def answer(received, context):
        yield packed(1)
        assert taken.wait(20)
        yield packed(2)

    server.answer = answer
    items = client(server).stream("generate")
    assert next(items) == 1
    taken.set()
    assert list(items) == [2]


def test_results_with_bytes_and_tensors(client, server):
    def answer(received, context):
        import struct

        import zstandard

        one = zstandard.ZstdCompressor()
        data = struct.pack("<3f", 1, 2, 3)
        parts = {
            "bytes": (None, [{"name": "", "size": 3}], b"abc"),
            "tensor": (None, [{"name": "y", "size": 12, "datatype": "FP32", "shape": [3]}], data),
            "both": ({"a": 1}, [{"name": "b", "size": 3}], b"abc"),
        }[received.kwargs["what"]]
        yield packed({"_aipod_value": parts[0], "_aipod_parts": parts[1]})
        yield PONG
        yield protocol.raw(one.compress(parts[2][:2]))
        yield protocol.raw(one.compress(parts[2][2:]))

    server.answer = answer
    one = client(server)
    assert one.predict(what="bytes") == b"abc"
    assert list(one.predict(what="tensor")["y"]) == [1.0, 2.0, 3.0]
    assert one.predict(what="both") == {"a": 1, "b": b"abc"}


def test_unary_calls_are_as_aipods(client, server):
    server.unary = lambda method, data, context: protocol.message((1, json.dumps([method, protocol.first(data, 2).decode(), len(protocol.first(data, 3))]).encode()))
    one = client(server, unary=True, version="v3")
    assert one.call("train", {"a": 1}, input=b"12345") == ["train", "v3", 5]
    assert server.calls[0].kwargs == {"a": 1}
    with pytest.raises(ValueError, match="can't be called unary"):
        one.call("classify")


def test_an_error_has_its_code_reason_and_the_models_exception_and_is_not_tried_again(client, server):
    server.answer = lambda received, context: fail(context, "INTERNAL", "bad luck", "model_error", "ValueError")
    with pytest.raises(Error) as caught:
        client(server).predict()
    assert (caught.value.code, caught.value.message, caught.value.reason, caught.value.exception) == ("INTERNAL", "bad luck", "model_error", "ValueError")
    assert len(server.calls) == 1


@pytest.mark.parametrize("code", ["UNAVAILABLE", "INTERNAL", "UNKNOWN"])
def test_what_may_run_twice_is_tried_again_with_one_key(client, server, code):
    server.answer = failing(3, code)
    assert client(server).predict() == "done"
    assert len(server.calls) == 4 and len({call.metadata["idempotency-key"] for call in server.calls}) == 1


def test_at_most_so_many_attempts(client, server):
    server.answer = failing(9)
    with pytest.raises(Error, match="try again"):
        client(server, retry=Retry(attempts=3, initial=0.001)).predict()
    assert len(server.calls) == 3


@pytest.mark.parametrize(
    "method, options, more, calls",
    [
        ("train", {}, {}, 1),
        ("train", {"idempotent": True}, {}, 2),
        ("train", {}, {"reason": "not_ready"}, 2),
        ("predict", {"idempotent": False}, {}, 1),
        ("predict", {}, {"more": [("grpc-retry-pushback-ms", "-1")]}, 1),
        ("predict", {"retry": Retry(initial=60)}, {"more": [("grpc-retry-pushback-ms", "5")]}, 2),
        ("predict", {"timeout": 5, "retry": Retry(initial=1e9, maximum=1e9)}, {}, 1),
    ],
)
def test_who_is_tried_again(client, server, method, options, more, calls):
    server.answer = failing(1, **more)
    one = client(server, **options)
    if calls == 1:
        with pytest.raises(Error):
            one.call(method)
    else:
        assert one.call(method) == "done"
    assert len(server.calls) == calls


def test_a_stream_is_not_tried_again_after_its_first_item(client, server):
    def answer(received, context):
        yield packed(1)
        fail(context, "UNAVAILABLE", "broken")

    server.answer = answer
    items = client(server).stream("predict")
    assert next(items) == 1
    with pytest.raises(Error, match="broken"):
        next(items)
    assert len(server.calls) == 1


def test_silence_is_unavailable(client, server):
    ended = threading.Event()

    def answer(received, context):
        context.add_callback(ended.set)
        context.send_initial_metadata(())
        ended.wait(20)
        yield packed(1)

    server.answer = answer
    with pytest.raises(Error) as caught:
        client(server, heartbeat=0.2, idempotent=False).predict()
    assert (caught.value.code, caught.value.reason) == ("UNAVAILABLE", "no_heartbeat") and ended.wait(20)


def test_a_call_waits_for_a_service_that_has_not_begun_to_answer(client, server):
    def answer(received, context):
        threading.Event().wait(0.6)
        yield packed("begun")

    server.answer = answer
    assert client(server, heartbeat=0.2, idempotent=False).train() == "begun"


def test_heartbeats_keep_a_long_call(client, server):
    def answer(received, context):
        ended = threading.Event()
        context.add_callback(ended.set)
        for _ in range(8):
            ended.wait(0.1)
            yield PONG
        yield packed("long")

    server.answer = answer
    assert client(server, heartbeat=0.5).predict() == "long"


def test_the_deadline_holds_over_all_attempts(client, server):
    def answer(received, context):
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait(20)
        yield packed(1)

    server.answer = answer
    with pytest.raises(Error) as caught:
        client(server, timeout=0.3).predict()
    assert (caught.value.code, caught.value.reason, caught.value.message) == ("DEADLINE_EXCEEDED", "deadline", "predict took longer than 0.3 s")


def step(progress, **more):
    return protocol.message((2, json.dumps({"progress": progress, **more}).encode()))


def test_who_asks_is_told_how_far_the_method_is(client, server):
    server.answer = lambda received, context: iter([step(0.5, message="half"), PONG, step(1), packed({"ok": True})])
    seen = []
    made = client(server, on_progress=seen.append)
    assert made.call("train") == {"ok": True}
    assert seen == [{"progress": 0.5, "message": "half"}, {"progress": 1}]
    assert list(made.stream("train")) == [{"ok": True}]
    assert len(seen) == 4 and all(call.metadata["x-tidegate-progress"] == "1" for call in server.calls)


def test_nobody_asks_where_nobody_looks(client, server):
    assert client(server).call("train") == {"ok": True}
    assert client(server, on_progress=False).call("train") == {"ok": True}
    assert all("x-tidegate-progress" not in call.metadata for call in server.calls)


def test_an_error_in_the_function_that_is_told_reaches_the_caller_and_ends_the_call(client, server):
    ended = threading.Event()

    def answer(received, context):
        context.add_callback(ended.set)
        yield step(0.1)
        ended.wait(20)

    server.answer = answer
    with pytest.raises(ZeroDivisionError):
        client(server, on_progress=lambda told: 1 / 0).call("train")
    assert ended.wait(20) and len(server.calls) == 1


def test_a_coroutine_is_told_by_the_asynchronous_client(server):
    server.answer = lambda received, context: iter([step(0.5), packed(1)])
    seen = []

    async def told(progress):
        await asyncio.sleep(0)
        seen.append(progress["progress"])

    async def run():
        async with AsyncClient(server.address, on_progress=told) as client:
            return await client.call("train")

    assert asyncio.run(run()) == 1 and seen == [0.5]


def test_a_bar_shows_how_far_the_method_is(client, server, capsys):
    pytest.importorskip("tqdm")
    server.answer = lambda received, context: iter([step(0.25, message="epoch 1"), step(None, stage="last"), packed(1)])
    assert client(server, on_progress=True).call("train") == 1
    shown = capsys.readouterr().err
    assert "train:" in shown and "25%" in shown and "epoch 1" in shown and "last" in shown


def test_the_gateways_word_is_the_reason_where_the_host_has_said_none(client, server):
    def answer(received, context):
        fail(context, "UNAVAILABLE", "no instance", more=[("x-tidegate-error", "service-not-ready")])

    server.answer = lambda received, context: iter(answer(received, context) or ())
    with pytest.raises(Error) as caught:
        client(server, idempotent=False).predict()
    assert caught.value.reason == "service-not-ready"


def test_calls_go_to_all_addresses_and_around_a_dead_one(client, servers):
    one, two = servers(), servers()
    both = client(f"{one.address},{two.address}")
    for _ in range(60):
        both.predict()
    assert one.calls and two.calls
    two.stop()
    before = len(one.calls)
    for _ in range(20):
        assert both.predict() == {"ok": True}
    assert len(one.calls) == before + 20


def test_a_server_that_is_not_there_is_unavailable(client):
    with pytest.raises(Error) as caught:
        client("127.0.0.1:1", retry=Retry(attempts=2, initial=0.001)).train()
    assert caught.value.code == "UNAVAILABLE"


class FakeConsul:
    def __init__(self):
        self.index, self.entries, self.change = 1, [], threading.Condition()
        consul = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                consul.asked = self.path
                with consul.change:
                    if f"index={consul.index}" in self.path:
                        consul.change.wait(2)
                    body, index = json.dumps(consul.entries).encode(), consul.index
                self.send_response(200)
                self.send_header("X-Consul-Index", str(index))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"consul://127.0.0.1:{self.server.server_port}/sentiment?tag=v1"

    def set(self, *servers):
        with self.change:
            self.entries = [{"Node": {"Address": "127.0.0.1"}, "Service": {"Address": "", "Port": each.port}} for each in servers]
            self.index += 1
            self.change.notify_all()


def test_consul_says_where_the_servers_are(client, servers):
    from test_life import wait_for

    one, two = servers(), servers()
    consul = FakeConsul()
    consul.set(one)
    follower = client(consul.url)
    follower.predict()
    assert len(one.calls) == 1 and "/v1/health/service/sentiment?passing=1&tag=v1" in consul.asked
    consul.set(two)
    wait_for(lambda: follower.predict() and two.calls, "the other one is called")
    consul.server.shutdown()


def test_a_call_waits_for_the_first_server_as_for_another_attempt(client, server):
    consul = FakeConsul()
    follower = client(consul.url, retry=Retry(initial=0.3))
    threading.Timer(0.1, consul.set, [server]).start()
    assert follower.train() == {"ok": True}
    consul.set()
    none = FakeConsul()
    with pytest.raises(Error) as caught:
        client(none.url).predict()
    assert (caught.value.code, caught.value.reason) == ("UNAVAILABLE", "no_address")
    for each in (consul, none):
        each.server.shutdown()


def test_the_bucket_of_retries_runs_dry_and_fills_again():
    throttle = Throttle(10)
    assert [throttle.bad() for _ in range(6)] == [True] * 4 + [False] * 2
    for _ in range(30):
        throttle.good()
    assert throttle.bad()


def test_pauses_double_up_to_the_longest_with_a_fifth_of_chance():
    retry = Retry()
    for failures, middle in ((1, 1), (2, 2), (3, 4), (7, 30)):
        pauses = [retry.pause(failures) for _ in range(200)]
        assert all(0.8 * middle <= pause <= 1.2 * middle for pause in pauses) and min(pauses) < middle < max(pauses)


def test_details_of_an_error_that_are_not_ours_do_no_harm():
    key, value = error_info("x", "KeyError")
    assert protocol.error_of("INTERNAL", "m", [(key, value)]).exception == "KeyError"
    for cut in range(len(value)):
        protocol.error_of("INTERNAL", "m", [(key, value[:cut])])
    protocol.error_of("INTERNAL", "m", [(key, base64.b64decode("CAU="))])


def test_reserved_arguments_are_refused_before_anything_is_sent(client, server):
    for kwargs in ({"_aipod_x": 1}, {"version": "v1"}):
        with pytest.raises(Error) as caught:
            client(server).predict(**kwargs)
        assert caught.value.reason == "reserved_argument"
    assert not server.calls


@pytest.mark.parametrize("unary", [False, True])
@pytest.mark.parametrize(
    "value, kind, words",
    [
        (float("nan"), ValueError, "argument text['a'][1]: nan is no number in JSON"),
        (object(), TypeError, "argument text['a'][1]: a object can't be written as JSON"),
        ("\ud800", ValueError, "no Unicode"),
    ],
    ids=["nan", "object", "surrogate"],
)
def test_an_argument_that_cannot_be_written_is_named(client, server, unary, value, kind, words):
    with pytest.raises(kind) as caught:
        client(server, unary=unary).predict(text={"a": [1, value]})
    assert words in str(caught.value) and "result" not in str(caught.value)
    assert not server.calls


@pytest.mark.parametrize(
    "given, meant",
    [
        ("host", "host:50051"),
        ("host:1", "host:1"),
        ("10.0.0.1", "10.0.0.1:50051"),
        ("::1", "[::1]:50051"),
        ("[::1]", "[::1]:50051"),
        ("[::1]:9", "[::1]:9"),
        ("http://host", "host:80"),
        ("http://host:8/", "host:8"),
        ("https://host", "https://host"),
        ("unix:/run/a.sock", "unix:/run/a.sock"),
        ("dns:///host:7", "dns:///host:7"),
    ],
)
def test_an_address_without_a_port_means_that_of_serve(given, meant):
    assert split((given,))[0] == [meant]


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("given", ["", " , "])
def test_no_address_is_refused(kind, given):
    with pytest.raises(ValueError, match="no address is given"):
        kind(given)


def test_a_closed_client_says_so(server):
    one = Client(server.address)
    one.close()
    with pytest.raises(RuntimeError, match="the client is closed"):
        one.predict()


def test_options_make_another_client_over_the_same_connections(server):
    with Client(server.address, retry=QUICK) as one:
        other = one.options(version="v9")
        other.predict()
        one.predict()
    assert server.calls[0].kwargs["version"] == "v9" and "version" not in server.calls[1].kwargs


def test_a_client_is_safe_for_threads(server):
    server.answer = lambda received, context: iter([packed(received.kwargs["n"])])
    results = {}
    with Client(server.address, retry=QUICK) as one:
        threads = [threading.Thread(target=lambda n=n: results.setdefault(n, one.predict(n=n))) for n in range(30)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(20)
    assert results == {n: n for n in range(30)}
