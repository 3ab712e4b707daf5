"""`max_connections` is a bound, not a way to starve: an idle connection gives its place to a request that needs another."""

import pytest

from harness import upstream
from harness.gateway import simple
from harness.tunnel import Server

MORE = {"balance": "round_robin", "connection_pool": {"max_connections": 1}}


@pytest.mark.parametrize("workers", [1, 3])
def test_fewer_connections_than_endpoints_serve_all_of_them(tidegate, server, workers):
    servers = [server(upstream.named(), name=name) for name in "abc"]
    gateway = tidegate(simple(*servers, upstream_more=MORE, timeout="20s"), workers=workers)
    answers = []
    for _ in range(4):
        with gateway.client() as client:
            answers += [client.request("GET", "/").body for _ in range(6)]
    assert sorted(set(answers)) == [b"a", b"b", b"c"]
    assert sum(each.peak_open for each in servers) <= 3 * workers


def test_idle_http2_connections_give_way_too(tidegate):
    servers = [Server() for _ in range(3)]
    gateway = tidegate(simple(*servers, upstream_more={**MORE, "protocol": "http2"}, timeout="20s"), workers=1)
    assert [gateway.get().status for _ in range(9)] == [200] * 9
    assert all(each.requests for each in servers)
    for each in servers:
        each.stop()
