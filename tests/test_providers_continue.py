"""Streams that break off after content and go on with another key, where the route says so and the provider can."""

import json

import pytest

from harness import faults
from harness import faults_wire as wire
from harness.providers import one, post, provider, route_to, token
from harness.sdks import SDK_OF, arguments
from harness.wait import until
from test_providers_streams import GOOD_END, frames, is_error, text_of

A, B, C = token("a"), token("b"), token("c")
WHOLE = "".join(wire.TEXT)
CLAUDE, GPT = "claude-haiku-4-5", "gpt-4"
# Who asks, the provider's type, the dialect that it speaks, and the model.
WAYS = [
    ("openai", "moonshot", "openai", GPT),
    ("openai", "qwen", "openai", GPT),
    ("openai", "deepseek", "openai", GPT),
    ("openai", "mistral", "openai", GPT),
    ("openai", "vllm", "openai", GPT),
    ("openai", "anthropic", "anthropic", CLAUDE),
    ("anthropic", "anthropic", "anthropic", CLAUDE),
    ("anthropic", "moonshot", "openai", GPT),
    ("anthropic", "mistral", "openai", GPT),
    ("gemini", "anthropic", "anthropic", CLAUDE),
    ("gemini", "vllm", "openai", GPT),
]


def goes_on(repeats=False, faulty=None, one_piece=False):
    """A model that goes on from the beginning of its turn, if there is one; `faulty`: and breaks off again."""

    async def behave(call, connection):
        last = call.body["messages"][-1]
        text = last["content"] if isinstance(last["content"], str) else last["content"][0]["text"]
        said = text if last["role"] == "assistant" else ""
        assert WHOLE.startswith(said)
        rest = WHOLE if repeats else WHOLE[len(said) :]
        head, content, end = wire.stream(call.dialect, call.model, [rest] if one_piece else list(rest), None, (7, len(rest)))
        await faults._begin(call, connection)
        await faults._send(call, connection, [*head, *(content[:2] if faulty else [*content, *end])])
        if faulty:
            await faults._send(call, connection, [wire.ERROR_EVENT[call.dialect]])
        await connection.last_chunk()

    return behave


def config(faulty, way, keys=(A, B), **more):
    route = {"continue": True, **more.pop("route", {})}
    failover = {"health_check_interval": "60s", "failure_threshold": 100}
    return one(faulty, list(keys), way[2], type=way[1], route=route, failover=failover, timeouts={"first_content": "2s", "idle": "400ms"}, **more)


def script(faulty, *behaviours):
    turns = faults.in_turn(*behaviours)
    for key in (A, B, C):
        faulty.scripts[key] = turns


def streamed(gateway, way, **more):
    return post(gateway, way[0], stream=True, model=way[3], **more)


def whole(way, answer):
    """The text of a stream that the caller must take for one answer without a fault."""
    assert answer.status == 200
    got = frames(answer.body)
    assert not any(is_error(way[0], frame) for frame in got) and GOOD_END[way[0]] in got[-1], answer.body
    if way[0] == "openai":
        chunks = [json.loads(frame) for frame in got if frame != b"[DONE]"]
        assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1, "one answer has one name"
        assert sum(choice["delta"].get("role") == "assistant" for chunk in chunks for choice in chunk["choices"]) == 1
    if way[0] == "anthropic":
        kinds = [json.loads(frame)["type"] for frame in got]
        assert [kind for kind in kinds if kind not in ("ping", "content_block_delta")] == ["message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop"]
        assert {json.loads(frame)["index"] for frame, kind in zip(got, kinds) if kind.startswith("content_block")} == {0}
    return text_of(way[0], got)


def marked(way, call):
    """Whether the request is told in the provider's own way to go on."""
    message = call.body["messages"][-1]
    if way[1] == "vllm":
        return call.body["continue_final_message"] is True and call.body["add_generation_prompt"] is False
    if way[1] == "anthropic":
        return True
    return message["prefix" if way[1] in ("deepseek", "mistral") else "partial"] is True


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way[0]}-{way[1]}")
def test_a_stream_that_breaks_off_goes_on_with_another_key(tidegate, faulty, way):
    gateway = tidegate(config(faulty, way))
    for fault in faults.FAULTS:
        calls = len(faulty.calls)
        script(faulty, faults.broken_stream(fault, True), goes_on(way[1] == "mistral"))
        assert whole(way, streamed(gateway, way)) == WHOLE, fault
        first, second = faulty.calls[calls:]
        assert first.key != second.key and marked(way, second), fault
        last = second.body["messages"][-1]
        assert last["role"] == "assistant" and "Hello the" in json.dumps(last)
    assert gateway.metric("tidegate_streams_continued_total", provider="p") == len(faults.FAULTS)


def test_it_goes_on_as_often_as_it_breaks_off_and_the_repetition_may_come_in_one_piece(tidegate, faulty):
    way = WAYS[0]
    gateway = tidegate(config(faulty, way, [A, B, C]))
    script(faulty, goes_on(faulty=True), goes_on(faulty=True), goes_on(faulty=True), goes_on())
    assert whole(way, streamed(gateway, way)) == WHOLE
    assert [len(call.body["messages"][-1]["content"]) for call in faulty.calls[1:]] == [2, 4, 6]
    assert len({call.key for call in faulty.calls[:3]}) == 3, "another key each time, as long as there is one"
    way = WAYS[3]
    gateway.reload(config(faulty, way, [A, B, C]))
    script(faulty, faults.broken_stream("eof", True), goes_on(True, one_piece=True))
    assert whole(way, streamed(gateway, way)) == WHOLE


def test_keys_that_fail_on_the_way_are_passed_over(tidegate, faulty):
    way = WAYS[0]
    gateway = tidegate(config(faulty, way, [A, B, C]))
    script(faulty, faults.broken_stream("reset", True), faults.dead(), goes_on())
    assert whole(way, streamed(gateway, way)) == WHOLE
    assert len(faulty.calls) == 3 and len({call.key for call in faulty.calls}) == 3


def test_when_nobody_can_go_on_the_caller_is_told_that_the_stream_broke(tidegate, faulty):
    for way in (WAYS[0], WAYS[6], WAYS[9]):
        gateway = tidegate(config(faulty, way))
        script(faulty, faults.broken_stream("eof", True), faults.dead())
        answer = streamed(gateway, way)
        got = frames(answer.body)
        assert is_error(way[0], got[-1]) and sum(is_error(way[0], frame) for frame in got) == 1
        assert GOOD_END[way[0]] not in answer.body and text_of(way[0], got) == "Hello the"


@pytest.mark.parametrize("case", ["route", "provider", "model", "choices", "tool"])
def test_what_can_not_go_on_ends_with_an_error_and_is_asked_once(tidegate, faulty, case):
    way = {"provider": ("openai", "openai", "openai", GPT), "model": ("anthropic", "anthropic", "anthropic", "claude-opus-4-6")}.get(case, WAYS[0])
    gateway = tidegate(config(faulty, way, route={"continue": case != "route"}))
    more = {"choices": {"n": 2}, "tool": {"tools": [{"type": "function", "function": {"name": wire.TOOL[0], "parameters": {"type": "object"}}}]}}.get(case, {})
    broken = calls_a_tool() if case == "tool" else faults.broken_stream("eof", True)
    script(faulty, broken, goes_on())
    answer = streamed(gateway, way, **more)
    assert len(faulty.calls) == 1 and is_error(way[0], frames(answer.body)[-1])
    assert gateway.metric("tidegate_streams_continued_total", provider="p") == 0


def calls_a_tool():
    async def behave(call, connection):
        head, content, _ = wire.stream(call.dialect, call.model, tool=wire.TOOL)
        await faults._begin(call, connection)
        await faults._send(call, connection, [*head, *content[:2]])
        await connection.last_chunk()

    return behave


def test_what_both_parts_used_is_counted_and_the_caller_is_told_of_both(tidegate, faulty):
    way = WAYS[0]
    gateway = tidegate(config(faulty, way))
    script(faulty, faults.broken_stream("eof", True), goes_on())
    answer = streamed(gateway, way, stream_options={"include_usage": True})
    usage = [json.loads(frame)["usage"] for frame in frames(answer.body) if frame != b"[DONE]" and json.loads(frame).get("usage")]
    # Nine letters are three tokens by estimate; two letters were counted by the provider.
    assert [each["completion_tokens"] for each in usage] == [3 + 2]

    def counted():
        return gateway.metric("tidegate_tokens_total", provider="p", model=GPT, kind="output")

    # The part that broke off was paid for too.
    until(lambda: counted() > 2, what="both parts are counted")


def test_a_waiting_caller_gets_heartbeats_between_two_parts(tidegate, faulty):
    way = WAYS[0]
    gateway = tidegate(config(faulty, way, route={"heartbeat": "100ms"}))
    script(faulty, faults.broken_stream("eof", True), faults.hang(0.5, goes_on()))
    answer = streamed(gateway, way)
    assert whole(way, answer) == WHOLE
    _, _, rest = answer.body.partition(b'"lo the"')
    assert rest.count(b": ping\n\n") >= 2


def test_a_fallback_is_no_place_to_go_on_at(tidegate, faulty):
    """Another provider may be another model: the same one goes on, or nobody."""
    first = provider("p", faulty, [A], type="moonshot", failover={"health_check_interval": "60s"})
    gateway = tidegate({"routes": [route_to("p", "q", **{"continue": True})], "providers": [first, provider("q", faulty, [B], type="moonshot")]})
    faulty.script(A, faults.broken_stream("eof", True), faults.dead())
    answer = post(gateway, stream=True)
    assert is_error("openai", frames(answer.body)[-1]) and faulty.count(A) == 2 and faulty.count(B) == 0


@pytest.mark.llm
@pytest.mark.parametrize("way", [WAYS[0], WAYS[5], WAYS[6], WAYS[9]], ids=lambda way: f"{way[0]}-{way[1]}")
def test_the_official_sdks_see_one_stream(tidegate, faulty, sdks, way):
    gateway = tidegate(config(faulty, way, model_mapping={"*": way[3]}))
    script(faulty, faults.broken_stream("reset", True), goes_on())
    answer = sdks.end(sdks.begin(f"http://127.0.0.1:{gateway.port}", "stream", arguments(way[0]), SDK_OF[way[0]]))
    assert answer["ok"] and answer["text"] == WHOLE, answer
