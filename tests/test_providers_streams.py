"""Streams that break: before content nobody notices, after it the caller is told in its own dialect and never of a good end."""

import json
import threading
import time

import pytest

from harness import faults, http1, providers
from harness.process import resident_kib
from harness.providers import KEY_HEADERS, ask, one, post, provider, token
from harness.sdks import SDK_OF, arguments
from harness.wait import until

DIALECTS = ("openai", "anthropic", "gemini")
GOOD_END = {"openai": b"[DONE]", "anthropic": b"message_stop", "gemini": b'"STOP"'}
CASES = [(front, behind, fault, when) for front in DIALECTS for behind in DIALECTS for fault in faults.FAULTS for when in ("before", "after")]


def case_name(case):
    return "-".join(case)


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    """One gateway with a provider of two keys for each case, told apart by the header x-case."""
    from harness.gateway import Gateway

    faulty = faults.FaultServer()
    config = {"routes": [], "providers": []}
    for case in CASES:
        name = case_name(case)
        keys = [token(f"{name}-1"), token(f"{name}-2")]
        timeouts = {"first_content": "400ms", "idle": "400ms"}
        config["providers"].append(provider(name, faulty, keys, case[1], timeouts=timeouts, failover={"health_check_interval": "60s", "failure_threshold": 100}))
        config["routes"].append({"name": name, "match": {"headers": {"x-case": name}}, "to": [{"provider": name}]})
    gateway = Gateway(tmp_path_factory.mktemp("matrix"), config)
    yield gateway, faulty
    try:
        gateway.end()
    finally:
        faulty.stop()


def script(faulty, case, *behaviours):
    """Whichever of the case's keys comes first gets the first behaviour."""
    turns = faults.in_turn(*behaviours)
    keys = [token(f"{case_name(case)}-{number}") for number in (1, 2)]
    for key in keys:
        faulty.scripts[key] = turns
    return lambda: [call for call in faulty.calls if call.key in keys]


def frames(text):
    """Data of a stream's events."""
    return [line[5:].strip() for block in text.replace(b"\r", b"").split(b"\n\n") for line in block.split(b"\n") if line.startswith(b"data:")]


def is_error(front, frame):
    try:
        value = json.loads(frame)
    except ValueError:
        return False
    if front == "anthropic":
        return value.get("type") == "error" and bool(value["error"]["message"]) and bool(value["error"]["type"])
    if front == "gemini":
        return "error" in value and value["error"]["code"] >= 500 and bool(value["error"]["status"])
    return "error" in value and bool(value["error"]["message"]) and bool(value["error"]["type"])


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_trap_11_the_stream_matrix(matrix, case):
    """Three dialects in front × three behind × six faults × before and after the first content."""
    gateway, faulty = matrix
    front, behind, fault, when = case
    calls = script(faulty, case, faults.broken_stream(fault, when == "after"), faults.answer())
    answer = post(gateway, front, stream=True, headers=[("x-case", case_name(case))], timeout=15)
    assert answer.status == 200 and answer.header("content-type").startswith("text/event-stream")
    got = frames(answer.body)
    if when == "before":
        assert len(calls()) == 2 and calls()[0].key != calls()[1].key
        assert GOOD_END[front] in answer.body and not any(is_error(front, frame) for frame in got)
        assert text_of(front, got) == "Hello there"
    else:
        assert len(calls()) == 1, "what has begun cannot be begun again"
        assert text_of(front, got) == "Hello the"
        assert is_error(front, got[-1]), got[-1]
        assert sum(is_error(front, frame) for frame in got) == 1
        assert GOOD_END[front] not in answer.body
    if fault in ("stall", "pings"):
        until(lambda: calls()[0].left_at, what="the provider's stream is cancelled")


def text_of(front, got):
    text = ""
    for frame in got:
        if frame == b"[DONE]":
            continue
        value = json.loads(frame)
        if front == "openai":
            text += "".join(choice["delta"].get("content") or "" for choice in value.get("choices", []))
        elif front == "anthropic":
            text += value.get("delta", {}).get("text", "") if value["type"] == "content_block_delta" else ""
        else:
            text += "".join(part.get("text", "") for candidate in value.get("candidates", []) for part in candidate.get("content", {}).get("parts", []))
    return text


@pytest.mark.llm
@pytest.mark.parametrize("front", DIALECTS)
def test_the_sdks_raise_on_a_stream_that_broke_and_see_nothing_of_one_that_was_saved(matrix, sdks, front):
    """Every fault at once, each case a caller of its own."""
    gateway, faulty = matrix
    base, wanted = f"http://127.0.0.1:{gateway.port}", {}
    for case in CASES:
        if case[0] != front:
            continue
        script(faulty, case, faults.broken_stream(case[2], case[3] == "after"), faults.answer())
        wanted[case] = sdks.begin(base, "stream", arguments(front), SDK_OF[front], headers={"x-case": case_name(case)})
    for case, number in wanted.items():
        answer = sdks.end(number)
        if case[3] == "before":
            assert answer["ok"] and answer["text"] == "Hello there", (case, answer)
        else:
            assert not answer["ok"] and "".join(answer["pieces"]) == "Hello the", (case, answer)
            # Raised because it was told, not because what came could not be read.
            error = answer["error"]
            assert error["type"] in ("APIError", "APIStatusError", "InternalServerError", "OverloadedError", "ServerError"), (case, error)
            assert error["message"] and error["body"], (case, error)


# --- idle timers and heartbeats ----------------------------------------------------------------------

A, B = token("a"), token("b")


@pytest.mark.parametrize("front", DIALECTS)
def test_a_waiting_caller_gets_heartbeats_which_commit_nothing(tidegate, faulty, front):
    """Heartbeats flow while two keys fail one after the other; then the third one's stream comes as if nothing had been."""
    gateway = tidegate(one(faulty, [A, B], timeouts={"first_content": "700ms"}, route={"heartbeat": "100ms"}))
    script_any = faults.in_turn(faults.broken_stream("pings", after_content=False), faults.answer())
    faulty.default = script_any
    target, body = ask(front, stream=True)
    with gateway.client() as client:
        client.send_request("POST", target, [*KEY_HEADERS[front], ("content-type", "application/json")], json.dumps(body))
        answer = client.response_head()
        assert answer.status == 200 and answer.header("content-type").startswith("text/event-stream")
        began, early = time.monotonic(), b""
        while b"data:" not in early:
            early += client.read_chunk()
        waited = time.monotonic() - began
        answer = client.read_body(answer)
    whole = early + answer.body
    beats = early[: early.index(b"data:")]
    assert waited > 0.3, "a head and heartbeats came long before content"
    assert beats.count(b"\n\n") + beats.count(b"\n") >= 3 and b"data" not in beats
    assert GOOD_END[front] in whole and text_of(front, frames(whole)) == "Hello there"
    assert len(faulty.calls) == 2


@pytest.mark.llm
@pytest.mark.parametrize("front", DIALECTS)
def test_the_sdks_read_over_heartbeats(tidegate, faulty, sdks, front):
    gateway = tidegate(one(faulty, [A, B], route={"heartbeat": "50ms"}))
    faulty.default = faults.hang(0.5, faults.answer())
    answer = sdks.good(f"http://127.0.0.1:{gateway.port}", "stream", arguments(front), SDK_OF[front])
    assert answer["text"] == "Hello there"


def test_after_heartbeats_all_keys_out_is_a_typed_error_in_the_stream(tidegate, faulty):
    gateway = tidegate(one(faulty, [A], route={"heartbeat": "50ms"}))
    faulty.default = faults.hang(0.3, faults.dead())
    for front in DIALECTS:
        answer = post(gateway, front, stream=True)
        if answer.status == 200:
            assert is_error(front, frames(answer.body)[-1]) and GOOD_END[front] not in answer.body
        else:
            assert answer.status == 503
            providers.error_of(answer, front)


def test_pings_of_the_provider_do_not_keep_a_stalled_stream_alive(tidegate, faulty):
    gateway = tidegate(one(faulty, [A], timeouts={"idle": "500ms"}))
    faulty.default = faults.broken_stream("pings", after_content=True, ping_every=0.05)
    began = time.monotonic()
    answer = post(gateway, stream=True)
    assert is_error("openai", frames(answer.body)[-1])
    assert 0.5 <= time.monotonic() - began < 10


def test_tokens_arrive_as_the_provider_sends_them(tidegate, faulty):
    gateway = tidegate(one(faulty, [A]))
    gate = threading.Event()
    faulty.default = faults.gated(gate)
    target, body = ask("openai", stream=True)
    with gateway.client() as client:
        client.send_request("POST", target, [("content-type", "application/json")], json.dumps(body))
        answer = client.response_head()
        seen = b""
        while b'"Hel"' not in seen:
            seen += client.read_chunk()
        gate.set()
        rest = client.read_body(answer)
    assert text_of("openai", frames(seen + rest.body)) == "Hello there"


# --- callers that leave ---------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("behind", DIALECTS)
def test_a_caller_that_leaves_cancels_the_providers_work_at_once_and_blames_nobody(tidegate, faulty, behind, when):
    gateway = tidegate(one(faulty, [A], behind, failover={"failure_threshold": 1}))
    faulty.default = faults.gated(threading.Event(), content_first=when == "after")
    for count in range(1, 6):
        target, body = ask("openai", stream=True)
        with gateway.client() as client:
            client.send_request("POST", target, [("content-type", "application/json")], json.dumps(body))
            until(lambda: len(faulty.calls) == count and faulty.calls[-1].frames >= 1)
            if when == "after":
                client.response_head()
                client.read_chunk()
        left = time.monotonic()
        until(lambda: faulty.calls[-1].left_at, 5, "cancelled")
        assert faulty.calls[-1].left_at - left < 2
    assert providers.state(gateway, A) == "healthy" and providers.key(gateway, A)["failures"] == 0
    until(lambda: gateway.metric("tidegate_inflight") == 0)


def test_a_caller_that_leaves_during_a_whole_answer_cancels_it_too(tidegate, faulty):
    gateway = tidegate(one(faulty, [A]))
    faulty.default = faults.hang()
    target, body = ask("openai")
    with gateway.client() as client:
        client.send_request("POST", target, [("content-type", "application/json")], json.dumps(body))
        until(lambda: faulty.calls)
    until(lambda: faulty.calls[0].left_at, 5, "cancelled")


def abort_streams(gateway, count, at_once=20):
    """So many callers read the first bytes of a stream and go."""
    target, body = ask("openai", stream=True)
    data = http1.head("POST", target, [("host", "test.local"), ("content-type", "application/json"), ("content-length", len(json.dumps(body)))]) + json.dumps(body).encode()
    left, lock, bad = [count], threading.Lock(), []

    def work():
        while True:
            with lock:
                if left[0] <= 0:
                    return
                left[0] -= 1
            with http1.Client(gateway.port) as client:
                client.send(data)
                answer = client.response_head()
                if answer.status != 200 or not client.read_chunk():
                    bad.append(answer)

    threads = [threading.Thread(target=work) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert bad == []


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.heavy)])
def test_aborted_streams_leave_memory_flat(tidegate, faulty, count):
    gateway = tidegate(one(faulty, [A, B]))
    faulty.default = faults.gated(threading.Event())
    abort_streams(gateway, count // 2)
    until(lambda: gateway.metric("tidegate_inflight") == 0, what="nothing in flight")
    faulty.calls.clear()
    before = resident_kib(gateway.roles()["gateway"])
    abort_streams(gateway, count // 2)
    until(lambda: gateway.metric("tidegate_inflight") == 0, what="nothing in flight")
    until(lambda: not faulty.server.open or all(call.left_at for call in list(faulty.calls)), 20, "all cancelled")
    grown = resident_kib(gateway.roles()["gateway"]) - before
    # Allocators keep pages; a leak of one stream's state (some KiB each) would be far more.
    assert grown < 6 * 1024, f"{grown} KiB more after {count // 2} aborted streams"
