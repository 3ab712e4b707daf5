"""Several Tidegates on one Redis: they agree on a key, one of them probes, and the store's end changes nothing for callers."""

import json
import os
import signal
import threading
import time

import pytest

import test_providers_accounts as accounts
from harness import faults, providers
from harness.process import owns_port
from harness.providers import fingerprint, post, provider, route_to, token
from harness.wait import until

A, B, C = token("a"), token("b"), token("c")
# "Within 250 ms": measured from the answer that told it until the admin API of another replica says so (a poll of its own,
# 5 to 60 ms on two cores); the rest is for a busy machine. The measured value is printed.
AGREED = 2.5


@pytest.fixture
def replicas(tidegate, faulty, redis):
    """Three replicas; `config(**provider_more)` may be told otherwise."""

    def start(keys=(A, B, C), count=3, **more):
        more.setdefault("failover", {"health_check_interval": "300ms", "health_check_timeout": "2s"})
        config = {"state": {"url": redis.url}, "routes": [route_to("p")], "providers": [provider("p", faulty, keys, **more)]}
        return [tidegate(dict(config), workers=1) for _ in range(count)]

    return start


state = providers.state


def until_ejected_by(gateway, faulty, key):
    """Asks one replica until the key has failed there; the time of that answer."""
    before = faulty.count(key)
    for _ in range(300):
        assert post(gateway).status == 200
        if faulty.count(key) > before:
            return faulty.of(key)[before].at
    raise AssertionError("the key was never chosen")


def test_trap_8_replicas_agree_on_an_ejected_key(replicas, faulty, capsys):
    first, *others = replicas()
    delays, since = [], {}
    for key in (A, B):
        since[key] = faulty.count(key) + 1
        faulty.script(key, faults.dead())
        told = until_ejected_by(first, faulty, key)
        for other in others:
            until(lambda: state(other, key) == "ejected", AGREED, "the other replica knows", every=0.005)
            delays.append(time.monotonic() - told)
            cause = providers.worst(providers.key(other, key))
            assert cause["class"] == "key_dead" and cause["status"] == 401
            causes = until(lambda: [event["cause"] for event in other.events("member_ejected") if event["member"] == providers.fingerprint(key)], 5, "the event is told")
            assert len(causes) == 1 and causes[0].startswith("key dead (401") and "seen by " in causes[0], causes
    with capsys.disabled():
        print(f"\nreplicas agreed after {', '.join(f'{delay * 1000:.0f} ms' for delay in delays)}")
    for other in others:
        assert [post(other).status for _ in range(20)] == [200] * 20
    # Whoever knows of it asks it no more: what still comes are probes, which are no callers' requests.
    later = [call for key in (A, B) for call in faulty.of(key)[since[key] :]]
    assert not any(call.body.get("messages") == providers.CHAT["messages"] for call in later)


def test_trap_8_a_limit_is_agreed_with_its_end(replicas, faulty):
    first, second, third = replicas(keys=[A, B])
    faulty.script(A, faults.limited(4), faults.answer())
    told = until_ejected_by(first, faulty, A)
    for other in (second, third):
        until(lambda: providers.worst(providers.key(other, A)), AGREED, "the other replica knows")
    while time.monotonic() < told + 6 and faulty.count(A) < 2:
        for gateway in (first, second, third):
            assert post(gateway).status == 200
    assert faulty.count(A) >= 2, "it came back"
    assert faulty.of(A)[1].at - told >= 4.0, "no replica came before its time"


def test_one_replica_probes_and_when_it_dies_another_goes_on_within_the_lease(replicas, faulty, redis):
    three = replicas(failover={"health_check_interval": "500ms", "health_check_timeout": "2s", "on_status": ["4..", "5.."], "health_check_model": "probe", "failure_threshold": 1})
    faulty.script(A, faults.dead())
    until_ejected_by(three[0], faulty, A)

    def probes():
        return [call for call in faulty.of(A) if call.model == "probe"]

    def leader_of(call):
        """Whose connection the probe came over."""
        return next((gateway for gateway in alive if owns_port(gateway.roles()["gateway"], call.peer)), None)

    alive = list(three)
    until(lambda: len(probes()) >= 5, 20, "probes")
    # Ticks are half a second (with jitter) apart: of two probers there would be pairs.
    gaps = [late.at - early.at for early, late in zip(probes(), probes()[1:])]
    assert sum(gap < 0.2 for gap in gaps) == 0, gaps
    # A probe that hangs keeps its connection, by which its sender is known.
    faulty.script(A, faults.hang(1.5, faults.dead()))
    asked = len(probes())
    leader = until(lambda: len(probes()) > asked and leader_of(probes()[-1]), 10, "a probe under way")
    faulty.script(A, faults.dead())
    epoch = redis.lease("keys/prober")[0]
    before = len(probes())
    # Supervisor and all: nobody starts it again.
    alive.remove(leader)
    for pid in [leader.process.pid, *leader.leftovers()]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    died = time.monotonic()
    until(lambda: [call for call in probes()[before:] if call.at > died + 0.3], 15, "another one probes")
    assert redis.lease("keys/prober")[0] > epoch, "under an epoch of its own"
    until(lambda: len([call for call in probes() if call.at > died]) >= 5, 20, "it goes on")
    after = [call.at for call in probes() if call.at > died]
    doubles = sum(late - early < 0.2 for early, late in zip(after, after[1:]))
    assert doubles <= 1, "at most one duplicate at a takeover"
    faulty.heal()
    for gateway in alive:
        until(lambda: state(gateway, A) == "healthy", 10, "all know that it is back")


@pytest.mark.parametrize("how", ["kill", "pause"])
def test_the_stores_end_changes_nothing_for_callers(replicas, faulty, redis, how):
    three = replicas()
    faulty.script(A, faults.dead())
    until_ejected_by(three[0], faulty, A)
    for gateway in three:
        until(lambda: state(gateway, A) == "ejected", AGREED)
    failures, counts, stop = [], [0] * 3, threading.Event()

    def ask(number):
        while not stop.is_set():
            answer = post(three[number])
            counts[number] += 1
            if answer.status != 200:
                failures.append((number, answer.status, answer.body))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: min(counts) > 20)
        redis.kill() if how == "kill" else redis.pause()
        seen = list(counts)
        until(lambda: all(now > then + 200 for now, then in zip(counts, seen)), 60, "calls go on without the store")
        # A key that dies meanwhile is each replica's own finding.
        faulty.script(B, faults.dead())
        for gateway in three:
            until(lambda: state(gateway, B) == "ejected", 20, "found out alone")
        assert all(state(gateway, A) == "ejected" for gateway in three), "what was known stays known"
        redis.start() if how == "kill" else redis.resume()
        seen = list(counts)
        until(lambda: all(now > then + 100 for now, then in zip(counts, seen)), 60, "and with the store again")
        faulty.heal()
        for gateway in three:
            until(lambda: state(gateway, A) == state(gateway, B) == "healthy", 30, "one probes for all again")
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert failures == []


def test_a_replica_that_was_away_learns_what_it_missed(replicas, tidegate, faulty, redis):
    first, second, _ = replicas(failover={"health_check_interval": "60s"})
    faulty.script(A, faults.dead())
    until_ejected_by(first, faulty, A)
    until(lambda: state(second, A) == "ejected", AGREED)
    late = tidegate({key: value for key, value in first.config.items() if key not in ("listeners", "admin")}, workers=1)
    until(lambda: state(late, A) == "ejected", 5, "a new replica knows it from the start")
    assert [post(late).status for _ in range(30)] == [200] * 30
    assert faulty.count(A) == 1


def test_no_key_stands_in_the_store(replicas, faulty, redis):
    first, *_ = replicas()
    for key in (A, B):
        faulty.script(key, faults.dead() if key == A else faults.limited(30))
        until_ejected_by(first, faulty, key)
    until(lambda: redis.command("DBSIZE") > 0, what="something is stored")
    held = until(lambda: (text := redis.everything()) and fingerprint(A)[-4:] in text or "key_dead" in text and text, what="evidence is stored")
    held = held if isinstance(held, str) else redis.everything()
    for key in (A, B, C):
        assert key not in held and key[3:] not in held


def test_a_removed_key_leaves_no_residue_in_the_store(replicas, faulty, redis):
    gateways = replicas(failover={"health_check_interval": "60s"})
    # One after the other: a key that is out already is never chosen.
    for key, fault in ((A, faults.dead()), (B, faults.limited(600))):
        faulty.script(key, fault)
        until_ejected_by(gateways[0], faulty, key)
    for gateway in gateways:
        until(lambda: state(gateway, A) == "ejected" and providers.worst(providers.key(gateway, B)), AGREED)
    with_both = redis.everything()
    config = {key: value for key, value in gateways[0].config.items() if key not in ("listeners", "admin")}
    config["providers"] = [{**config["providers"][0], "api_tokens": [B, C]}]
    for gateway in gateways:
        gateway.reload(config)
    marks = [line.split(": ")[0] for line in with_both.splitlines() if "key_dead" in line]
    assert marks, with_both
    until(lambda: not any(mark in redis.everything() for mark in marks), 30, "the removed key's entries are gone", every=0.1)
    assert "limited" in redis.everything(), "the other's stay"


def with_keys(redis, faulty, query=""):
    return {"state": {"url": redis.url + query}, "routes": [route_to("p", virtual_keys="required")], "providers": [provider("p", faulty, [A])]}


def test_trap_12_a_virtual_key_and_its_budget_are_those_of_all_replicas(tidegate, faulty, redis):
    """What is admitted together is at most the limit and, for each replica, a hundredth of it and one reservation."""
    one, other = (tidegate(with_keys(redis, faulty), workers=1) for _ in range(2))
    made = accounts.make(one, budgets=[{"tokens": 1800, "per": "day"}])
    until(lambda: accounts.known(other, made), what="the other replica knows the key")
    statuses = []

    def ask(gateway):
        for _ in range(80):
            statuses.append(accounts.use(gateway, made, max_tokens=8).status)

    threads = [threading.Thread(target=ask, args=(gateway,)) for gateway in (one, other, one, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert set(statuses) == {200, 429}
    reservation = len(json.dumps({**providers.CHAT, "max_tokens": 8})) // 4 + 1 + 8
    assert 1800 // 2 <= 18 * statuses.count(200) <= 1800 + 2 * (18 + reservation)
    for gateway in (one, other):
        answer = accounts.use(gateway, made, max_tokens=8)
        assert answer.status == 429 and answer.error_code() == "budget_exhausted", "used up for both"
    assert other.admin(f"/api/v1/keys/{made['id']}", "DELETE").status in (200, 204)
    until(lambda: accounts.use(one, made).status == 401, 5, "revoked for both")


def test_two_installations_on_one_redis_have_nothing_in_common(tidegate, faulty, redis):
    one, other = (tidegate(with_keys(redis, faulty, f"?prefix={name}"), workers=1) for name in ("one", "other"))
    made, of_other = accounts.make(one), accounts.make(other)
    assert accounts.use(one, made).status == 200 and accounts.use(other, of_other).status == 200
    assert accounts.use(other, made).status == accounts.use(one, of_other).status == 401
    assert [each["id"] for each in one.api("keys")] == [made["id"]]
    assert "{one}:" in redis.everything() and "{tidegate}:" not in redis.everything()
