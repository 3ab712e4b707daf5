"""What a gateway knows of keys outlives reloads, restarts and upgrades."""

import signal

from harness import faults, providers
from harness.providers import one, post, provider, route_to, token
from harness.wait import until

A, B, C, D = token("a"), token("b"), token("c"), token("d")
SELDOM = {"health_check_interval": "60s"}


state = providers.state


def cause(gateway, key):
    """What keeps it out, without what changes as time goes by."""
    return {name: value for name, value in providers.worst(providers.key(gateway, key)).items() if name not in ("ago_ms", "seen_by")}


def out(gateway, faulty, key, behaviour=None, name="p", **more):
    """Makes the key fail and waits until it is out."""
    faulty.script(key, behaviour or faults.dead())
    before = faulty.count(key)
    for _ in range(300):
        assert post(gateway, **more).status == 200
        if faulty.count(key) > before:
            break
    return until(lambda: state(gateway, key, name) == "ejected", what="ejected")


def test_trap_6_changing_one_key_resets_none_of_the_others(tidegate, faulty):
    config = one(faulty, [A, B, C], failover=SELDOM)
    gateway = tidegate(config)
    out(gateway, faulty, A)
    out(gateway, faulty, B, faults.fail("quota"))
    asked = faulty.count(A), faulty.count(B)
    causes = [cause(gateway, key) for key in (A, B)]
    for keys in ([A, B, D], [D, B, A], [A, B, C, D]):
        gateway.reload(one(faulty, keys, failover=SELDOM))
        assert [state(gateway, key) for key in (A, B)] == ["ejected", "ejected"]
        assert [cause(gateway, key) for key in (A, B)] == causes
        assert [post(gateway).status for _ in range(20)] == [200] * 20
    assert (faulty.count(A), faulty.count(B)) == asked, "nobody tried them again"
    # Neither does a change of the policy, of the mapping or of another provider.
    changed = one(faulty, [A, B, C], failover={**SELDOM, "failure_threshold": 7}, model_mapping={"x": "y"})
    changed["providers"].append(provider("other", faulty, [D]))
    gateway.reload(changed)
    assert [state(gateway, key) for key in (A, B)] == ["ejected", "ejected"]


def test_a_refused_reload_changes_no_key(tidegate, faulty):
    gateway = tidegate(one(faulty, [A, B], failover=SELDOM))
    out(gateway, faulty, A)
    gateway.reload(one(faulty, [], failover=SELDOM), refused=True)
    assert state(gateway, A) == "ejected" and post(gateway).status == 200
    assert faulty.count(A) == 1


def test_a_key_that_is_taken_away_and_given_again_begins_anew(tidegate, faulty):
    gateway = tidegate(one(faulty, [A, B], failover=SELDOM))
    out(gateway, faulty, A)
    gateway.reload(one(faulty, [B], failover=SELDOM))
    assert len(providers.seen(gateway)["keys"]) == 1
    faulty.heal()
    gateway.reload(one(faulty, [A, B], failover=SELDOM))
    assert state(gateway, A) == "healthy", "no residue"
    before = faulty.count(A)
    assert [post(gateway).status for _ in range(40)] == [200] * 40
    assert faulty.count(A) > before


def test_a_killed_gateway_is_replaced_by_one_that_knows_the_keys(tidegate, faulty):
    gateway = tidegate(one(faulty, [A, B], failover=SELDOM))
    out(gateway, faulty, A)
    until(lambda: gateway.roles().get("control"), what="the store's owner runs")
    stored(gateway, "key_dead")
    gateway.kill_role()
    gateway.wait_ready()
    until(lambda: state(gateway, A) == "ejected", 5, "still known")
    assert [post(gateway).status for _ in range(30)] == [200] * 30
    assert faulty.count(A) == 1


def stored(gateway, *classes):
    """Waits until what is known has reached the store."""
    until(lambda: providers.stored(gateway, *classes), 10, "findings are in the store")


def test_a_killed_store_changes_nothing_and_comes_back_with_what_it_had(tidegate, faulty):
    gateway = tidegate(one(faulty, [A, B, C], failover=SELDOM))
    out(gateway, faulty, A)
    stored(gateway, "key_dead")
    gateway.kill_role("control")
    assert [post(gateway).status for _ in range(30)] == [200] * 30
    out(gateway, faulty, B, faults.fail("quota"))
    until(lambda: gateway.roles().get("control"), what="it is started again")
    stored(gateway, "quota_exhausted")
    gateway.kill_role()
    gateway.wait_ready()
    until(lambda: state(gateway, A) == state(gateway, B) == "ejected", 5, "both are known")


def test_a_restart_keeps_what_is_known_of_keys_and_their_times(tidegate, faulty):
    """Also what was found out just before the end."""
    gateway = tidegate(one(faulty, [A, B, C], failover=SELDOM))
    out(gateway, faulty, A)
    out(gateway, faulty, B, faults.limited(600), model="gpt-4")
    before, asked = cause(gateway, B), (faulty.count(A), faulty.count(B))
    assert gateway.stop() == 0
    gateway.start()
    until(lambda: state(gateway, A) == "ejected", 5)
    until(lambda: cause(gateway, B) == before, 5, "the other too")
    assert before["class"] == "limited"
    assert [post(gateway).status for _ in range(30)] == [200] * 30
    assert (faulty.count(A), faulty.count(B)) == asked


def test_an_upgrade_keeps_what_is_known_of_keys(tidegate, faulty):
    gateway = tidegate(one(faulty, [A, B], failover=SELDOM))
    out(gateway, faulty, A)
    assert gateway.upgrade() == 0
    until(lambda: state(gateway, A) == "ejected", 5)
    assert [post(gateway).status for _ in range(30)] == [200] * 30
    assert faulty.count(A) == 1


def test_the_same_key_of_two_providers_at_one_place_shares_its_health(tidegate, faulty):
    """An override of a provider is the same account: what one finds out the other needs not."""
    gateway = tidegate(
        {
            "routes": [route_to("p", match={"path": {"prefix": "/v1/chat"}}), route_to("override", match={"path": {"prefix": "/v1/embeddings"}})],
            "providers": [provider("p", faulty, [A, B], failover=SELDOM), provider("override", faulty, [A, C], failover=SELDOM)],
        }
    )
    out(gateway, faulty, A)
    until(lambda: state(gateway, A, "override") == "ejected", 5, "known of there as well")


def test_sighup_and_file_changes_reload_new_keys_at_once(tidegate, faulty):
    gateway = tidegate(one(faulty, [A], failover=SELDOM))
    faulty.script(A, faults.dead())
    assert post(gateway).status == 503
    gateway.write(one(faulty, [A, B], failover=SELDOM))
    gateway.process.signal(signal.SIGHUP)
    until(lambda: post(gateway).status == 200, what="the new key serves")
    assert faulty.count(A) == 1
