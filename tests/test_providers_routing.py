"""Which provider, which model: matches by model, mappings, chains of fallback, imports from Higress."""

import json

import pytest

from harness import faults, providers
from harness.gateway import TOP, command
from harness.providers import CHAT, ask, one, post, provider, route_to, said, send, token
from harness.wait import until

A, B, C = token("a"), token("b"), token("c")
SELDOM = {"health_check_interval": "60s"}


# --- by model ------------------------------------------------------------------------------------------


def test_routes_match_on_the_model_of_every_dialect(tidegate, faulty, server):
    plain = server()
    gateway = tidegate(
        {
            "routes": [
                route_to("exact", match={"model": "gpt-4-mini"}),
                route_to("prefix", match={"model": ["gpt-4*", "o1*"]}),
                route_to("regex", match={"model": "~^claude-.*-(opus|sonnet)"}),
                route_to("rest", match={"path": {"prefix": "/v1"}, "model": "*"}),
                {"name": "other", "to": [{"upstream": "up"}]},
            ],
            "providers": [provider(name, faulty, [token(name)]) for name in ("exact", "prefix", "regex", "rest")],
            "upstreams": [{"name": "up", "endpoints": [{"address": plain.address}]}],
        }
    )
    wanted = {"gpt-4-mini": "exact", "gpt-4": "prefix", "gpt-4-turbo": "prefix", "o1-preview": "prefix", "claude-4-opus": "regex", "claude-4-haiku": "rest", "x": "rest"}
    for model, name in wanted.items():
        for dialect in ("openai", "anthropic"):
            assert post(gateway, dialect, model=model).status == 200
            assert (faulty.calls[-1].key, faulty.calls[-1].model) == (token(name), model)
    assert post(gateway, "gemini", model="gpt-4").status == 200 and faulty.calls[-1].key == token("prefix")
    # What names no model goes where no model is asked for, its body untouched.
    calls = len(faulty.calls)
    assert gateway.request("POST", "/upload", body=b"\x00not json").status == 200
    assert plain.requests[-1].body == b"\x00not json" and len(faulty.calls) == calls


def test_the_model_is_found_wherever_it_stands_in_the_body(tidegate, faulty):
    gateway = tidegate({"routes": [route_to("p", match={"model": "gpt-4"})], "providers": [provider("p", faulty, [A])]})
    long = "x" * 300_000
    for body in (
        '{"messages": [{"role": "user", "content": "the \\"model\\": \\"gpt-3\\""}], "model": "gpt-4"}',
        '{"metadata": {"model": "no"}, "messages": [{"role": "user", "content": "' + long + '"}], "model": "gpt-4"}',
        '{ "mod\\u0065l" : "gpt\\u002d4", "messages": [{"role": "user", "content": "x"}]}',
    ):
        assert send(gateway, "/v1/chat/completions", body).status == 200, body[:80]


# --- model names -------------------------------------------------------------------------------------


MAPPING = {"gpt-4": "exact", "gpt-4*": "prefix", "gpt-4-turbo*": "longer", "~^claude-(.*)$": "sonnet-$1", "~^claude-old.*": "never", "keep": "", "*": "rest"}
MAPPED = [("gpt-4", "exact"), ("gpt-4o", "prefix"), ("gpt-4-turbo-2", "longer"), ("claude-4", "sonnet-4"), ("claude-old", "sonnet-old"), ("keep", "keep"), ("anything", "rest")]


@pytest.mark.parametrize("behind", ["openai", "anthropic", "gemini"])
def test_model_mapping_is_exact_then_the_longest_prefix_then_expressions_in_order_then_the_rest(tidegate, faulty, behind):
    gateway = tidegate(one(faulty, [A], behind, model_mapping=MAPPING))
    for asked, given in MAPPED:
        for stream in (False, True):
            assert post(gateway, model=asked, stream=stream).status == 200
            assert faulty.calls[-1].model == given


# --- nothing is lost -------------------------------------------------------------------------------------


def test_unknown_fields_and_odd_numbers_pass_untouched_where_the_dialects_agree(tidegate, faulty):
    gateway = tidegate(one(faulty, [A], model_mapping={"gpt-4": "mapped"}))
    body = '{"vendor_thing": {"deep": [1, 2.50, 1e400, 12345678901234567890]}, "model": "gpt-4", "messages": [{"role": "user", "content": "\\ud83d\\ude00"}], "x":null}'
    assert send(gateway, "/v1/chat/completions", body).status == 200
    raw = faulty.calls[-1].raw.split(b"\r\n\r\n", 1)[1].decode()
    assert raw == body.replace('"gpt-4"', '"mapped"')


def test_images_json_mode_and_reasoning_survive_translation(tidegate, faulty):
    gateway = tidegate({"routes": [route_to(name, match={"headers": {"x-to": name}}) for name in ("anthropic", "gemini")], "providers": [provider(name, faulty, [A], name) for name in ("anthropic", "gemini")]})
    picture = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    content = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}}]
    for name in ("anthropic", "gemini"):
        answer = send(gateway, "/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": content}]}, [("x-to", name)])
        assert answer.status == 200
        raw = faulty.calls[-1].raw.decode()
        assert picture in raw and "image/png" in raw and "What is this?" in raw


def test_multipart_bodies_pass_through(tidegate, faulty):
    gateway = tidegate(one(faulty, [A], model_mapping={"whisper-1": "whisper-large"}))
    sound = bytes(range(256)) * 20
    body = (
        b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n' + sound + b"\r\n--x--\r\n"
    )
    answer = gateway.request("POST", "/v1/audio/transcriptions", [("content-type", "multipart/form-data; boundary=x")], body)
    assert answer.status == 200
    raw = faulty.calls[-1].raw
    assert sound in raw and b"whisper-large" in raw and b"whisper-1\r" not in raw


def test_the_providers_own_dialect_is_passed_as_it_is(tidegate, faulty):
    gateway = tidegate(one(faulty, [A], "anthropic", protocol="original"))
    target, body = ask("anthropic")
    body = json.dumps({**body, "vendor": 1})
    assert send(gateway, target, body, [("x-api-key", "caller"), ("anthropic-version", "2023-06-01"), ("anthropic-beta", "b-1")]).status == 200
    call = faulty.calls[-1]
    assert call.key == A and call.header("anthropic-beta") == "b-1"
    assert json.loads(call.raw.split(b"\r\n\r\n", 1)[1]) == json.loads(body)


# --- chains --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_chain_goes_over_providers_and_models_within_the_request(tidegate, faulty, stream):
    chain = ["first", {"provider": "second", "model": "claude-big"}, {"provider": "second", "model": "claude-small"}, {"provider": "third", "model": "gemini-flash"}]
    gateway = tidegate(
        {
            "routes": [route_to(*chain, name="all")],
            "providers": [provider("first", faulty, [A], failover=SELDOM), provider("second", faulty, [B], "anthropic", failover=SELDOM), provider("third", faulty, [C], "gemini", failover=SELDOM, model_mapping={"gemini-flash": "flash-2"})],
        }
    )
    faulty.script(A, faults.dead())
    faulty.script(B, faults.for_model("claude-big", faults.limited(60)))
    answer = post(gateway, stream=stream)
    assert answer.status == 200 and (b"Hel" in answer.body)
    assert [(call.key, call.model) for call in faulty.calls] == [(A, "gpt-4"), (B, "claude-big"), (B, "claude-small")]
    # What is known to be out is not asked again.
    faulty.calls.clear()
    faulty.script(B, faults.fail("overloaded"))
    answer = post(gateway, stream=stream)
    assert answer.status == 200
    assert faulty.calls[-1].key == C and faulty.calls[-1].model == "flash-2"
    assert A not in faulty.keys() and ("claude-big") not in [call.model for call in faulty.calls]


def test_an_upstream_may_stand_at_the_end_of_a_chain(tidegate, faulty, server):
    from harness import upstream

    plain = server(upstream.ok(b'{"from": "upstream"}'))
    gateway = tidegate({"routes": [route_to("p", {"upstream": "up"})], "providers": [provider("p", faulty, [A], failover=SELDOM)], "upstreams": [{"name": "up", "endpoints": [{"address": plain.address}]}]})
    faulty.script(A, faults.dead())
    assert json.loads(post(gateway).body) == {"from": "upstream"}
    assert json.loads(plain.requests[0].body)["model"] == "gpt-4"


def test_a_split_over_providers_keeps_to_its_weights(tidegate, faulty):
    gateway = tidegate({"routes": [{"name": "all", "to": [{"provider": "a", "weight": 90}, {"provider": "b", "weight": 10, "model": "other"}]}], "providers": [provider("a", faulty, [A]), provider("b", faulty, [B])]})
    assert {post(gateway).status for _ in range(300)} == {200}
    assert 5 < faulty.count(B) < 80
    assert {call.model for call in faulty.of(B)} == {"other"}


def test_outages_of_a_provider_are_absorbed_by_its_other_keys_and_then_by_the_next_one(tidegate, faulty):
    second = faults.FaultServer()
    try:
        gateway = tidegate({"routes": [route_to("p", "q")], "providers": [provider("p", faulty, [A, B], failover=SELDOM), provider("q", second, [C])]})
        for behaviour in (faults.fail("down"), faults.fail("overloaded"), faults.reset()):
            faulty.default = behaviour
            for stream in (False, True):
                assert post(gateway, stream=stream).status == 200
        assert second.count(C) == 6
    finally:
        second.stop()


# --- from Higress ------------------------------------------------------------------------------------------

HIGRESS = """
apiVersion: extensions.higress.io/v1alpha1
kind: WasmPlugin
metadata:
  name: ai-proxy
  namespace: higress-system
spec:
  defaultConfig:
    provider:
      type: openai
      openaiCustomUrl: BASE/v1/chat/completions
      apiTokens: ["KEY_1", "KEY_2"]
      modelMapping: {"gpt-3": "small", "*": "large"}
      failover:
        enabled: true
        failureThreshold: 1
        successThreshold: 1
        healthCheckInterval: 300
        healthCheckTimeout: 5000
        healthCheckModel: gpt-3
        failoverOnStatus: ["4.*", "5.*"]
      retryOnFailure:
        enabled: true
        maxRetries: 1
"""


def test_a_config_of_higress_is_imported_and_runs(tidegate, faulty, tmp_path):
    path = tmp_path / "ai-proxy.yaml"
    path.write_text(HIGRESS.replace("BASE", f"http://127.0.0.1:{faulty.port}").replace("KEY_1", A).replace("KEY_2", B))
    ran = command("import", "higress", path)
    assert ran.returncode == 0, ran.stderr
    assert A not in ran.stdout + ran.stderr, "keys become references"
    import re
    import yaml

    config = yaml.safe_load(ran.stdout)
    config.pop("admin", None), config.pop("listeners", None)
    names = re.findall(r"\$\{(\w+)\}", ran.stdout)
    gateway = tidegate(config, env=dict(zip(names, (A, B))))
    assert post(gateway).status == 200 and faulty.calls[-1].model == "large"
    faulty.script(A, faults.dead())
    assert [post(gateway).status for _ in range(30)] == [200] * 30
    name = config["providers"][0]["name"]
    until(lambda: providers.key(gateway, A, name)["state"] == "ejected")
    until(lambda: [call for call in faulty.of(A) if call.model == "small"], what="a probe with the model for it")
    faulty.heal()
    until(lambda: providers.key(gateway, A, name)["state"] == "healthy", what="back")
    assert said(post(gateway)) == "Hello there"


def test_every_fixture_of_the_importer_is_accepted(tmp_path):
    """What the importer prints is a configuration: with its references given, `check` takes it."""
    import os
    import re

    for path in sorted((TOP / "crates/config/tests/import/higress").glob("*.yaml")):
        ran = command("import", "higress", path)
        assert ran.returncode == 0, (path, ran.stderr)
        out = tmp_path / f"{path.name}"
        out.write_text(ran.stdout)
        env = {name: f"sk-{number:032d}" for number, name in enumerate(re.findall(r"\$\{(\w+)\}", ran.stdout))}
        checked = command("check", out, env={**os.environ, **env})
        assert checked.returncode == 0, (path, checked.stderr)
