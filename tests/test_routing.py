"""Which requests go where, in which shares, and what is changed on the way."""

import time
from collections import Counter

import pytest

from harness import http2, upstream
from harness.gateway import route, simple, upstream as pool
from harness.http2 import request_headers
from harness.load import Load
from harness.net import free_port
from harness.wait import until


def answering(name, **match):
    """A route that answers by itself with its name."""
    return {"name": name, "match": match, "respond": {"body": name}} if match else {"name": name, "respond": {"body": name}}


def test_the_first_route_that_matches_decides(tidegate):
    gateway = tidegate(
        {
            "routes": [
                answering("host", hosts=["a.local"]),
                answering("wildcard", hosts=["*.b.local"]),
                answering("exact", path={"exact": "/exact"}),
                answering("prefix", path={"prefix": "/pre"}),
                answering("regex", path={"regex": "/re/[0-9]+"}),
                answering("method", methods=["DELETE"]),
                answering("header", headers={"x-a": "1", "x-b": {"prefix": "p"}}),
                answering("absent", headers={"x-c": {"present": False}}, query={"q": {"regex": "[a-z]+"}}),
                {"name": "either", "match": [{"path": {"exact": "/one"}}, {"path": {"exact": "/two"}}], "respond": {"body": "either"}},
                answering("rest", path={"prefix": "/rest"}),
            ]
        }
    )
    expected = [
        ("GET", "/", "a.local", [], "host"),
        ("GET", "/", "A.LOCAL:1234", [], "host"),
        ("GET", "/", "x.y.b.local", [], "wildcard"),
        ("GET", "/", "b.local", [], None),
        ("GET", "/exact", "t", [], "exact"),
        ("GET", "/exact?x=1", "t", [], "exact"),
        ("GET", "/exact/", "t", [], None),
        ("GET", "/EXACT", "t", [], None),
        ("GET", "/pre", "t", [], "prefix"),
        ("GET", "/pre/a/b", "t", [], "prefix"),
        ("GET", "/prefix", "t", [], "prefix"),
        ("GET", "/re/42", "t", [], "regex"),
        ("GET", "/re/42/x", "t", [], None),
        ("DELETE", "/x", "t", [], "method"),
        ("GET", "/x", "t", [("x-a", "1"), ("x-b", "pq")], "header"),
        ("GET", "/x", "t", [("x-a", "1")], None),
        ("GET", "/x?q=abc", "t", [], "absent"),
        ("GET", "/x?q=abc", "t", [("x-c", "")], None),
        ("GET", "/x?q=123", "t", [], None),
        ("GET", "/one", "t", [], "either"),
        ("GET", "/two", "t", [], "either"),
        ("GET", "/rest/x", "t", [], "rest"),
    ]
    for method, target, host, headers, name in expected:
        answer = gateway.request(method, target, headers, host=host)
        if name is None:
            assert answer.status == 404 and answer.error_code(), (method, target, host, headers)
        else:
            assert answer.text() == name, (method, target, host, headers)
    with http2.Client(gateway.port) as two:
        assert two.response(two.request(request_headers(authority="x.b.local"))).body == b"wildcard"


def test_a_path_is_matched_after_its_dots_are_resolved(tidegate, server):
    """A prefix that protects must not be walked around."""
    behind = server(upstream.echo())
    gateway = tidegate({"routes": [{"name": "secret", "match": {"path": {"prefix": "/secret"}}, "respond": {"status": 403}}, route("up", name="rest")], "upstreams": [pool("up", behind)]})
    for target in ("/secret", "/a/../secret", "/./secret", "/a/%2e%2e/secret", "/%2E/secret/x", "/a/b/../../secret", "/%73ecret"):
        assert gateway.get(target).status in (400, 403), target
    assert not behind.requests


def test_a_weighted_split_is_kept_within_one_percent_over_20_000(tidegate, server):
    heavy, light, none = (server(upstream.named(), name=n) for n in ("v1", "v2", "v3"))
    gateway = tidegate(
        {
            "routes": [{"name": "split", "to": [{"upstream": "v1", "weight": 90}, {"upstream": "v2", "weight": 10}, {"upstream": "v3", "weight": 0}]}],
            "upstreams": [pool("v1", heavy), pool("v2", light), pool("v3", none)],
        }
    )
    report = Load(gateway.port, connections=8, count=20_000, limit=120).__enter__().finish()
    assert not report.bad()
    assert abs(report.bodies[b"v1"] / 20_000 - 0.9) < 0.01, report.bodies
    assert abs(report.bodies[b"v2"] / 20_000 - 0.1) < 0.01, report.bodies
    assert not none.requests


def test_a_sticky_split_sends_the_same_user_to_the_same_version(tidegate, server):
    one, two = server(upstream.named(), name="v1"), server(upstream.named(), name="v2")
    gateway = tidegate(
        {
            "routes": [{"name": "split", "to": [{"upstream": "v1", "weight": 50}, {"upstream": "v2", "weight": 50}], "split": {"hash": {"header": "x-user"}}}],
            "upstreams": [pool("v1", one), pool("v2", two)],
        }
    )
    first = {user: gateway.get(headers=[("x-user", user)]).text() for user in map(str, range(60))}
    assert {"v1", "v2"} == set(first.values())
    assert {user: gateway.get(headers=[("x-user", user)]).text() for user in first} == first


def test_the_request_names_its_upstream_from_an_allow_list(tidegate, server):
    xxx, yyy, zzz = (server(upstream.named(), name=n) for n in ("xxx", "yyy", "zzz"))
    gateway = tidegate(
        {
            "routes": [{"name": "named", "to": [{"upstream_from": {"header": "x-upstream", "allow": ["xxx", "yyy"]}}]}],
            "upstreams": [pool("xxx", xxx), pool("yyy", yyy), pool("zzz", zzz)],
        }
    )
    assert gateway.get(headers=[("x-upstream", "xxx")]).text() == "xxx"
    assert gateway.get(headers=[("x-upstream", "yyy")]).text() == "yyy"
    for headers in ([("x-upstream", "zzz")], [("x-upstream", "nothing")], []):
        assert gateway.get(headers=headers).status == 404
    assert not zzz.requests


def test_a_mirror_gets_a_copy_and_is_never_waited_for(tidegate, server):
    live, shadow = server(upstream.echo()), server(upstream.delay(5))
    gateway = tidegate(
        {
            "routes": [route("live", mirror={"upstream": "shadow", "percent": "100%"})],
            "upstreams": [pool("live", live), pool("shadow", shadow)],
        }
    )
    began = time.monotonic()
    assert gateway.request("POST", "/p?q=1", [("x-a", "1")], b"copied").body == b"copied"
    assert time.monotonic() - began < 2
    until(lambda: shadow.requests and shadow.requests[0].complete, what="the copy arrived")
    copy = shadow.requests[0]
    assert (copy.method, copy.target, copy.body, copy.header("x-a")) == ("POST", "/p?q=1", b"copied", "1")
    assert copy.header("host") == "test.local-shadow" or copy.header("host").split(":")[0].endswith("-shadow")


def test_a_failing_mirror_touches_nobody(tidegate, server):
    live = server()
    gateway = tidegate({"routes": [route("live", mirror={"upstream": "shadow"})], "upstreams": [pool("live", live), pool("shadow", free_port())]})
    report = Load(gateway.port, connections=4, count=300).__enter__().finish()
    assert report.statuses == {200: 300}
    assert gateway.members("live") == {live.address: "healthy"}


def test_a_mirror_of_a_share_gets_about_that_share(tidegate, server):
    live, shadow = server(), server()
    gateway = tidegate({"routes": [route("live", mirror={"upstream": "shadow", "percent": "10%"})], "upstreams": [pool("live", live), pool("shadow", shadow)]})
    report = Load(gateway.port, connections=4, count=3000).__enter__().finish()
    assert report.statuses == {200: 3000}
    until(lambda: 200 < len(shadow.requests) < 400, what="a tenth, within four deviations")


@pytest.mark.parametrize(
    "redirect, target, status, location",
    [
        ({"scheme": "https"}, "/a?b=c", 302, "https://test.local/a?b=c"),
        ({"host": "other.local", "status": 308}, "/a", 308, "http://other.local/a"),
        ({"path": "/new", "status": 301}, "/a?b=c", 301, "http://test.local/new?b=c"),
        ({"prefix": "/v2", "status": 307}, "/v1/models", 307, "http://test.local/v2/models"),
        ({"scheme": "https", "port": 8443}, "/", 302, "https://test.local:8443/"),
    ],
)
def test_redirects_say_where_to(tidegate, redirect, target, status, location):
    match = {"path": {"prefix": "/v1"}} if "prefix" in redirect else {}
    gateway = tidegate({"routes": [{"name": "moved", "match": match, "redirect": redirect}]})
    answer = gateway.get(target, host="test.local")
    assert answer.status == status
    assert answer.header("location").replace(f":{gateway.port}", "") == location


def test_paths_and_hosts_are_rewritten(tidegate, server):
    behind = server()
    gateway = tidegate(
        {
            "routes": [
                route("up", name="prefix", match={"path": {"prefix": "/v1"}}, rewrite={"prefix": "/api", "host": "inside.local"}),
                route("up", name="whole", match={"path": {"exact": "/whole"}}, rewrite={"path": "/x/y"}),
                route("up", name="regex", match={"path": {"prefix": "/user"}}, rewrite={"regex": {"pattern": "^/user/([0-9]+)", "with": "/u/$1/it"}}),
                route("up", name="rest"),
            ],
            "upstreams": [pool("up", behind)],
        }
    )
    for target in ("/v1/models?a=b", "/v1", "/whole?q=1", "/user/42/x", "/plain"):
        gateway.get(target)
    assert behind.paths() == ["/api/models?a=b", "/api", "/x/y?q=1", "/u/42/it/x", "/plain"]
    assert [r.header("host") for r in behind.requests] == ["inside.local", "inside.local", "test.local", "test.local", "test.local"]


def test_headers_are_removed_set_and_added_both_ways(tidegate, server):
    behind = server(upstream.ok(b"ok", [("x-inner", "1"), ("server", "inner"), ("x-keep", "a")]))
    edits = {"remove": ["x-inner"], "set": {"server": "outer"}, "add": {"x-keep": "b"}}
    gateway = tidegate(simple(behind, request_headers={"remove": ["x-secret"], "set": {"x-team": "ml"}, "add": {"x-tag": "two"}}, response_headers=edits))
    answer = gateway.get(headers=[("x-secret", "s"), ("x-team", "forged"), ("x-tag", "one")])
    arrived = behind.requests[0]
    assert (arrived.header("x-secret"), arrived.header("x-team"), arrived.header("x-tag")) == (None, "ml", "one, two")
    assert (answer.header("x-inner"), answer.header("server"), answer.header("x-keep")) == (None, "outer", "a, b")


def test_faults_delay_and_abort_their_share(tidegate, server):
    behind = server()
    gateway = tidegate(
        {
            "routes": [
                route("up", name="delayed", match={"path": {"prefix": "/delay"}}, fault={"delay": {"duration": "300ms"}}),
                route("up", name="aborted", match={"path": {"prefix": "/abort"}}, fault={"abort": {"status": 418}}),
                route("up", name="half", match={"path": {"prefix": "/half"}}, fault={"abort": {"status": 503, "percent": "50%"}}),
            ],
            "upstreams": [pool("up", behind)],
        }
    )
    began = time.monotonic()
    assert gateway.get("/delay").status == 200
    assert time.monotonic() - began >= 0.3
    assert gateway.get("/abort").status == 418
    assert behind.paths() == ["/delay"]
    report = Load(gateway.port, connections=4, count=2000, target="/half").__enter__().finish()
    assert 850 < report.statuses[503] < 1150
    assert gateway.members() == {behind.address: "healthy"}


def test_no_endpoints_is_503_and_costs_only_its_own_share(tidegate, server, tmp_path):
    empty = tmp_path / "none.json"
    empty.write_text('{"endpoints": []}')
    gateway = tidegate(
        {
            "routes": [{"name": "split", "to": [{"upstream": "up"}, {"upstream": "none"}]}],
            "upstreams": [pool("up", server()), {"name": "none", "discover": {"file": str(empty)}}],
        }
    )
    report = Load(gateway.port, connections=2, count=400).__enter__().finish()
    assert set(report.statuses) == {200, 503}
    assert 140 < report.statuses[503] < 260
    answer = next(a for a in (gateway.get() for _ in range(100)) if a.status == 503)
    assert answer.error_code() and answer.header("content-type").startswith("application/problem+json")


# --- balancers ------------------------------------------------------------------------------------


def test_round_robin_by_weight_and_without(tidegate, server):
    servers = [server() for _ in range(3)]
    endpoints = [{"address": s.address, "weight": w} for s, w in zip(servers, (1, 2, 5))]
    gateway = tidegate(simple(*endpoints, upstream_more={"balance": "weighted_round_robin"}))
    Load(gateway.port, connections=4, count=800).__enter__().finish()
    assert [len(s.requests) for s in servers] == pytest.approx([100, 200, 500], abs=3)


# A ring of 1,024 points gives the remaining members more points when one goes: a third more, which take a sixth of the users along.
@pytest.mark.parametrize("balance, moves", [({"ring_hash": {"header": "x-user"}}, 30), ({"maglev": {"header": "x-user"}}, 15)])
def test_a_hash_balancer_keeps_a_user_at_one_member_and_moves_few_when_one_goes(tidegate, server, balance, moves):
    servers = [server(upstream.named(), name=str(n)) for n in range(4)]
    config = simple(*servers, upstream_more={"balance": balance})
    gateway = tidegate(config)

    def homes():
        return {user: gateway.get(headers=[("x-user", f"user-{user}")]).text() for user in range(120)}

    first = homes()
    assert homes() == first and set(first.values()) == set("0123")
    gateway.reload(simple(*servers[:3], upstream_more={"balance": balance}))
    moved = [user for user, home in homes().items() if home != first[user] and first[user] != "3"]
    assert len(moved) <= moves, "mostly those of the member that went should move"


def test_peak_ewma_avoids_a_slow_member(tidegate, server):
    quick, slow = server(upstream.named(), name="quick"), server(upstream.delay(0.05, upstream.named()), name="slow")
    gateway = tidegate(simple(quick, slow))
    report = Load(gateway.port, connections=4, count=600).__enter__().finish()
    assert report.bodies[b"slow"] < 60, report.bodies


def test_least_request_fills_the_emptiest(tidegate, server):
    stuck = server(upstream.hang())
    free = [server(upstream.named(), name="free") for _ in range(2)]
    gateway = tidegate(simple(stuck, *free, upstream_more={"balance": "least_request"}))
    waiting = [gateway.client() for _ in range(3)]
    try:
        for client in waiting:
            client.send_request("GET", "/")
        until(lambda: stuck.requests, what="one is stuck")
        before = len(stuck.requests)
        report = Load(gateway.port, connections=1, count=200).__enter__().finish()
        assert report.bodies[b"free"] == 200 and len(stuck.requests) == before
    finally:
        for client in waiting:
            client.close()


def test_local_members_come_first_and_others_when_those_fail(tidegate, server):
    near, far = server(upstream.named(), name="near"), server(upstream.named(), name="far")
    endpoints = [{"address": near.address, "region": "eu", "zone": "a"}, {"address": far.address, "region": "us", "zone": "b"}]
    config = simple(*endpoints, retry={"attempts": 2})
    config["node"] = {"region": "eu", "zone": "a"}
    gateway = tidegate(config)
    assert Counter(gateway.get().text() for _ in range(50)) == {"near": 50}
    near.stop()
    assert Counter(gateway.get().text() for _ in range(20)) == {"far": 20}


def test_ten_thousand_routes_are_loaded_and_matched(tidegate, server):
    behind = server()
    routes = [answering(f"r{n}", hosts=[f"h{n}.local"], path={"prefix": f"/p{n}"}) for n in range(10_000)]
    gateway = tidegate({"routes": [*routes, route("up", name="rest")], "upstreams": [pool("up", behind)]})
    for n in (0, 4999, 9999):
        assert gateway.get(f"/p{n}/x", host=f"h{n}.local").text() == f"r{n}"
    assert gateway.get("/p1", host="h2.local").body == b"ok"
