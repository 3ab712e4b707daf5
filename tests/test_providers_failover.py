"""A dead, limited or exhausted key is never the caller's problem: the traps that were seen in the field, each a test."""

import json
import threading

import pytest

from harness import faults, providers
from harness.providers import one, post, provider, route_to, said, token
from harness.wait import until

A, B, C = token("a"), token("b"), token("c")
# Probes often enough for a test; one that could bring a key back too early would show as a broken floor.
QUICK = {"health_check_interval": "200ms", "health_check_timeout": "2s"}


def statuses(gateway, count, **more):
    return [post(gateway, **more).status for _ in range(count)]


def ejected(gateway, key, name="p"):
    """What keeps the key out, once something does."""
    return until(lambda: providers.worst(providers.key(gateway, key, name)), what="key ejected")


def healthy(gateway, key, name="p", timeout=15):
    return until(lambda: providers.state(gateway, key, name) == "healthy", timeout, "key healthy again", every=0.02)


def until_called(gateway, faulty, key, count=1, tries=200, **more):
    """Asks until the key has been called so often; every answer must be good."""
    for _ in range(tries):
        if faulty.count(key) >= count:
            return
        assert post(gateway, **more).status == 200
    raise AssertionError(f"{key} was called {faulty.count(key)} times only")


# --- whose fault it is ------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [{}, {"on_status": ["4.*", "5.*"], "health_check_model": "gpt-4"}], ids=["by-class", "as-higress"])
def test_trap_1_a_callers_own_400_404_or_422_evicts_no_key(tidegate, faulty, policy):
    gateway = tidegate(one(faulty, [A, B], failover={**QUICK, **policy}))
    for kind, status in (("fault", 400), ("unprocessable", 422), ("no-model", 404)):
        faulty.script(A, faults.fail(kind))
        faulty.script(B, faults.fail(kind))
        for _ in range(8):
            answer = post(gateway)
            assert answer.status == status
            providers.error_of(answer)
    assert set(providers.states(gateway).values()) == {"healthy"}
    assert gateway.metric("tidegate_ejections_total", pool="p") == 0
    faulty.heal()
    assert statuses(gateway, 10) == [200] * 10 and {A, B} <= set(faulty.keys())


def test_trap_2_retry_after_is_a_floor(tidegate, faulty):
    gateway = tidegate(one(faulty, [A, B], failover=QUICK))
    faulty.script(A, faults.limited(2), faults.answer())
    until_called(gateway, faulty, A)
    limited_at = faulty.of(A)[0].done_at or faulty.of(A)[0].at
    cause = ejected(gateway, A)
    assert cause["class"] == "limited" and cause["status"] == 429
    until_called(gateway, faulty, A, 2, tries=100_000)
    assert faulty.of(A)[1].at - limited_at >= 2.0


def test_trap_2_the_reset_of_the_dimension_that_is_used_up_counts(tidegate, faulty):
    """Tokens are used up for three seconds, requests are not: neither their reset nor the smaller Retry-After decides."""
    gateway = tidegate(one(faulty, [A], failover=QUICK))
    faulty.script(A, faults.limited(headers=[
        ("x-ratelimit-limit-requests", 60), ("x-ratelimit-remaining-requests", 59), ("x-ratelimit-reset-requests", "1s"),
        ("x-ratelimit-limit-tokens", 1000), ("x-ratelimit-remaining-tokens", 0), ("x-ratelimit-reset-tokens", "20s"),
    ]))  # fmt: skip
    answer = post(gateway)
    assert answer.status == 429
    assert 18 <= int(answer.header("retry-after")) <= 20


def test_trap_2_a_shorter_time_does_not_shorten_a_longer_one(tidegate, faulty):
    gateway = tidegate(one(faulty, [A], failover=QUICK))
    later = threading.Event()

    async def after_the_other(call, connection):
        import asyncio

        while not later.is_set():
            await asyncio.sleep(0.005)
        await faults.limited(1)(call, connection)

    faulty.script(A, after_the_other, faults.limited(20))
    answers = []
    slow = threading.Thread(target=lambda: answers.append(post(gateway)))
    slow.start()
    until(lambda: faulty.count(A) == 1)
    assert post(gateway).status == 429
    later.set()
    slow.join(10)
    assert answers[0].status == 429
    answer = post(gateway)
    assert answer.status == 429 and int(answer.header("retry-after")) >= 17
    assert faulty.count(A) == 2


def test_all_keys_out_tells_the_earliest_true_return(tidegate, faulty):
    gateway = tidegate(one(faulty, [A, B], failover=QUICK))
    faulty.script(A, faults.limited(30))
    faulty.script(B, faults.limited(12))
    for _ in range(5):
        answer = post(gateway)
        assert answer.status == 429 and 9 <= int(answer.header("retry-after")) <= 12
        message, _ = providers.error_of(answer)
        assert answer.error_code() == "keys_limited", message
    assert (faulty.count(A), faulty.count(B)) == (1, 1)


def test_all_keys_dead_is_503_in_the_callers_dialect(tidegate, faulty):
    gateway = tidegate(one(faulty, [A, B], failover={**QUICK, "health_check_interval": "60s"}))
    faulty.script(A, faults.dead())
    faulty.script(B, faults.dead())
    for dialect in ("openai", "anthropic", "gemini"):
        answer = post(gateway, dialect)
        assert answer.status == 503
        providers.error_of(answer, dialect)
        assert answer.error_code() == "provider_unavailable"
    assert (faulty.count(A), faulty.count(B)) == (1, 1)


def test_the_least_bad_key_is_used_when_all_are_out_if_so_configured(tidegate, faulty):
    gateway = tidegate(one(faulty, [A, B], failover={**QUICK, "when_exhausted": "use_least_bad"}))
    faulty.script(A, faults.limited(60), faults.answer())
    faulty.script(B, faults.limited(5), faults.answer())
    assert post(gateway).status in (200, 429)
    assert statuses(gateway, 10) == [200] * 10


# --- what counts ----------------------------------------------------------------------------------


def test_trap_3_refused_connections_count_and_the_provider_comes_back(tidegate, faulty):
    other = faults.FaultServer()
    try:
        gateway = tidegate(
            {
                "routes": [route_to("p", "q")],
                "providers": [provider("p", faulty, [A], failover={**QUICK, "failure_threshold": 3}), provider("q", other, [B])],
            }
        )
        faulty.stop()
        assert statuses(gateway, 8) == [200] * 8
        assert ejected(gateway, A)["class"] == "connect_failure"
        faulty.server.start()
        healthy(gateway, A)
        before = other.count(B)
        assert statuses(gateway, 5) == [200] * 5
        assert other.count(B) == before
    finally:
        other.stop()


@pytest.mark.parametrize("fault", ["hang", "cut"])
def test_trap_3_timeouts_and_broken_connections_count(tidegate, faulty, fault):
    gateway = tidegate(one(faulty, [A, B], failover={**QUICK, "failure_threshold": 2}, timeouts={"first_content": "300ms"}))
    faulty.script(A, faults.hang() if fault == "hang" else faults.cut())
    until_called(gateway, faulty, A, 2)
    assert ejected(gateway, A)["class"] in (["timeout"] if fault == "hang" else ["reset", "broken"])
    faulty.heal()
    healthy(gateway, A)


def test_trap_4_an_error_inside_a_stream_that_began_with_200_is_a_failure(tidegate, faulty):
    gateway = tidegate(one(faulty, [A, B], failover={**QUICK, "failure_threshold": 3}))
    faulty.script(A, faults.broken_stream("error-event", after_content=False))
    for _ in range(60):
        answer = post(gateway, stream=True)
        assert answer.status == 200 and b"[DONE]" in answer.body and b"error" not in answer.body
        if faulty.count(A) >= 3:
            break
    assert ejected(gateway, A)["class"] == "provider_down"


# --- rotation -------------------------------------------------------------------------------------


def test_trap_7_fifty_keys_of_which_one_lives_serve_with_a_single_retry(tidegate, faulty):
    keys = [token(f"k{number}") for number in range(50)]
    gateway = tidegate(one(faulty, keys, failover={**QUICK, "health_check_interval": "60s"}, route={"retry": {"attempts": 2}}))
    for key in keys[:-1]:
        faulty.script(key, faults.dead())
    answer = post(gateway)
    assert answer.status == 200 and said(answer) == "Hello there"
    for _ in range(20):
        assert post(gateway).status == 200
    asked = faulty.keys()
    assert all(asked.count(key) <= 1 for key in keys[:-1]), "a dead key is tried once"
    assert asked.count(keys[-1]) == 21


@pytest.mark.parametrize("stream", [False, True])
def test_a_hundred_callers_at_once_see_nothing_of_two_keys_that_answer_with_failures(tidegate, faulty, stream):
    """With the defaults: neither two attempts nor the budget of retries stand between a caller and the key that works."""
    gateway = tidegate(one(faulty, [A, B, C], failover={**QUICK, "health_check_interval": "60s"}))
    for key in (A, B):
        faulty.script(key, faults.broken_stream("eof", False) if stream else faults.fail("down"))
    answers = []
    threads = [threading.Thread(target=lambda n=n: answers.append(post(gateway, stream=stream, user=f"u{n}"))) for n in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status for answer in answers] == [200] * 100
    assert providers.state(gateway, C) == "healthy"


def test_two_hundred_callers_at_once_try_each_dead_key_once_a_request_and_all_are_served(tidegate, faulty):
    keys = [token(f"k{number}") for number in range(10)]
    gateway = tidegate(one(faulty, keys, failover={**QUICK, "health_check_interval": "60s"}, route={"retry": {"attempts": 1}}))
    for key in keys[:-1]:
        faulty.script(key, faults.dead())
    answers = []
    threads = [threading.Thread(target=lambda n=n: answers.append(post(gateway, user=f"u{n}").status)) for n in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == [200] * 200
    by_request = {}
    for call in faulty.calls:
        by_request.setdefault(call.body["user"], []).append(call.key)
    assert all(len(tried) == len(set(tried)) for tried in by_request.values())


CLASSES = [
    ("openai", "dead", "key_dead"),
    ("openai", "quota", "quota_exhausted"),
    ("openai", "limited", "limited"),
    ("anthropic", "dead", "key_dead"),
    ("anthropic", "quota", "quota_exhausted"),
    ("anthropic", "limited", "limited"),
    ("gemini", "dead", "key_dead"),
    ("gemini", "quota", "quota_exhausted"),
    ("gemini", "limited", "limited"),
]


@pytest.mark.parametrize("dialect,kind,wanted", CLASSES, ids=[f"{dialect}-{kind}" for dialect, kind, _ in CLASSES])
def test_trap_9_status_headers_and_body_tell_what_is_wrong_with_a_key(tidegate, faulty, dialect, kind, wanted):
    """Gemini's 400 is a dead key, OpenAI's 429 an empty account, Anthropic's 400 too."""
    gateway = tidegate(one(faulty, [A, B], dialect, failover={**QUICK, "health_check_interval": "60s"}))
    faulty.script(A, faults.fail(kind))
    until_called(gateway, faulty, A)
    seen = ejected(gateway, A)
    assert seen["class"] == wanted and seen["status"] == faulty.of(A)[0].status
    assert A not in json.dumps(seen)
    assert statuses(gateway, 20) == [200] * 20
    assert faulty.count(A) == 1


@pytest.mark.parametrize("dialect", ["openai", "anthropic", "gemini"])
def test_trap_9_a_refused_region_asks_the_next_provider_and_kills_no_key(tidegate, faulty, dialect):
    keys = [token(f"r{number}") for number in range(5)]
    gateway = tidegate({"routes": [route_to("p", "q")], "providers": [provider("p", faulty, keys, dialect, failover=QUICK), provider("q", faulty, [B])]})
    for key in keys:
        faulty.script(key, faults.fail("region"))
    answer = post(gateway)
    assert answer.status == 200
    assert len([key for key in faulty.keys() if key in keys]) == 1, "the others would meet the same"
    assert set(providers.states(gateway).values()) == {"healthy"}


def test_trap_10_a_key_that_is_limited_for_one_model_serves_the_others(tidegate, faulty):
    gateway = tidegate(one(faulty, [A], failover=QUICK))
    faulty.script(A, faults.for_model("gpt-4", faults.limited(30)))
    assert post(gateway, model="gpt-4").status == 429
    assert statuses(gateway, 5, model="gpt-3.5-turbo") == [200] * 5
    assert post(gateway, model="gpt-4").status == 429
    assert [call.model for call in faulty.calls].count("gpt-4") == 1
    key = providers.key(gateway, A)
    assert key["state"] == "healthy" and [scope["model"] for scope in key["models"] if scope["state"] == "ejected"] == ["gpt-4"]


# --- affinity -------------------------------------------------------------------------------------


def test_trap_13_a_caller_keeps_its_key_and_moves_once_when_it_fails(tidegate, faulty):
    keys = [token(f"s{number}") for number in range(6)]
    gateway = tidegate(one(faulty, keys, choose={"sticky": {"body": "user", "ttl": "5m"}}, failover=QUICK))
    users = [f"user-{number}" for number in range(24)]

    def key_of(user):
        assert post(gateway, user=user).status == 200
        return next(call.key for call in reversed(faulty.calls) if call.body.get("user") == user)

    first = {user: key_of(user) for user in users}
    assert len(set(first.values())) >= 3, "callers are spread"
    assert {user: key_of(user) for user in users} == first
    lost = first[users[0]]
    faulty.script(lost, faults.limited(1), faults.answer())
    moved = {user: key_of(user) for user in users}
    assert moved[users[0]] != lost
    assert all(moved[user] == first[user] for user in users if first[user] != lost), "the others stay"
    until(lambda: providers.state(gateway, lost) != "ejected", 10, "its time is over")
    assert {user: key_of(user) for user in users} == moved, "nobody flaps back"


# --- ways to choose -----------------------------------------------------------------------------------


@pytest.mark.parametrize("choose", ["random", "round_robin", "least_used"])
def test_keys_share_the_calls(tidegate, faulty, choose):
    gateway = tidegate(one(faulty, [A, B, C], choose=choose), workers=1)
    assert statuses(gateway, 90) == [200] * 90
    counts = [faulty.count(key) for key in (A, B, C)]
    if choose == "round_robin":
        assert counts == [30, 30, 30]
    else:
        assert min(counts) >= 10, counts


def test_weights_share_the_calls(tidegate, faulty):
    gateway = tidegate(one(faulty, [{"token": A, "weight": 9}, {"token": B, "weight": 1}], choose="weighted"))
    assert statuses(gateway, 200) == [200] * 200
    assert faulty.count(A) > 150 and faulty.count(B) > 2


# --- as Higress does it -----------------------------------------------------------------------------


def higress(**more):
    return {"failure_threshold": 3, "success_threshold": 2, "health_check_interval": "200ms", "health_check_timeout": "5s", "health_check_model": "gpt-3", "on_status": ["4.*", "5.*"], **more}


def test_as_higress_three_failures_in_a_row_spare_a_key_and_probes_with_the_model_bring_it_back(tidegate, faulty):
    gateway = tidegate(one(faulty, [A, B], model_mapping={"gpt-3": "probe-model", "gpt-4": "real-model"}, failover=higress()))
    faulty.script(A, faults.fail("down"), faults.fail("down"), faults.answer(), faults.fail("down"))
    route_calls = lambda: [call for call in faulty.of(A) if call.model == "real-model"]  # noqa: E731
    for _ in range(400):
        assert post(gateway).status == 200
        if len(route_calls()) >= 6:
            break
    ejected(gateway, A)
    assert len(route_calls()) == 6, "two failures, a good answer that counts anew, three failures"
    until(lambda: [call for call in faulty.of(A) if call.model == "probe-model"], what="a probe through the provider's own mapping")
    faulty.heal()
    healthy(gateway, A)
    good = [call for call in faulty.of(A) if call.model == "probe-model" and call.status == 200]
    assert len(good) >= 2, "success_threshold"


def test_as_higress_a_cooldown_brings_a_key_back_without_probes(tidegate, faulty):
    policy = higress(cooldown="1s")
    del policy["health_check_model"]
    gateway = tidegate(one(faulty, [A, B], failover=policy))
    faulty.script(A, faults.fail("down"), faults.fail("down"), faults.fail("down"), faults.answer())
    until_called(gateway, faulty, A, 3)
    out_at = faulty.of(A)[2].at
    ejected(gateway, A)
    until_called(gateway, faulty, A, 4, tries=100_000)
    assert faulty.of(A)[3].at - out_at >= 1.0
    assert all(call.model == "gpt-4" for call in faulty.calls), "no probe"


# --- seeing it ------------------------------------------------------------------------------------------


def test_status_tells_cause_since_and_return_of_each_key_by_its_fingerprint(tidegate, faulty):
    gateway = tidegate(one(faulty, [A, B, C], failover={**QUICK, "health_check_interval": "60s"}))
    faulty.script(A, faults.dead())
    faulty.script(B, faults.limited(45))
    for key in (A, B):
        until_called(gateway, faulty, key)
    dead, limited = ejected(gateway, A), ejected(gateway, B)
    assert dead["class"] == "key_dead" and dead["status"] == 401
    assert limited["class"] == "limited" and limited["status"] == 429
    table = providers.status_table(gateway)
    for key in (A, B, C):
        assert providers.fingerprint(key) in table and key not in table
    assert "401" in table and "429" in table
    as_json = json.loads(providers.status_table(gateway, "--json"))
    assert A not in json.dumps(as_json)
    assert gateway.metric("tidegate_member_state", pool="p", state="ejected") >= 1
    events = [event for event in gateway.events() if providers.fingerprint(A) in json.dumps(event, ensure_ascii=False)]
    assert events, "an ejection is an event"


def test_tokens_and_failovers_are_counted(tidegate, faulty):
    gateway = tidegate(one(faulty, [A, B], failover=QUICK))
    faulty.script(A, faults.dead())
    for stream in (False, True):
        for _ in range(10):
            assert post(gateway, stream=stream).status == 200

    def counted():
        assert gateway.metric("tidegate_tokens_total", provider="p", kind="input") == 20 * 11
        assert gateway.metric("tidegate_tokens_total", provider="p", kind="output") == 20 * 7
        return True

    until(counted)
    assert gateway.metric("tidegate_attempts_total", pool="p", verdict="ok") == 20
    failovers = [value for name, samples in gateway.metrics().items() if "failover" in name for labels, value in samples if "dead" in json.dumps(labels)]
    assert sum(failovers) >= 1


def test_a_key_that_dies_costs_no_caller_anything(tidegate, faulty):
    """While callers ask without a pause, one key after the other dies and comes back."""
    keys = [A, B, C]
    gateway = tidegate(one(faulty, keys, failover=QUICK))
    failures, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            answer = post(gateway)
            if answer.status != 200:
                failures.append((answer.status, answer.body))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for key in keys:
            faulty.script(key, faults.dead())
            ejected(gateway, key)
            faulty.heal(key)
            healthy(gateway, key)
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    assert failures == []
    assert len(faulty.calls) > 100
