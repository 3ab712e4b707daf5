"""Virtual keys: what callers get instead of a provider's key, with models, limits and budgets of their own."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness import faults, providers
from harness import faults_wire as wire
from harness.gateway import command
from harness.providers import KEY_HEADERS, ask, post, provider, route_to, send, token
from harness.wait import until

A = token("a")
DIALECTS = ("openai", "anthropic", "gemini")


def config(faulty, how="required", **more):
    return {"routes": [route_to("p", virtual_keys=how)], "providers": [provider("p", faulty, [A])], **more}


@pytest.fixture
def gateway(tidegate, faulty):
    return tidegate(config(faulty, prices={"currency": "EUR", "models": {"gpt-4": {"input": 1_000_000, "output": 2_000_000}}}))


def make(gateway, name="team", expires_in=None, **limits):
    """A new key over the admin API; what is told of it, its token once among it."""
    asked = {"name": name, "limits": limits, **({"expires_in": expires_in} if expires_in else {})}
    answer = gateway.admin("/api/v1/keys", "POST", json.dumps(asked), [("content-type", "application/json")])
    assert answer.status in (200, 201), answer.body
    made = json.loads(answer.body)
    assert made["token"].startswith("tg-")
    until(lambda: known(gateway, made), what="the gateway knows the key")
    return made


def known(gateway, made):
    """Whether a key opens the door (a request that no provider sees)."""
    return use(gateway, made, "/v1/nothing", {}).status != 401


def use(gateway, made, target="/v1/chat/completions", body=None, **more):
    body = {**providers.CHAT, **more} if body is None else body
    return send(gateway, target, body, [("authorization", f"Bearer {made['token']}")])


def listed(gateway, made):
    return next(each for each in gateway.api("keys") if each["id"] == made["id"])


# --- who comes in ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
def test_without_a_valid_key_a_caller_is_told_so_in_its_dialect(gateway, faulty, dialect):
    target, body = ask(dialect)
    for headers in ([], KEY_HEADERS[dialect], [("authorization", "Bearer tg-" + "x" * 40)]):
        answer = send(gateway, target, body, headers)
        assert answer.status == 401 and answer.error_code() == "invalid_virtual_key"
        providers.error_of(answer, dialect)
    assert faulty.calls == []


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_key_opens_in_each_dialects_own_header_and_goes_nowhere_else(gateway, faulty, dialect):
    made = make(gateway)
    target, body = ask(dialect)
    header = {"openai": ("authorization", f"Bearer {made['token']}"), "anthropic": ("x-api-key", made["token"]), "gemini": ("x-goog-api-key", made["token"])}[dialect]
    assert send(gateway, target, body, [header]).status == 200
    assert faulty.calls[-1].key == A and made["token"] not in faulty.calls[-1].raw.decode()


def test_optional_keys_let_those_without_one_in_and_wrong_ones_not(tidegate, faulty):
    gateway = tidegate(config(faulty, "optional"))
    assert post(gateway).status == 200
    answer = send(gateway, "/v1/chat/completions", providers.CHAT, [("authorization", "Bearer tg-" + "y" * 40)])
    assert answer.status == 401


def test_a_token_is_shown_once_and_stored_as_a_hash(tidegate, faulty, redis):
    gateway = tidegate(config(faulty, state={"url": redis.url}))
    made = make(gateway)
    assert made["token"] not in gateway.admin("/api/v1/keys").text()
    assert listed(gateway, made)["fingerprint"].endswith(made["token"][-4:])
    until(lambda: made["id"] in redis.everything(), what="it is stored")
    assert made["token"] not in redis.everything() and made["token"][3:] not in redis.everything()


def test_a_revoked_key_is_refused_at_once_and_an_expired_one_by_itself(gateway):
    made, short = make(gateway), make(gateway, "short", expires_in=2)
    assert use(gateway, made).status == use(gateway, short).status == 200
    assert gateway.admin(f"/api/v1/keys/{made['id']}", "DELETE").status in (200, 204)
    until(lambda: use(gateway, made).status == 401, 5, "revoked")
    until(lambda: use(gateway, short).status == 401, 10, "expired")


def test_keys_are_made_listed_and_revoked_on_the_command_line(gateway):
    admin = ["--admin", f"http://127.0.0.1:{gateway.admin_port}"]
    ran = command("keys", "create", "by-hand", "--models", "gpt-4*", "--requests-per-minute", "100", *admin)
    assert ran.returncode == 0, ran.stderr
    word = ran.stdout.strip()
    assert word.startswith("tg-")
    until(lambda: use(gateway, {"token": word}).status == 200)
    assert use(gateway, {"token": word}, model="other").status == 403
    ran = command("keys", "list", *admin)
    assert ran.returncode == 0 and "by-hand" in ran.stdout and word not in ran.stdout
    made = next(each for each in gateway.api("keys") if each["name"] == "by-hand")
    again = command("keys", "create", "by-hand", *admin)
    assert again.returncode == 1 and "another virtual key has the name" in again.stderr
    ran = command("keys", "update", made["id"], "--name", "by-foot", "--requests-per-minute", "none", "--budget", "12.5/month", "--token-budget", "1000/day", *admin)
    assert ran.returncode == 0 and "by-foot" in ran.stdout, ran.stderr
    ran = command("keys", "update", made["id"], "--token-budget", "none/day", "--models", "*", "--json", *admin)
    assert ran.returncode == 0 and json.loads(ran.stdout)["limits"] == {"budgets": [{"micros": 12_500_000, "per": "month"}]}
    bad = command("keys", "update", made["id"], "--requests-per-minute", "many", *admin)
    assert bad.returncode == 2 and "a number, or none" in bad.stderr
    bad = command("keys", "update", made["id"], "--budget", "none", *admin)
    assert bad.returncode == 2 and "none/day or none/month" in bad.stderr
    events = len(changes_told(gateway))
    assert events > 0
    ran = command("keys", "update", made["id"], *admin)
    assert ran.returncode == 0 and "by-foot" in ran.stdout
    assert command("keys", "update", made["id"], "--name", "by-foot", *admin).returncode == 0
    assert len(changes_told(gateway)) == events, "nothing was changed"
    for wrong in (["show", "vk-000000000000"], ["update", "vk-000000000000", "--name", "x"], ["update", made["id"], "--requests-per-minute", "0"]):
        ran = command("keys", *wrong, *admin)
        assert ran.returncode == 1 and ran.stderr.startswith("error: "), ran.stderr
    assert command("keys", "revoke", made["id"], *admin).returncode == 0
    until(lambda: use(gateway, {"token": word}).status == 401)


def changes_told(gateway):
    return [each for each in gateway.events() if each["kind"] == "virtual_key_changed"]


def change(gateway, made, **patch):
    return gateway.admin(f"/api/v1/keys/{made['id']}", "PATCH", json.dumps(patch), [("content-type", "application/json")])


def test_limits_are_changed_while_a_key_is_used_and_what_was_spent_stays(tidegate, faulty, redis):
    """On every replica, with a line in the event log of the one that was told."""
    one, two = (tidegate(config(faulty, state={"url": redis.url}), workers=1) for _ in range(2))
    made = make(one, budgets=[{"tokens": 36, "per": "month"}])
    until(lambda: known(two, made), 5, "the other replica knows the key")
    while (answer := use(one, made, max_tokens=1)).status == 200:
        pass
    assert answer.error_code() == "budget_exhausted"
    used = spent(one, made, "tokens")
    assert used >= 36
    answer = change(one, made, name="crew", limits={"budgets": [{"tokens": 100_000, "per": "month"}], "models": ["gpt-*"]})
    assert answer.status == 200 and json.loads(answer.body)["name"] == "crew"
    for gateway in (one, two):
        until(lambda: use(gateway, made, max_tokens=1).status == 200, 5, "the new budget holds")
        assert use(gateway, made, model="other").status == 403
        until(lambda: spent(gateway, made, "tokens") >= used + 18, 5, "what was spent before counts")
    changed = next(each for each in one.api("events") if each["kind"] == "virtual_key_changed")
    assert (changed["subject"], changed["member"]) == ("crew", made["id"])
    assert "name: team → crew" in changed["cause"] and "36 tokens/month → 100000 tokens/month" in changed["cause"]
    assert change(one, made, limits={"models": None, "budgets": None}).status == 200
    until(lambda: use(two, made, model="other").status == 200, 5, "limits are gone")
    until(lambda: listed(one, made)["limits"] == {}, 5, "on the replica that was told too")


def keys(gateway, *words):
    return command("keys", *words, "--admin", f"http://127.0.0.1:{gateway.admin_port}")


def test_budgets_that_are_changed_at_the_same_moment_are_all_changed(gateway):
    made = make(gateway)
    changes = [["--budget", "1/day"], ["--budget", "2/month"], ["--token-budget", "30/day"], ["--token-budget", "400/month"]]
    with ThreadPoolExecutor(4) as threads:
        done = list(threads.map(lambda change: keys(gateway, "update", made["id"], *change), changes))
    assert [each.returncode for each in done] == [0] * 4, done
    budgets = listed(gateway, made)["limits"]["budgets"]
    assert sorted((each["per"], each.get("micros"), each.get("tokens")) for each in budgets if each.get("micros")) == [("day", 1_000_000, None), ("month", 2_000_000, None)]
    assert sorted((each["per"], each["tokens"]) for each in budgets if each.get("tokens")) == [("day", 30), ("month", 400)]


def test_names_of_keys_are_needed_and_taken_once(gateway):
    made = make(gateway)
    for patch, status in (({"name": ""}, 400), ({"name": None}, 400), ({"limits": {"requests_per_minute": 0}}, 400), ({"nmae": "x"}, 400)):
        answer = change(gateway, made, **patch)
        assert answer.status == status and answer.header("content-type") == "application/problem+json", answer.body
    for body in ({"name": ""}, {"limits": {}}):
        assert gateway.admin("/api/v1/keys", "POST", json.dumps(body), [("content-type", "application/json")]).status == 400
    other = make(gateway, "other")
    answer = gateway.admin("/api/v1/keys", "POST", json.dumps({"name": "team"}), [("content-type", "application/json")])
    assert answer.status == 409 and json.loads(answer.body)["code"] == "name_taken"
    assert "another virtual key has the name \"team\"" in json.loads(answer.body)["detail"]
    assert change(gateway, other, name="team").status == 409
    assert gateway.admin(f"/api/v1/keys/{made['id']}", "DELETE").status == 200
    assert change(gateway, other, name="team").status == 200
    assert change(gateway, {"id": "vk-000000000000"}, name="x").status == 404


# --- what they may ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_model_that_a_key_may_not_use_is_403(gateway, faulty, dialect):
    made = make(gateway, models=["gpt-3*"])
    for model, status in (("gpt-3.5", 200), ("gpt-4", 403)):
        target, body = ask(dialect, model=model)
        answer = send(gateway, target, body, [("authorization", f"Bearer {made['token']}")])
        assert answer.status == status
    assert answer.error_code() == "model_not_allowed"
    providers.error_of(answer, dialect)
    assert {call.model for call in faulty.calls} == {"gpt-3.5"}


def whole_minute():
    """Waits for the beginning of a minute if it is near: limits are counted by the clock's minutes."""
    until(lambda: time.time() % 60 < 45, 20, "a minute with enough left of it", every=0.1)


def test_trap_12_requests_per_minute_are_exact_under_concurrency(gateway, faulty):
    made = make(gateway, requests_per_minute=20)
    whole_minute()
    statuses = []
    threads = [threading.Thread(target=lambda: statuses.append(use(gateway, made).status)) for _ in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert statuses.count(200) <= 20 + 3, "the limit, and its slack of a tenth and one request"
    assert statuses.count(200) >= 18 and set(statuses) == {200, 429}
    answer = use(gateway, made)
    assert answer.status == 429 and answer.error_code() == "rate_limited"
    assert 1 <= int(answer.header("retry-after")) <= 60
    providers.error_of(answer)


def test_trap_12_a_budget_of_tokens_is_reserved_before_and_settled_after(gateway, faulty):
    """Each answer uses 18 tokens; as many as fit are served, and not one is admitted on top of what is reserved."""
    made = make(gateway, budgets=[{"tokens": 180, "per": "day"}])
    served = 0
    for _ in range(30):
        answer = use(gateway, made, max_tokens=8)
        if answer.status != 200:
            break
        served += 1
    assert answer.status == 429 and answer.error_code() == "budget_exhausted"
    assert 5 <= served <= 10
    assert spent(gateway, made, "tokens") == served * 18


def spent(gateway, made, what):
    return until(lambda: next((each["used"] for each in listed(gateway, made)["used"] if each["unit"] == what), None), what="spending is told")


def test_trap_12_a_budget_in_money_counts_by_the_price_table(gateway, faulty):
    """11 tokens at 1 and 7 at 2 euros: 25 euros a call."""
    made = make(gateway, budgets=[{"micros": 100_000_000, "per": "month"}])
    assert use(gateway, made, max_tokens=7).status == 200
    until(lambda: spent(gateway, made, "micros") == 25_000_000, what="settled")
    answer = use(gateway, made, model="no-price")
    assert answer.status in (400, 403, 429), "a model without a price cannot be paid"
    assert faulty.calls[-1].model == "gpt-4"


@pytest.mark.parametrize("letters", [1_000, 1_200_000])
def test_an_answer_of_which_nobody_told_what_it_used_is_estimated(gateway, faulty, letters):
    """Four bytes are a token; also of an answer that is too long to be kept until it is whole."""

    async def behave(call, connection):
        value = wire.whole(call.dialect, call.model, ["x" * letters])
        del value["usage"]
        await faults._json(call, connection, value)

    made = make(gateway, budgets=[{"tokens": 10_000_000, "per": "day"}])
    faulty.default = behave
    answer = use(gateway, made)
    assert answer.status == 200 and len(answer.body) > letters
    until(lambda: letters // 4 <= spent(gateway, made, "tokens") <= len(answer.body) // 4 + 200, what="settled")


def test_trap_12_a_caller_that_leaves_is_settled_too(gateway, faulty):
    """What was reserved is given back but for what was really used."""
    made = make(gateway, budgets=[{"tokens": 100_000, "per": "day"}])
    gate = threading.Event()
    faulty.default = faults.gated(gate)
    target, body = ask("openai", stream=True, max_tokens=50_000)
    for _ in range(5):
        count = len(faulty.calls)
        with gateway.client() as client:
            client.send_request("POST", target, [("content-type", "application/json"), ("authorization", f"Bearer {made['token']}")], json.dumps(body))
            assert client.response_head().status == 200
            client.read_chunk()
        until(lambda: len(faulty.calls) > count and faulty.calls[-1].left_at, what="the provider sees it leave")
    # Five reservations of 50,000 each would be more than the budget: they were given back.
    used = spent(gateway, made, "tokens")
    assert 5 <= used < 5_000, used


def test_limits_are_shared_by_replicas(tidegate, faulty, redis):
    one, two = (tidegate(config(faulty, state={"url": redis.url}), workers=1) for _ in range(2))
    made = make(one, requests_per_minute=40)
    until(lambda: known(two, made), 5, "the other replica knows the key")
    whole_minute()
    statuses = [use(gateway, made).status for _ in range(50) for gateway in (one, two)]
    # The bound of the docs: L + R × (C + M), here 40 + 2 × (4 + 1).
    assert 36 <= statuses.count(200) <= 50
    assert statuses[-1] == 429


def test_a_store_that_is_left_for_another_hears_what_was_spent(tidegate, faulty, redis):
    """Leases that lie unused go back, and what was under way is counted where it began."""

    def counted():
        counters = [each for each in redis.command("KEYS", "*spent*") if made["id"] in each and "other" not in each]
        return sum(int(redis.command("GET", each)) for each in counters)

    gateway = tidegate(config(faulty, state={"url": redis.url}), workers=1)
    made = make(gateway, budgets=[{"tokens": 100_000, "per": "month"}])
    assert use(gateway, made, max_tokens=1).status == 200
    once = until(lambda: spent(gateway, made, "tokens"), what="counted")
    until(lambda: counted() > once, what="a part of the budget is taken in advance")
    gate = threading.Event()
    faulty.default = faults.gated(gate)
    with ThreadPoolExecutor(1) as threads:
        under_way = threads.submit(use, gateway, made, stream=True, max_tokens=5_000)
        until(lambda: spent(gateway, made, "tokens") > 5_000, what="reserved")
        gateway.reload(config(faulty, state={"url": f"{redis.url}?prefix=other"}))
        assert counted() > once + 5_000
        gate.set()
        assert under_way.result().status == 200
    until(lambda: once < counted() < 10 * once, 10, "what it used in the end")


def test_keys_and_what_they_spent_outlive_a_restart(gateway, faulty):
    made = make(gateway, budgets=[{"tokens": 10_000, "per": "month"}])
    assert [use(gateway, made).status for _ in range(10)] == [200] * 10
    until(lambda: spent(gateway, made, "tokens") == 180)
    assert gateway.stop() == 0
    gateway.start()
    until(lambda: use(gateway, made).status == 200, 5, "the key is known")
    # Exactly: what had been taken in advance and was not spent went back before the end.
    until(lambda: spent(gateway, made, "tokens") == 198, 5, "the store has told what was spent before")


@pytest.mark.llm
@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_sdks_raise_their_own_errors_for_limits(gateway, sdks, dialect):
    from harness.sdks import SDK_OF, arguments

    base = f"http://127.0.0.1:{gateway.port}"
    made = make(gateway, requests_per_minute=1)
    error = sdks.bad(base, "chat", arguments(dialect), SDK_OF[dialect], key="tg-" + "z" * 40)
    assert error["status"] == 401
    whole_minute()
    outcomes = [sdks.call(base, "chat", arguments(dialect), SDK_OF[dialect], key=made["token"]) for _ in range(5)]
    assert outcomes[0]["ok"] and outcomes[-1]["error"]["status"] == 429
