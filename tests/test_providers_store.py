"""Which store is used, and what an operator does to keys through the admin port."""

import json
from urllib.parse import quote

import pytest

from harness import faults, providers
from harness.gateway import command, simple
from harness.providers import one, post, state, token
from harness.wait import until

A, B = token("a"), token("b")
SELDOM = {"health_check_interval": "60s"}


def store(gateway):
    return json.loads(gateway.admin("/api/v1/providers").body)["store"]


def make(gateway):
    return gateway.admin("/api/v1/keys", "POST", json.dumps({"name": "team"}), [("content-type", "application/json")])


def out(gateway, faulty, key):
    faulty.script(key, faults.dead())
    until(lambda: post(gateway).status == 200 and state(gateway, key) == "ejected", what="out")


def test_without_providers_there_is_no_store_and_a_reload_that_brings_some_brings_it(tidegate, server, faulty):
    plain = simple(server())
    gateway = tidegate(plain)
    assert store(gateway) == {"url": "", "connected": True} and gateway.api("keys") == []
    assert make(gateway).status == 503
    gateway.reload(one(faulty, [A, B], failover=SELDOM))
    assert store(gateway)["url"].startswith("file:")
    made = until(lambda: (answer := make(gateway)).status == 201 and json.loads(answer.body), what="the store is there")
    until(lambda: [each["id"] for each in gateway.api("keys")] == [made["id"]], what="the key is known")
    gateway.reload(plain)
    assert store(gateway)["url"] == "" and gateway.api("keys") == []
    gateway.reload(one(faulty, [A, B], failover=SELDOM))
    until(lambda: gateway.admin("/api/v1/keys").status == 200 and [each["id"] for each in gateway.api("keys")] == [made["id"]], what="the same store")


def test_a_reload_to_another_store_goes_on_with_it_and_forgets_no_key_that_is_out(tidegate, faulty, redis):
    gateway = tidegate(one(faulty, [A, B], failover=SELDOM))
    out(gateway, faulty, A)
    gateway.reload({**one(faulty, [A, B], failover=SELDOM), "state": {"url": redis.url, "folder": str(gateway.folder / "tidegate-data")}})
    assert "redis" in store(gateway)["url"]
    until(lambda: store(gateway)["connected"], what="connected")
    assert state(gateway, A) == "ejected"
    until(lambda: make(gateway).status == 201 and "team" in redis.everything(), what="kept in Redis")


def test_a_store_that_is_away_delays_neither_the_start_nor_a_request(tidegate, faulty):
    gateway = tidegate({**one(faulty, [A, B], failover=SELDOM), "state": {"url": "redis://127.0.0.1:1", "folder": "./here"}})
    assert post(gateway).status == 200
    assert store(gateway)["connected"] is False and gateway.metric("tidegate_store_connected") == 0
    out(gateway, faulty, A)
    assert "is away" in providers.status_table(gateway)
    assert gateway.admin("/api/v1/keys").status == 503 and make(gateway).status == 503


@pytest.mark.parametrize("by", ["name", "fingerprint"])
def test_an_operator_restores_a_key_that_its_provider_refused(tidegate, faulty, by):
    gateway = tidegate(one(faulty, [A, B], failover=SELDOM))
    out(gateway, faulty, A)
    faulty.heal()
    key = providers.key(gateway, A)
    answer = gateway.admin(f"/api/v1/providers/p/keys/{quote(key[by], safe='')}/restore", "POST")
    assert answer.status == 200, answer.body
    assert state(gateway, A) == "healthy"
    until(lambda: post(gateway).status == 200 and faulty.calls[-1].key == A, what="used again")
    told = until(lambda: [event for event in gateway.events("member_returned") if event["member"] == key["name"]], 5, "it is told")
    assert [event["cause"] for event in told] == ["restored by an operator"]


def test_keys_that_look_alike_have_names_of_their_own(tidegate, faulty, tmp_path):
    """Short keys show nothing of themselves: their names tell them apart, also in the log of requests and in events."""
    log = tmp_path / "access.log"
    gateway = tidegate({**one(faulty, ["short-one", "short-two"], failover=SELDOM, choose="round_robin"), "access_log": {"to": str(log)}})
    names = [key["name"] for key in providers.seen(gateway)["keys"]]
    assert [post(gateway).status for _ in range(4)] == [200] * 4
    used = until(lambda: (lines := log.read_text().splitlines()) and len(lines) == 4 and {json.loads(line)["key"] for line in lines}, what="four lines")
    assert used == set(names)
    added = [event["member"] for event in gateway.events("member_added") if event["subject"] == "p"]
    assert sorted(added) == sorted(names), "each is told once"
    assert len(set(names)) == 2 and all(name.startswith("…/") for name in names)
    samples = [labels for labels, _ in gateway.metrics()["tidegate_member_state"] if labels["pool"] == "p"]
    assert len({json.dumps(labels, sort_keys=True) for labels in samples}) == len(samples) == 2 * 5
    ran = command("status", "providers", "--admin", f"http://127.0.0.1:{gateway.admin_port}")
    assert ran.returncode == 0 and "short-one" not in ran.stdout
