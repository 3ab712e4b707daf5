"""A caller's own mistakes come back in its dialect with the right status, and cost no key anything."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed

import pytest

from harness import faults, providers
from harness.gateway import command
from harness.providers import KEY_HEADERS, ask, one, post, provider, route_to, send, token

A, B = token("a"), token("b")
DIALECTS = ("openai", "anthropic", "gemini")


@pytest.fixture
def gateway(tidegate, faulty):
    routes = [
        route_to("p", name="models", match={"model": ["gpt-*", "gemini-*", "claude-*"], "headers": {"x-by": "model"}}),
        route_to("p", name="all", match={"headers": {"x-by": "all"}}, body_bytes="64KiB"),
    ]
    return tidegate({"routes": routes, "providers": [provider("p", faulty, [A, B])]})


def bad_bodies(dialect):
    target, good = ask(dialect)
    wrong = [
        ("not JSON", b"this is no JSON"),
        ("cut JSON", json.dumps(good).encode()[:-3]),
        ("empty", b""),
        ("an array", b"[1, 2]"),
        ("a number", b"17"),
        ("not UTF-8", b'{"model": "\xff\xfe"}'),
    ]
    if dialect != "gemini":
        wrong += [
            ("model is a number", json.dumps({**good, "model": 4}).encode()),
            ("model is empty", json.dumps({**good, "model": ""}).encode()),
            ("no model", json.dumps({key: value for key, value in good.items() if key != "model"}).encode()),
            ("stream is text", json.dumps({**good, "stream": "yes"}).encode()),
        ]
    return target, wrong


@pytest.mark.parametrize("dialect", DIALECTS)
def test_bodies_that_are_no_request_are_told_in_the_callers_dialect(gateway, faulty, dialect):
    target, wrong = bad_bodies(dialect)
    for what, body in wrong:
        answer = send(gateway, target, body, [*KEY_HEADERS[dialect], ("x-by", "all")])
        assert answer.status == 400, what
        assert answer.header("content-type").startswith("application/json")
        message, _ = providers.error_of(answer, dialect)
        assert message and answer.error_code() in ("invalid_json", "invalid_field", "missing_model"), (what, answer.body)
    assert faulty.calls == []


@pytest.mark.parametrize("dialect", DIALECTS)
def test_wrong_types_where_the_dialect_is_translated(tidegate, faulty, dialect):
    other = "anthropic" if dialect != "anthropic" else "openai"
    gateway = tidegate(one(faulty, [A], other))
    target, good = ask(dialect)
    field = "contents" if dialect == "gemini" else "messages"
    for value in ("text", 3, [3], [{"role": 7, "content": "x", "parts": "x"}], [{"role": "user", "content": 9, "parts": 9}], None):
        answer = send(gateway, target, {**good, field: value}, KEY_HEADERS[dialect])
        assert answer.status == 400, (value, answer.body)
        providers.error_of(answer, dialect)
    assert faulty.calls == []


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_unknown_model_is_404_in_the_callers_dialect(gateway, faulty, dialect):
    answer = post(gateway, dialect, model="no-such-model", headers=[("x-by", "model")])
    assert answer.status == 404 and answer.error_code() == "unknown_model"
    message, _ = providers.error_of(answer, dialect)
    assert "no-such-model" in message
    assert faulty.calls == []
    assert post(gateway, dialect, model="gpt-4", headers=[("x-by", "model")]).status == 200


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_body_over_the_limit_is_413_in_the_callers_dialect(gateway, faulty, dialect):
    target, good = ask(dialect)
    large = json.dumps({**good, "padding": "x" * (64 << 10)})
    for body in (large, [large.encode()[:40_000], large.encode()[40_000:]]):
        answer = gateway.request("POST", target, [*KEY_HEADERS[dialect], ("content-type", "application/json"), ("x-by", "all")], body)
        assert answer.status == 413 and answer.error_code() == "body_too_large"
        providers.error_of(answer, dialect)
    assert faulty.calls == []


def test_a_path_that_is_no_endpoint_is_404_in_the_callers_dialect(gateway, faulty):
    for target in ("/v1/nothing", "/v1/chat", "/v1/chat/completions/more"):
        answer = send(gateway, target, {"model": "gpt-4"}, [*KEY_HEADERS["openai"], ("x-by", "all")])
        assert answer.status == 404 and answer.error_code() == "unsupported_endpoint", (target, answer.body)
        providers.error_of(answer)
    assert faulty.calls == []


@pytest.mark.parametrize("by", ["all", "model"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_wrong_method_and_an_unknown_path_are_told_in_the_dialect_that_they_would_be_in(gateway, faulty, dialect, by):
    """Whether the route takes any model or asks for it, and without a header that tells the dialect."""
    target, _ = ask(dialect)
    for method in ("GET", "PUT", "DELETE"):
        answer = gateway.request(method, target, [("x-by", by)])
        assert (answer.status, answer.error_code(), answer.header("allow")) == (405, "method_not_allowed", "POST"), (method, answer.body)
        providers.error_of(answer, dialect)
    unknown = {"openai": "/v1/files", "anthropic": "/v1/messages/batches", "gemini": "/v1beta/files"}[dialect]
    for method, body in (("POST", b"{}"), ("GET", None)):
        answer = gateway.request(method, unknown, [("x-by", by), ("content-type", "application/json")], body)
        assert answer.status == 404, (method, answer.body)
        assert answer.header("content-type") == "application/json"
        providers.error_of(answer, dialect)
    assert faulty.calls == []


def test_a_gemini_caller_is_told_of_its_own_fields(tidegate, faulty):
    gateway = tidegate(one(faulty, [A], "anthropic"))
    target, _ = ask("gemini")
    for body in ({"contents": []}, {}):
        answer = send(gateway, target, body, KEY_HEADERS["gemini"])
        assert answer.status == 400 and "contents" in answer.text() and "messages" not in answer.text()


@pytest.mark.parametrize("behind", DIALECTS)
@pytest.mark.parametrize("front", DIALECTS)
def test_a_callers_own_400_comes_back_in_its_dialect_with_the_providers_words(tidegate, faulty, front, behind):
    gateway = tidegate(one(faulty, [A, B], behind))
    faulty.default = faults.fail("fault")
    for stream in (False, True):
        answer = post(gateway, front, stream=stream)
        assert answer.status == 400
        message, _ = providers.error_of(answer, front)
        assert "temperature" in message
        assert answer.error_code() is None, "the provider's answer is not Tidegate's"
    assert len(faulty.calls) == 2, "nobody else is asked"


def test_a_thousand_bad_requests_eject_nothing(tidegate, faulty):
    gateway = tidegate(one(faulty, [A, B], failover={"failure_threshold": 1}))
    kinds = ["fault", "unprocessable", "no-model"]
    bodies = [b"{", b"", b"[]", b'{"model": 3}', b'{"messages": []}']
    with gateway.client() as client:
        for number in range(1000):
            if number % 2:
                faulty.default = faults.fail(kinds[number % 3])
                target, body = ask("openai")
                body = json.dumps(body)
            else:
                target, body = "/v1/chat/completions", bodies[number % 5]
            answer = client.request("POST", target, [("content-type", "application/json")], body)
            assert 400 <= answer.status < 500, answer
    assert gateway.metric("tidegate_ejections_total", pool="p") == 0
    assert set(providers.states(gateway).values()) == {"healthy"}
    faulty.default = faults.answer()
    assert post(gateway).status == 200


def test_more_requests_than_connections_leave_a_key_to_ask_with(tidegate, faulty):
    """What is refused here counts (trap 3); a limit that is reached with every key alike does not take the last one."""
    gate = threading.Event()
    faulty.default = faults.gated(gate, content_first=False)
    pool = {"max_connections": 1, "max_pending_requests": 1}
    failover = {"failure_threshold": 1, "health_check_interval": "60s"}
    gateway = tidegate(one(faulty, [A, B], failover=failover, connection_pool=pool))
    with ThreadPoolExecutor(12) as threads:
        asked = [threads.submit(post, gateway, stream=True) for _ in range(12)]
        # What is refused is refused at once; what is not waits for the gate.
        first = next(as_completed(asked)).result()
        gate.set()
        statuses = {each.result().status for each in asked}
    assert first.status == 503
    assert statuses == {200, 503}
    assert sorted(providers.states(gateway).values()) == ["ejected", "healthy"]
    faulty.default = faults.answer()
    assert post(gateway).status == 200


# --- in the configuration -------------------------------------------------------------------------------


CONFIG = """
listeners: [{ name: main, address: "127.0.0.1:0" }]
routes: [{ name: all, to: [{ provider: p }] }]
providers:
  - name: p
    type: TYPE
    base_url: http://127.0.0.1:1/v1
    api_tokens: TOKENS
    MORE
"""

WRONG = [
    ("type", {"TYPE": "opnai"}, "opnai"),
    ("no-keys", {"TOKENS": "[]"}, "api_tokens"),
    ("same-key-twice", {"TOKENS": "[sk-aaaaaaaaaaaaaaaaaaaa, sk-aaaaaaaaaaaaaaaaaaaa]"}, "a second time"),
    ("missing-variable", {"TOKENS": '["${NO_SUCH_VARIABLE}"]'}, "NO_SUCH_VARIABLE"),
    ("bad-status-regex", {"MORE": 'failover: { on_status: ["4(."], cooldown: 1s }'}, "on_status"),
    ("bad-mapping-regex", {"MORE": 'model_mapping: { "~^gpt-(": x }'}, "gpt-("),
    ("bad-duration", {"MORE": "failover: { cooldown: soon }"}, "cooldown"),
]


@pytest.mark.parametrize("what,changes,words", WRONG, ids=[each[0] for each in WRONG])
def test_a_wrong_provider_is_a_load_error_with_its_place(tmp_path, what, changes, words):
    text = CONFIG
    for name, default in (("TYPE", "openai"), ("TOKENS", "[sk-aaaaaaaaaaaaaaaaaaaa]"), ("MORE", "models: []")):
        text = text.replace(name, changes.get(name, default))
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    checked = command("check", path)
    assert checked.returncode == 2, checked.stdout + checked.stderr
    said = checked.stdout + checked.stderr
    assert f"{path.name}:" in said and words in said
    assert "sk-aaaaaaaaaaaaaaaaaaaa" not in said, "no key in a diagnostic"


def test_a_heartbeat_where_the_protocol_has_none_is_a_load_error(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(CONFIG.replace("TYPE", "openai").replace("TOKENS", "[x]").replace("MORE", "models: []").replace("{ provider: p }", "{ upstream: u }").replace("routes: [{ name: all,", "routes: [{ name: all, heartbeat: 1s,") + "upstreams: [{ name: u, endpoints: [{ address: 127.0.0.1:1 }] }]\n")
    checked = command("check", path)
    assert checked.returncode == 2 and "heartbeat" in checked.stdout + checked.stderr
