"""The official SDKs, unmodified, against providers of every dialect: chat, streams, tools, embeddings, messages."""

import pytest

from harness import faults, heavy, providers
from harness.aimock import AiMock, fixture
from harness.providers import provider, token
from harness.sdks import SDK_OF, arguments, tool_result
from harness.wait import until

pytestmark = pytest.mark.llm

DIALECTS = ("openai", "anthropic", "gemini")
GOOD, BAD = token("good"), token("bad")


def over(*sources, **more):
    """A gateway's config: a provider `<source>-<dialect>` for each dialect of each source, chosen by the header x-to."""
    config = {"routes": [], "providers": []}
    for name, server, keys in sources:
        for dialect in DIALECTS:
            target = f"{name}-{dialect}"
            config["providers"].append(provider(target, server, keys, dialect, failover={"health_check_interval": "60s"}, **more))
            config["routes"].append({"name": target, "match": {"headers": {"x-to": target}}, "to": [{"provider": target}]})
    return config


@pytest.fixture(scope="module")
def peers(tmp_path_factory):
    """One gateway before our fault server (whose first key of two is dead) and before aimock (which knows one of two keys)."""
    from harness.gateway import Gateway

    folder = tmp_path_factory.mktemp("peers")
    faulty = faults.FaultServer()
    mock = AiMock(
        folder,
        [
            fixture("hello", {"content": "Hi there, this is a mock."}, chunkSize=5),
            fixture("weather", {"toolCalls": [{"name": "get_weather", "arguments": '{"city":"Paris"}'}]}),
            fixture("limited", {"error": {"message": "Rate limit reached", "type": "rate_limit_error", "code": "rate_limit_exceeded"}, "status": 429, "retryAfter": 30}),
            fixture("cut", {"content": "one two three four five six seven eight"}, chunkSize=4, truncateAfterChunks=5, latency=20),
            {"match": {"inputText": "vector", "endpoint": "embedding"}, "response": {"embedding": [0.25, -0.5, 1.0]}},
        ],
        keys=[GOOD],
    )
    faulty.script(BAD, faults.dead())
    gateway = Gateway(folder / "gateway", over(("fault", faulty, [BAD, GOOD]), ("mock", mock, [BAD, GOOD])))
    yield gateway, faulty
    try:
        gateway.end()
    finally:
        mock.end()
        faulty.stop()


def base(gateway):
    return f"http://127.0.0.1:{gateway.port}"


WHO = [(front, source, behind) for front in DIALECTS for source in ("fault", "mock") for behind in DIALECTS]
FIRST = {"fault": "Hello there", "mock": "Hi there, this is a mock."}
# How each dialect names a good end and the end at a tool's use.
STOP = {"openai": ("stop", "tool_calls"), "anthropic": ("end_turn", "tool_use"), "gemini": ("STOP", "STOP")}


@pytest.mark.parametrize("call", ["chat", "stream"])
@pytest.mark.parametrize("front,source,behind", WHO, ids=["-".join(each) for each in WHO])
def test_each_sdk_chats_with_each_provider(peers, sdks, front, source, behind, call):
    gateway, _ = peers
    answer = sdks.good(base(gateway), call, arguments(front, "Say hello."), SDK_OF[front], headers={"x-to": f"{source}-{behind}"})
    assert answer["text"] == FIRST[source]
    assert answer["finish"] == STOP[front][0]
    if source == "fault":
        assert answer["usage"] == [11, 7]
    if call == "stream":
        assert len(answer["pieces"]) >= 3, "in pieces, as they came"


@pytest.mark.parametrize("call", ["chat", "stream"])
@pytest.mark.parametrize("front,source,behind", WHO, ids=["-".join(each) for each in WHO])
def test_tools_are_called_and_their_results_go_back(peers, sdks, front, source, behind, call):
    gateway, faulty = peers
    headers = {"x-to": f"{source}-{behind}"}
    answer = sdks.good(base(gateway), call, arguments(front, "What is the weather in Paris?", tool=True), SDK_OF[front], headers=headers)
    (tool,) = answer["tools"]
    assert (tool["name"], tool["arguments"]) == ("get_weather", {"city": "Paris"})
    # aimock has a word of its own for Gemini, which passes as it is.
    assert answer["finish"] == ("FUNCTION_CALL" if (front, source, behind) == ("gemini", "mock", "gemini") else STOP[front][1])
    if source == "fault":
        answer = sdks.good(base(gateway), call, tool_result(front, tool), SDK_OF[front], headers=headers)
        assert answer["text"] == "Hello there"
        assert "Sunny, 21 degrees" in faulty.calls[-1].raw.decode()


@pytest.mark.parametrize("behind", DIALECTS)
@pytest.mark.parametrize("front", DIALECTS)
def test_instructions_and_bounds_survive_translation(peers, sdks, front, behind):
    gateway, faulty = peers
    sdks.good(base(gateway), "chat", arguments(front, "Say hello.", system="Be brief.", tokens=33), SDK_OF[front], headers={"x-to": f"fault-{behind}"})
    body = faulty.calls[-1].body
    raw = faulty.calls[-1].raw.decode()
    assert raw.count("Be brief.") == 1 and raw.count("Say hello.") == 1
    bounds = (body.get("max_tokens"), body.get("max_completion_tokens"), (body.get("generationConfig") or body.get("generation_config") or {}).get("maxOutputTokens"))
    assert 33 in bounds


@pytest.mark.parametrize("source,behind", [("fault", "openai"), ("fault", "gemini"), ("mock", "openai")], ids="-".join)
@pytest.mark.parametrize("front", ["openai", "gemini"])
def test_embeddings(peers, sdks, front, source, behind):
    gateway, _ = peers
    given = {"model": "embed", "input": ["vector a", "vector b"]} if front == "openai" else {"model": "embed", "contents": ["vector a", "vector b"]}
    answer = sdks.good(base(gateway), "embeddings", given, SDK_OF[front], headers={"x-to": f"{source}-{behind}"})
    assert len(answer["vectors"]) == 2 and len(answer["vectors"][0]) == 3


@pytest.mark.parametrize("source,behind", [("fault", "openai"), ("mock", "openai"), ("fault", "anthropic"), ("fault", "gemini")], ids="-".join)
def test_the_responses_api(peers, sdks, source, behind):
    gateway, _ = peers
    answer = sdks.good(base(gateway), "responses", {"model": "gpt-4", "input": "Say hello."}, headers={"x-to": f"{source}-{behind}"})
    assert answer["text"] == FIRST[source]


@pytest.mark.parametrize("source,behind", [("mock", "openai"), ("fault", "anthropic"), ("fault", "gemini")], ids="-".join)
def test_the_responses_api_streams(peers, sdks, source, behind):
    gateway, _ = peers
    answer = sdks.good(base(gateway), "responses-stream", {"model": "gpt-4", "input": "Say hello."}, headers={"x-to": f"{source}-{behind}"})
    assert answer["text"] == FIRST[source] and len(answer["pieces"]) >= 3


@pytest.mark.parametrize("source,behind", [each[1:] for each in WHO if each[0] == "openai"], ids="-".join)
def test_openais_client_for_node(peers, node_sdk, source, behind):
    gateway, _ = peers
    headers = {"x-to": f"{source}-{behind}"}
    for call in ("chat", "stream"):
        answer = node_sdk.good(base(gateway), call, arguments("openai", "Say hello."), headers=headers)
        assert answer["text"] == FIRST[source] and answer["finish"] == "stop"
        answer = node_sdk.good(base(gateway), call, arguments("openai", "What is the weather in Paris?", tool=True), headers=headers)
        assert answer["tools"][0]["arguments"] == {"city": "Paris"}
    if behind == "openai":
        given = {"model": "embed", "input": ["vector a", "vector b"], "encoding_format": "float"}
        assert len(node_sdk.good(base(gateway), "embeddings", given, headers=headers)["vectors"]) == 2


def test_count_tokens(peers, sdks):
    gateway, _ = peers
    given = {"model": "claude", "messages": [{"role": "user", "content": "Say hello."}]}
    assert sdks.good(base(gateway), "count", given, "anthropic", headers={"x-to": "fault-anthropic"})["count"] == 11
    assert sdks.good(base(gateway), "count", {"model": "gemini", "contents": "Say hello."}, "google", headers={"x-to": "fault-gemini"})["count"] == 11


@pytest.mark.parametrize("behind", DIALECTS)
@pytest.mark.parametrize("front", DIALECTS)
def test_a_mocks_cut_stream_raises_and_a_mocks_limit_is_told_with_its_time(peers, sdks, front, behind):
    gateway, _ = peers
    headers = {"x-to": f"mock-{behind}"}
    error = sdks.bad(base(gateway), "stream", arguments(front, "cut", model=f"cut-{front}"), SDK_OF[front], headers=headers)
    assert error["pieces"] and error["body"], error
    error = sdks.bad(base(gateway), "chat", arguments(front, "limited", model=f"limited-{front}"), SDK_OF[front], headers=headers)
    assert error["status"] == 429 and 20 <= int(error["headers"]["retry-after"]) <= 30, error


def test_models_are_listed(tidegate, faulty, sdks, node_sdk):
    gateway = tidegate(providers.one(faulty, [GOOD], models=["gpt-4", "gpt-3.5-turbo"]))
    assert set(sdks.good(base(gateway), "models")["models"]) == {"gpt-4", "gpt-3.5-turbo"}
    assert set(sdks.good(base(gateway), "models", sdk="anthropic")["models"]) == {"gpt-4", "gpt-3.5-turbo"}


# --- the seed scenario ------------------------------------------------------------------------------------


def test_of_three_keys_one_dies_and_one_is_limited_and_a_thousand_calls_at_once_are_all_served(tidegate, faulty, sdks):
    """Higress's fields; both causes are told, and both keys return when their time has come."""
    one, two, three = token("one"), token("two"), token("three")
    gateway = tidegate(
        {
            "routes": [{"name": "all", "to": [{"provider": "qwen"}]}],
            "providers": [
                {
                    "name": "qwen",
                    "type": "qwen",
                    "base_url": faulty.base("openai"),
                    "api_tokens": [one, two, three],
                    "model_mapping": {"gpt-3": "qwen-turbo", "gpt-4*": "qwen-max", "*": "qwen-turbo"},
                    "failover": {
                        "failure_threshold": 3, "success_threshold": 1, "health_check_interval": "300ms", "health_check_timeout": "5s",
                        "health_check_model": "gpt-3", "cooldown": "0s", "on_status": ["4..", "5.."],
                    },
                }
            ],
        }
    )  # fmt: skip
    assert sdks.call(base(gateway), "chat", arguments("openai"), count=60)["outcomes"]["ok"] == 60
    assert set(faulty.keys()) == {one, two, three} and {call.model for call in faulty.calls} == {"qwen-max"}
    faulty.script(one, faults.dead())
    # Longer than the calls take, also where much else runs: what is told of it is looked at afterwards.
    faulty.script(two, faults.limited(10))
    done = sdks.call(base(gateway), "chat", arguments("openai"), count=1000)
    assert done["outcomes"]["ok"] == 1000, done
    assert done["outcomes"]["text Hello there"] == 1000

    def both_told():
        first, second = (providers.worst(providers.key(gateway, key, "qwen")) for key in (one, two))
        return first["status"] == 401 and second["status"] == 429

    until(both_told, what="the admin API tells both causes")
    table = providers.status_table(gateway)
    assert "401" in table and "429" in table
    limited_at = max(call.at for call in faulty.of(two) if call.model == "qwen-max")
    faulty.heal()
    until(lambda: providers.state(gateway, one, "qwen") == "healthy", 10, "a probe brings the dead key back")
    assert any(call.model == "qwen-turbo" and call.status == 200 for call in faulty.of(one)), "through its mapping"
    calls = len(faulty.of(two))
    until(lambda: sdks.call(base(gateway), "chat", arguments("openai"), count=10)["outcomes"]["ok"] == 10 and len([c for c in faulty.of(two)[calls:] if c.model == "qwen-max"]) > 0, 30, "the limited key works again")
    again = next(call.at for call in faulty.of(two)[calls:] if call.model == "qwen-max")
    assert again - limited_at >= 10.0, "Retry-After is a floor"
    assert set(providers.states(gateway, "qwen").values()) == {"healthy"}


# --- a true model -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    started = heavy.Llama(tmp_path_factory.mktemp("llama"))
    yield started
    started.end()


@pytest.fixture
def over_llama(tidegate, llama):
    return tidegate({"routes": [{"name": "all", "to": [{"provider": "llama"}]}], "providers": [{"name": "llama", "type": "generic", "base_url": f"http://{llama.address}/v1"}]})


@pytest.mark.heavy
@pytest.mark.timeout(300)
@pytest.mark.parametrize("front", DIALECTS)
def test_each_sdk_chats_with_a_true_model(over_llama, sdks, front):
    given = arguments(front, "Write a long story about a lighthouse.", model="smollm2", tokens=24)
    whole = sdks.good(base(over_llama), "chat", given, SDK_OF[front])
    assert whole["text"].strip() and whole["usage"][1] > 0
    stream = sdks.good(base(over_llama), "stream", given, SDK_OF[front])
    assert len(stream["pieces"]) >= 2 and stream["usage"][1] > 0
    assert stream["finish"] in ("length", "stop", "max_tokens", "end_turn", "MAX_TOKENS", "STOP")


@pytest.mark.heavy
@pytest.mark.timeout(300)
def test_a_true_model_takes_over_within_the_same_request(tidegate, faulty, llama, sdks):
    faulty.default = faults.dead()
    routes = [{"name": "all", "to": [{"provider": "p"}], "fallback": [{"provider": "llama", "model": "smollm2"}]}]
    gateway = tidegate({"routes": routes, "providers": [provider("p", faulty, [GOOD], "anthropic"), {"name": "llama", "type": "generic", "base_url": f"http://{llama.address}/v1"}]})
    for front in DIALECTS:
        answer = sdks.good(base(gateway), "stream", arguments(front, "Say hello.", tokens=16), SDK_OF[front])
        assert answer["text"].strip()


@pytest.mark.heavy
@pytest.mark.timeout(300)
def test_openais_client_for_node_streams_from_a_true_model(over_llama, node_sdk):
    answer = node_sdk.good(base(over_llama), "stream", arguments("openai", "Write a long story about a lighthouse.", model="smollm2", tokens=24))
    assert len(answer["pieces"]) >= 2, answer
    assert "".join(answer["pieces"]) == answer["text"]
