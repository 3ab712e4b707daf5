"""Keys, prompts and answers are seen by whom they are for, and by nobody else: canaries are found nowhere."""

import json
from urllib.parse import quote

import pytest

from harness import faults, http1, providers
from harness.gateway import command
from harness.providers import ask, fingerprint, post, provider, route_to, send, token
from harness.wait import until

KEY, OTHER = token("canary-of-the-key"), token("other")
PROMPT, ANSWER, CALLER = "CANARY-PROMPT-7f3a", "CANARY-ANSWER-91bd", "sk-canary-of-the-caller-0123456789"
SYSTEM, TOOL = "CANARY-SYSTEM-55aa", "CANARY-TOOL-66bb"
# A whole prompt in a word.
SHORT = "Gicht"
# A part of a key is as bad as the whole; the last four letters are the fingerprint's.
CANARIES = [KEY, KEY[3:30], PROMPT, ANSWER, CALLER, SYSTEM, TOOL, OTHER]


def look(where, text):
    for canary in CANARIES:
        assert canary not in text, f"{canary} in {where}"


def everything_shown(gateway):
    """All that the admin port and the command line tell, by name."""
    shown = {}
    spec = json.loads(gateway.admin("/api/openapi.json").body)
    paths = [path for path, methods in spec["paths"].items() if "get" in methods and "{" not in path]
    assert any("providers" in path for path in paths)
    for path in [*paths, "/", "/metrics", "/livez", "/readyz", "/api/v1/events?limit=1000"]:
        if "stream" in path or "watch" in path:
            continue
        shown[path] = gateway.admin(path).body.decode(errors="replace")
    admin = f"http://127.0.0.1:{gateway.admin_port}"
    for what in (["status"], ["status", "providers"], ["status", "providers", "--json"], ["status", "upstreams"]):
        ran = command(*what, "--admin", admin)
        assert ran.returncode == 0, ran.stderr
        shown[" ".join(what)] = ran.stdout + ran.stderr
    checked = command("check", gateway.path)
    shown["check"] = checked.stdout + checked.stderr
    return shown


@pytest.mark.parametrize("log", ["debug", "info"])
@pytest.mark.parametrize("dialect", ["openai", "anthropic", "gemini"])
def test_trap_5_canaries_are_found_nowhere(tidegate, faulty, collector, tmp_path, dialect, log):
    traces = collector()
    pieces = ("Hello ", ANSWER, " there")
    gateway = tidegate(
        {
            "access_log": "stdout",
            "tracing": traces.config(),
            "routes": [route_to("p", "q", heartbeat="1s")],
            "providers": [
                provider("p", faulty, [KEY], dialect, timeouts={"first_content": "400ms", "idle": "400ms"}, failover={"failure_threshold": 2, "health_check_interval": "200ms"}),
                provider("q", faulty, [OTHER], dialect, failover={"failure_threshold": 2, "health_check_interval": "200ms"}),
            ],
        },
        env={"TIDEGATE_LOG": log},
    )
    errors = []

    def everything_once():
        for front in ("openai", "anthropic", "gemini"):
            for stream in (False, True):
                target, body = ask(front, stream=stream)
                text = json.dumps(body).replace("Say hello.", PROMPT)
                headers = [("authorization", f"Bearer {CALLER}"), ("x-api-key", CALLER), ("x-goog-api-key", CALLER)]
                answer = send(gateway, target, text, headers)
                if answer.status >= 400 or b"error" in answer.body:
                    errors.append(answer.body.decode(errors="replace") + repr(answer.headers))

    behaviours = [faults.answer(pieces), faults.dead(), faults.limited(1), faults.fail("quota"), faults.fail("region"), faults.fail("down"), faults.fail("fault"), faults.reset()]
    behaviours += [faults.broken_stream(fault, after) for fault in ("error-event", "eof", "malformed") for after in (False, True)]
    for behaviour in behaviours:
        faulty.scripts = {KEY: behaviour, OTHER: behaviour}
        everything_once()
    # Broken on the way in, with the key in places where it does not belong.
    for raw in (b'{"model": "' + KEY.encode() + b'", "messages": "' + PROMPT.encode() + b'"', b'{"messages": [{"role": "user", "content": "' + PROMPT.encode() + b'"}]}'):
        send(gateway, "/v1/chat/completions", raw, [("authorization", f"Bearer {CALLER}")])
    assert len(errors) > 10
    for text in errors:
        # What the provider said of the caller's own mistake is the caller's; keys never are.
        for canary in (KEY, KEY[3:30], OTHER, CALLER):
            assert canary not in text, f"{canary} in an error"
    assert any(call.raw.decode(errors="replace").count(PROMPT) for call in faulty.calls), "the provider got it"
    assert not any(CALLER in call.raw.decode(errors="replace") for call in faulty.calls), "the caller's key goes nowhere"
    for where, text in everything_shown(gateway).items():
        look(where, text)
    shown = json.dumps(gateway.api("providers"), ensure_ascii=False)
    assert fingerprint(KEY) in shown
    # A configuration that is refused tells what is wrong with it, without what is secret in it.
    refused = {**gateway.config, "providers": [{**gateway.config["providers"][0], "api_tokens": [KEY, KEY], "no_such_key": KEY}]}
    gateway.reload(refused, refused=True)
    look("a refused reload", gateway.admin("/api/v1/config").text())
    checked = command("check", gateway.path)
    assert checked.returncode == 2
    look("check of a bad file", checked.stdout + checked.stderr)
    gateway.stop()
    look("the log", gateway.logs())
    spans = [span for span in traces.taken if span.kind == "client"]
    assert {span["tidegate.key"] for span in spans} == {fingerprint(KEY), fingerprint(OTHER)}
    look("the spans", repr(traces.taken))
    # As they went over the wire, with whatever this test does not read of them.
    for request in traces.requests:
        look("a batch", request.body.decode("latin-1") + repr(request.headers))


def quoting(how):
    """A provider that repeats the request in its error, in several forms."""

    async def behave(call, connection):
        request = call.raw.decode()
        contents = json.dumps(call.body.get("messages") or call.body.get("contents"), ensure_ascii=False)
        short = SHORT in request
        messages = [f"oops: cannot read '{SHORT}'" if short else f"oops: {request}", f"oops: {call.body!r}", f"oops: {json.dumps(request)}", f"oops: {contents}"]
        message = messages[len(forms) % len(messages)]
        forms.append(message)
        status = {"down": 500, "limited": 429}.get(how)
        error = {"error": {"type": "api_error" if how != "limited" else "rate_limit_error", "message": message, "code": SHORT if short else "shard_7", "status": "INTERNAL"}}
        if status:
            return await connection.respond(status, json.dumps(error), [("content-type", "application/json")])
        head, content, _ = faults.wire.stream(call.dialect, call.model)
        await connection.head(200, [("content-type", "text/event-stream"), ("transfer-encoding", "chunked")])
        for frame in [*head, *(content[:2] if how == "late" else [])]:
            await connection.chunk(frame)
        name = b"event: error\n" if call.dialect == "anthropic" else b""
        await connection.chunk(name + b"data: " + json.dumps({"type": "error", **error}).encode() + b"\n\n")
        await connection.last_chunk()

    forms = []
    behave.forms = forms
    return behave


@pytest.mark.parametrize("how", ["down", "limited", "early", "late"])
@pytest.mark.parametrize("dialect", ["openai", "anthropic", "gemini"])
def test_a_prompt_that_an_error_repeats_is_shown_to_nobody_else(tidegate, faulty, redis, dialect, how):
    gateway = tidegate(
        {
            "access_log": "stdout",
            "state": {"url": redis.url},
            "routes": [route_to("p")],
            "providers": [provider("p", faulty, [KEY, OTHER], dialect, failover={"failure_threshold": 2, "health_check_interval": "60s"})],
        },
        env={"TIDEGATE_LOG": "debug"},
    )
    faulty.default = behave = quoting(how)
    prompt = f"{PROMPT} and my diagnosis\n is \"{ANSWER}\""
    for front in ("openai", "anthropic", "gemini"):
        for words in (prompt, SHORT):
            for key in (KEY, OTHER):
                restored = gateway.admin(f"/api/v1/providers/p/keys/{quote(fingerprint(key), safe='')}/restore", "POST")
                assert restored.status in (200, 204), restored.body
            target, body = ask(front, stream=how in ("early", "late"))
            send(gateway, target, json.dumps(body).replace("Say hello.", json.dumps(words)[1:-1]), [])
    assert any(PROMPT in form for form in behave.forms) and any(SHORT in form for form in behave.forms)
    shown = {**everything_shown(gateway), "the store": redis.everything()}
    keys = json.dumps(gateway.api("providers"), ensure_ascii=False)
    if how != "late":
        assert "oops: " in keys, "the provider's own words are"
    gateway.stop()
    shown["the log"] = gateway.logs()
    for where, text in shown.items():
        look(where, text)
        for word in (SHORT, "diagnosis"):
            assert word not in text, f"{word} in {where}"


def test_answers_of_a_provider_bring_no_key_to_the_caller(tidegate, faulty):
    """A provider that echoes the key in its headers and words."""

    async def echo(call, connection):
        body = json.dumps({"error": {"message": f"Incorrect API key provided: {call.key}", "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}})
        await connection.respond(401, body, [("content-type", "application/json"), ("x-echo", call.key), ("www-authenticate", f'Bearer error="{call.key}"')])

    faulty.default = echo
    gateway = tidegate(providers.one(faulty, [KEY, OTHER], failover={"health_check_interval": "60s"}))
    for _ in range(3):
        answer = post(gateway)
        text = answer.body.decode() + repr(answer.headers)
        assert KEY not in text and OTHER not in text, text
    until(lambda: providers.worst(providers.key(gateway, KEY)))
    for where, text in everything_shown(gateway).items():
        look(where, text)


def test_the_core_of_the_configuration_shows_fingerprints_only(tidegate, faulty):
    gateway = tidegate(providers.one(faulty, [KEY, OTHER], headers={"x-organisation": "visible", "authorization-proxy": "${SECRET_HEADER}"}), env={"SECRET_HEADER": CALLER})
    answer = http1.get(gateway.admin_port, "/api/v1/config", host="127.0.0.1")
    assert answer.status == 200
    look("the configuration", answer.text())


def test_prompts_and_answers_are_logged_where_that_is_asked_for_and_keys_still_are_not(tidegate, faulty):
    gateway = tidegate({**providers.one(faulty, [KEY]), "access_log": {"to": "stdout", "log_bodies": True}})
    faulty.default = faults.answer([ANSWER])
    bodies = []
    for stream in (False, True):
        target, body = ask("openai", stream=stream)
        bodies.append(json.dumps(body).replace("Say hello.", PROMPT))
        assert send(gateway, target, bodies[-1], [("authorization", f"Bearer {CALLER}")]).status == 200
    refused = send(gateway, "/v1/chat/completions", b"{", [])
    lines = until(lambda: (found := [line for line in gateway.access_log() if "path" in line])[2:] and found)
    assert [line["request_body"] for line in lines] == [*bodies, "{"]
    assert [line["response_body"].count(ANSWER) for line in lines] == [1, 1, 0]
    assert lines[1]["response_body"].endswith("data: [DONE]\n\n")
    assert lines[2]["response_body"] == refused.body.decode()
    assert not any("response_body_cut" in line for line in lines)
    for canary in (KEY, KEY[3:30], CALLER):
        assert canary not in gateway.logs()
