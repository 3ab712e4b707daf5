"""Where endpoints come from, and who finds out that one is unwell."""

import json
import os
import signal
import time

import pytest

from harness import dns as dns_module
from harness import upstream
from harness.gateway import route, simple
from harness.load import Load
from harness.net import free_port
from harness.wait import until


def discovered(**discover):
    return {"routes": [route("up")], "upstreams": [{"name": "up", "discover": discover, "balance": "round_robin"}]}


def addresses(gateway):
    return {member for member, state in gateway.members().items() if state != "draining"}


# --- file -----------------------------------------------------------------------------------------


def write(path, *servers, text=None):
    part = path.with_suffix(".part")
    part.write_text(text if text is not None else json.dumps({"endpoints": [{"address": s.address} for s in servers]}))
    part.rename(path)


def test_a_changed_endpoint_file_is_used_at_once(tidegate, server, tmp_path):
    one, two, three = server(), server(), server()
    path = tmp_path / "endpoints.json"
    write(path, one, two)
    gateway = tidegate(discovered(file=str(path)))
    with Load(gateway.port, connections=4) as load:
        until(lambda: one.requests and two.requests)
        write(path, two, three)
        until(lambda: three.requests, what="the new one is used")
        until(lambda: addresses(gateway) == {two.address, three.address}, what="the list is the file's")
    assert load.report.statuses == {200: load.report.total}


def test_a_broken_endpoint_file_leaves_the_last_good_list(tidegate, server, tmp_path):
    one = server()
    path = tmp_path / "endpoints.yaml"
    write(path, text=f"endpoints:\n  - address: {one.address}\n")
    gateway = tidegate(discovered(file=str(path)))
    assert gateway.get().status == 200
    for text in ("endpoints: [", "endponts: []", "endpoints: [{address: nowhere}]"):
        write(path, text=text)
        until(lambda: gateway.upstream()["source_error"], 10, "the mistake is told")
        assert gateway.get().status == 200
        write(path, one)
        until(lambda: not gateway.upstream()["source_error"], 10, "mended")


# --- DNS ------------------------------------------------------------------------------------------


@pytest.fixture
def dns():
    started = dns_module.Dns()
    yield started
    started.end()


def test_addresses_of_a_name_follow_its_records(tidegate, server, dns):
    port = free_port()
    one = server(upstream.ok(b"one"), port=port)
    dns.records[("ranker.test", dns_module.A)] = ["127.0.0.1"]
    gateway = tidegate(discovered(dns={"name": "ranker.test", "port": port, "servers": [dns.address], "min_interval": "100ms"}))
    until(lambda: gateway.get().body == b"one", what="resolved")
    assert addresses(gateway) == {one.address}
    dns.records[("ranker.test", dns_module.A)] = ["127.0.0.1", "127.0.0.2"]
    until(lambda: addresses(gateway) == {f"127.0.0.1:{port}", f"127.0.0.2:{port}"}, 10, "the second address")


def test_service_records_bring_ports_weights_and_priorities(tidegate, server, dns):
    heavy, light, spare = (server(upstream.named(), name=n) for n in ("heavy", "light", "spare"))
    name = "_http._tcp.ranker.test"
    dns.records[(name, dns_module.SRV)] = [(0, 30, heavy.port, "node.test"), (0, 10, light.port, "node.test"), (1, 10, spare.port, "node.test")]
    dns.records[("node.test", dns_module.A)] = ["127.0.0.1"]
    config = discovered(dns={"name": name, "record": "srv", "servers": [dns.address], "min_interval": "100ms"})
    config["upstreams"][0]["balance"] = "weighted_round_robin"
    gateway = tidegate(config)
    until(lambda: len(gateway.members()) == 3, what="three members")
    report = Load(gateway.port, connections=2, count=400).__enter__().finish()
    assert abs(report.bodies[b"heavy"] - 300) <= 10 and report.bodies[b"spare"] == 0, report.bodies


def test_a_name_server_that_fails_leaves_the_last_good_list(tidegate, server, dns):
    port = free_port()
    server(upstream.ok(b"one"), port=port)
    dns.records[("ranker.test", dns_module.A)] = ["127.0.0.1"]
    gateway = tidegate(discovered(dns={"name": "ranker.test", "port": port, "servers": [dns.address], "min_interval": "100ms"}))
    until(lambda: gateway.get().body == b"one")
    dns.broken = True
    asked = len(dns.questions)
    until(lambda: len(dns.questions) > asked + 2, 15, "asked again")
    assert gateway.get().body == b"one"


# --- Consul ---------------------------------------------------------------------------------------


def test_tags_weights_and_checks_of_consul_are_kept_to(tidegate, server, consul):
    heavy, light, other, sick = (server(upstream.named(), name=n) for n in ("heavy", "light", "other", "sick"))
    consul.register("ranker", "heavy", heavy.port, tags=["v1"], weights={"Passing": 3, "Warning": 1})
    consul.register("ranker", "light", light.port, tags=["v1"], weights={"Passing": 1, "Warning": 1})
    consul.register("ranker", "other", other.port, tags=["v2"])
    consul.register("ranker", "sick", sick.port, tags=["v1"], check={"TTL": "10m", "Status": "critical"})
    config = discovered(consul={"address": consul.url, "service": "ranker", "tags": ["v1"]})
    config["upstreams"][0]["balance"] = "weighted_round_robin"
    gateway = tidegate(config)
    until(lambda: addresses(gateway) == {heavy.address, light.address}, what="the passing ones with the tag")
    report = Load(gateway.port, connections=2, count=400).__enter__().finish()
    assert abs(report.bodies[b"heavy"] - 300) <= 5, report.bodies
    consul.set_ttl("sick", "pass")
    until(lambda: sick.address in addresses(gateway), what="a recovered one joins")
    consul.set_ttl("sick", "fail")
    until(lambda: sick.address not in addresses(gateway), what="and leaves again")


def test_a_listener_registers_itself_and_leaves_while_draining(tidegate, server, consul):
    behind = server(upstream.hang())
    gateway = tidegate(simple(behind), start=False)
    register = {"consul": {"address": consul.url, "service": "gateway", "tags": ["edge"], "check": {"tcp": True, "interval": "1s"}}}
    gateway.write({**simple(behind), "listeners": [{"name": "main", "address": f"127.0.0.1:{gateway.port}", "register": register}]})
    gateway.start()
    instance = until(lambda: consul.instances("gateway"), what="registered")[0]["Service"]
    assert (instance["Address"] or "127.0.0.1", instance["Port"], instance["Tags"]) == ("127.0.0.1", gateway.port, ["edge"])
    until(lambda: all(check["Status"] == "passing" for check in consul.instances("gateway")[0]["Checks"]), 15, "its check passes")
    with gateway.client() as client:
        client.send_request("GET", "/")
        until(lambda: behind.requests)
        gateway.process.signal(signal.SIGTERM)
        until(lambda: not consul.instances("gateway"), 10, "deregistered while a request is still in flight")
        assert gateway.process.running()
    gateway.process.wait(20)


def test_a_catalogue_that_does_not_answer_takes_no_more_than_the_grace(tidegate, server, consul):
    gateway = tidegate(simple(server()), start=False)
    register = {"consul": {"address": consul.url, "service": "gateway"}}
    main = {"name": "main", "address": f"127.0.0.1:{gateway.port}", "register": register}
    gateway.write({**simple(server()), "listeners": [main], "shutdown": {"grace": "600ms"}})
    gateway.start()
    until(lambda: consul.instances("gateway"), what="registered")
    os.kill(consul.process.popen.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert gateway.stop() == 0
        # Giving up by itself takes 4 s.
        assert time.monotonic() - began < 3
    finally:
        os.kill(consul.process.popen.pid, signal.SIGCONT)


# --- active health checks -------------------------------------------------------------------------


def test_an_unwell_member_is_left_alone_until_it_is_well(tidegate, server):
    well = {"/healthz": upstream.ok(), "/": upstream.named()}
    unwell = {"/healthz": upstream.status(503), "/": upstream.named()}
    one, two = server(upstream.by_path(well), name="one"), server(upstream.by_path(well), name="two")
    check = {"http": "/healthz", "interval": "100ms", "timeout": "100ms", "healthy_after": 2, "unhealthy_after": 2}
    gateway = tidegate(simple(one, two, upstream_more={"balance": "round_robin", "health_check": check}))
    until(lambda: set(gateway.members().values()) == {"healthy"}, what="both well")
    two.behaviour = upstream.by_path(unwell)
    until(lambda: gateway.members()[two.address] in ("ejected", "probing"), what="two found unwell")
    assert {gateway.get("/").text() for _ in range(20)} == {"one"}
    assert gateway.member(two)["cause"]
    two.behaviour = upstream.by_path(well)
    until(lambda: gateway.members()[two.address] == "healthy", what="two found well")
    assert {gateway.get("/").text() for _ in range(20)} == {"one", "two"}


def test_each_member_is_probed_once_not_once_a_worker(tidegate, server):
    import time

    one = server()
    gateway = tidegate(simple(one, upstream_more={"health_check": {"http": "/healthz", "interval": "200ms", "timeout": "200ms"}}), workers=4)
    until(lambda: one.paths().count("/healthz") >= 3)
    before, began = one.paths().count("/healthz"), time.monotonic()
    until(lambda: one.paths().count("/healthz") >= before + 10, 20)
    assert time.monotonic() - began > 10 * 0.2 * 0.6, "far more probes than one each 200 ms"
    assert gateway.get().status == 200


def test_all_members_unwell_by_their_checks_is_503(tidegate, server):
    """Evidence, not statistics: neither the panic threshold nor "never the last" holds it back."""
    unwell = server(upstream.by_path({"/healthz": upstream.status(500), "/": upstream.ok()}))
    check = {"http": "/healthz", "interval": "100ms", "timeout": "100ms", "unhealthy_after": 1}
    gateway = tidegate(simple(unwell, upstream_more={"health_check": check, "panic_threshold": "0%"}))
    until(lambda: gateway.members()[unwell.address] != "healthy" and gateway.get().status == 503, what="503")
    assert gateway.get().error_code()


def test_grpc_and_tcp_checks(tidegate, grpc_server, server, channel):
    one, two = grpc_server("one"), grpc_server("two")
    check = {"grpc": "", "interval": "200ms", "timeout": "200ms", "unhealthy_after": 2}
    gateway = tidegate(simple(one, two, upstream_more={"balance": "round_robin", "health_check": check, "panic_threshold": "0%"}))
    until(lambda: set(gateway.members().values()) == {"healthy"})
    two.tell("health", "NOT_SERVING")
    until(lambda: gateway.members()[two.address] != "healthy", what="not serving")
    ch = channel(gateway.port)
    assert {ch.unary_unary("/bench.Echo/Name")(b"", timeout=10) for _ in range(10)} == {b"one"}
    two.tell("health", "SERVING")
    until(lambda: gateway.members()[two.address] == "healthy", what="serving")

    plain = server()
    tcp = tidegate(simple(plain, upstream_more={"health_check": {"tcp": True, "interval": "100ms", "timeout": "100ms", "unhealthy_after": 1}, "panic_threshold": "0%"}))
    until(lambda: tcp.members()[plain.address] == "healthy")
    plain.stop()
    until(lambda: tcp.members()[plain.address] != "healthy", what="refused connections seen")
    plain.start()
    until(lambda: tcp.get().status == 200, what="back")


def test_unix_sockets_are_endpoints(tidegate, tmp_path):
    import asyncio

    async def serve():
        async def handle(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nunix")
            await writer.drain()
            writer.close()

        return await asyncio.start_unix_server(handle, str(tmp_path / "s.sock"))

    listening = upstream.run(serve())
    try:
        gateway = tidegate(simple({"address": f"unix:{tmp_path}/s.sock"}))
        assert gateway.get().body == b"unix"
    finally:
        upstream.loop().call_soon_threadsafe(listening.close)


def test_a_reload_to_an_upstream_whose_source_takes_its_time_costs_no_request(tidegate, server, dns):
    behind = server(upstream.ok(b"new"))
    answer = dns._answer
    dns._answer = lambda query: (time.sleep(0.2), answer(query))[1]
    dns.records[("ranker.test", dns_module.A)] = ["127.0.0.1"]
    gateway = tidegate(simple(server(upstream.ok(b"old"))))
    assert gateway.get().body == b"old"
    source = {"dns": {"name": "ranker.test", "port": behind.port, "servers": [dns.address]}}
    gateway.write({"routes": [route("found", name="all")], "upstreams": [{"name": "found", "discover": source}]})
    assert gateway.admin("/api/v1/config/reload", "POST").status == 200
    first = gateway.get()
    assert (first.status, first.body) == (200, b"new")
