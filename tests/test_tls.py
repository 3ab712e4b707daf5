"""TLS towards callers and towards servers."""

import socket
import ssl

import pytest

from harness import http1, http2, upstream
from harness.gateway import simple
from harness.wait import until


@pytest.fixture
def secure(tidegate, authority):
    """A gateway whose listener speaks TLS."""

    def start(config, **tls):
        certificate, key = authority.issue("test.local", "127.0.0.1")
        gateway = tidegate(config, start=False)
        listener = {"name": "main", "address": f"127.0.0.1:{gateway.port}", "tls": {"certificate": str(certificate), "key": str(key), **tls}}
        gateway.write({**config, "listeners": [listener]})
        return gateway.start()

    return start


def connect(gateway, context, **more):
    return http1.Client(gateway.port, tls=context, server_name="test.local", **more)


def test_alpn_chooses_the_version(secure, authority, server):
    behind = server(upstream.ok(b"same"))
    gateway = secure(simple(behind))
    with connect(gateway, authority.client(alpn=["http/1.1"])) as one:
        assert one.sock.selected_alpn_protocol() == "http/1.1"
        assert one.request("GET", "/").body == b"same"
    with http2.Client(gateway.port, tls=authority.client(alpn=["h2", "http/1.1"])) as two:
        assert two.sock.selected_alpn_protocol() == "h2"
        assert two.response(two.request(http2.request_headers(scheme="https"))).body == b"same"
    with connect(gateway, authority.client()) as without:
        assert without.request("GET", "/").body == b"same"
    assert behind.requests[0].header("x-forwarded-proto") == "https"


def test_old_versions_and_clear_text_are_refused(secure, authority, server):
    gateway = secure(simple(server()))
    old = authority.client()
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connect(gateway, old)
    back = http1.exchange_raw(gateway.port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"200" not in back[:20]


def test_a_handshake_that_never_ends_is_cut_off(tidegate, authority, server):
    certificate, key = authority.issue("test.local")
    behind = server()
    gateway = tidegate(simple(behind), start=False)
    gateway.write({**simple(behind), "listeners": [{"name": "main", "address": f"127.0.0.1:{gateway.port}", "tls": {"certificate": str(certificate), "key": str(key)}, "limits": {"header_timeout": "500ms"}}]})
    gateway.start()
    with gateway.client() as client:
        client.send(b"\x16\x03\x01")
        assert client.at_end(10)


def test_callers_without_a_certificate_are_refused_where_one_is_required(secure, authority, server):
    gateway = secure(simple(server()), client_ca=str(authority.pem))
    mine = authority.issue("caller.local", stem="caller")
    with connect(gateway, authority.client(mine)) as client:
        assert client.request("GET", "/").status == 200
    with pytest.raises((ssl.SSLError, ConnectionError, http1.Closed)):
        with connect(gateway, authority.client()) as client:
            client.request("GET", "/")
    from harness.tls import Authority

    stranger = Authority(authority.folder / "other").issue("caller.local", stem="caller")
    with pytest.raises((ssl.SSLError, ConnectionError, http1.Closed)):
        with connect(gateway, authority.client(stranger)) as client:
            client.request("GET", "/")


def test_a_renewed_certificate_is_used_without_losing_a_connection(secure, authority, server):
    gateway = secure(simple(server()))
    with connect(gateway, authority.client()) as old:
        before = old.sock.getpeercert()["serialNumber"]
        assert old.request("GET", "/").status == 200
        authority.issue("test.local", "127.0.0.1")

        def serial():
            with connect(gateway, authority.client()) as fresh:
                return fresh.sock.getpeercert()["serialNumber"]

        until(lambda: serial() != before, 15, "the new certificate is served")
        assert old.request("GET", "/").status == 200


def test_a_broken_new_certificate_leaves_the_old_one_in_use(secure, authority, server):
    gateway = secure(simple(server()))
    with connect(gateway, authority.client()) as client:
        before = client.sock.getpeercert()["serialNumber"]
    (authority.folder / "server.pem").write_text("no certificate")
    gateway.admin("/api/v1/config/reload", "POST", b"")
    with connect(gateway, authority.client()) as client:
        assert client.sock.getpeercert()["serialNumber"] == before
        assert client.request("GET", "/").status == 200


def test_servers_are_verified_with_their_authority_and_name(tidegate, authority, server):
    behind = server(upstream.ok(b"secret"), tls=authority.server("inside.local"))
    tls = {"ca": str(authority.pem), "sni": "inside.local"}
    gateway = tidegate(simple(behind, upstream_more={"tls": tls}))
    assert gateway.get().body == b"secret"
    for wrong in ({**tls, "sni": "other.local"}, {"sni": "inside.local"}):
        other = tidegate(simple(behind, upstream_more={"tls": wrong}, retry={"attempts": 1}))
        answer = other.get()
        assert answer.status in (502, 503) and answer.error_code(), wrong
    trusting = tidegate(simple(behind, upstream_more={"tls": {"verify": False, "sni": "inside.local"}}))
    assert trusting.get().body == b"secret"


def test_a_server_that_wants_a_certificate_gets_it(tidegate, authority, server):
    behind = server(upstream.ok(b"secret"), tls=authority.server("inside.local", require_client=True))
    certificate, key = authority.issue("gateway.local", stem="gateway")
    tls = {"ca": str(authority.pem), "sni": "inside.local"}
    gateway = tidegate(simple(behind, upstream_more={"tls": {**tls, "certificate": str(certificate), "key": str(key)}}))
    assert gateway.get().body == b"secret"
    without = tidegate(simple(behind, upstream_more={"tls": tls}, retry={"attempts": 1}))
    assert without.get().status in (502, 503)


def test_grpc_over_tls_on_both_sides(secure, authority, grpc_server, channel):
    import grpc

    certificate, key = authority.issue("inside.local", stem="grpc")
    behind = grpc_server("tls", certificate=certificate, key=key)
    gateway = secure(simple(behind, upstream_more={"tls": {"ca": str(authority.pem), "sni": "inside.local"}}))
    credentials = grpc.ssl_channel_credentials(authority.pem.read_bytes())
    secure_channel = channel(gateway.port, credentials=credentials)
    assert secure_channel.unary_unary("/bench.Echo/Name")(b"", timeout=10) == b"tls"


def test_secrets_and_keys_appear_nowhere(secure, authority, server):
    gateway = secure(simple(server()))
    with connect(gateway, authority.client()) as client:
        client.request("GET", "/", [("authorization", "Bearer topsecret")])
    text = gateway.admin("/api/v1/config").text() + gateway.admin("/metrics").text() + gateway.logs()
    assert "PRIVATE KEY" not in text and "topsecret" not in text


def test_a_burst_of_new_tls_connections_is_served(secure, authority, server):
    gateway = secure(simple(server()))
    context = authority.client()
    for _ in range(100):
        with connect(gateway, context) as client:
            assert client.request("GET", "/").status == 200
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as half:
        half.sendall(b"\x16")
        assert connect(gateway, context).request("GET", "/").status == 200


def test_checks_take_up_another_authority_with_a_reload(tidegate, server, authority, tmp_path):
    from harness.tls import Authority

    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(Authority(tmp_path / "other").pem.read_bytes())
    behind = server(upstream.ok(b"secret"), tls=authority.server("inside.local"))
    more = {"tls": {"ca": str(trusted), "sni": "inside.local"}, "health_check": {"http": "/", "interval": "500ms", "timeout": "400ms"}}
    gateway = tidegate(simple(behind, upstream_more=more))
    assert gateway.get().status == 503
    trusted.write_bytes(authority.pem.read_bytes())
    assert gateway.admin("/api/v1/config/reload", "POST").status == 200
    until(lambda: gateway.get().status == 200, what="a member that is fit under the new authority")


def test_a_reload_keeps_connections_and_checks_while_the_certificates_hold_the_same(tidegate, server, authority, tmp_path):
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(authority.pem.read_bytes())
    certificate, key = authority.issue("gateway.local", stem="gateway")
    behind = server(upstream.ok(b"secret"), tls=authority.server("inside.local", require_client=True))
    tls = {"ca": str(trusted), "sni": "inside.local", "certificate": str(certificate), "key": str(key)}
    config = simple(behind, upstream_more={"tls": tls, "health_check": {"http": "/check", "interval": "1h"}})
    gateway = tidegate(config, workers=1)
    assert gateway.get().body == b"secret"
    accepted, checks = behind.accepted, behind.paths().count("/check")
    for number in range(3):
        config["routes"][0]["timeout"] = f"{20 + number}s"
        gateway.reload(config)
        assert gateway.get().body == b"secret"
    # A source that began anew would check the member before it is fit again.
    assert (behind.accepted, behind.paths().count("/check")) == (accepted, checks)
    trusted.write_bytes(trusted.read_bytes() + b"\n# looked at by somebody\n")
    gateway.reload(config)
    assert gateway.get().body == b"secret"
    assert behind.accepted > accepted and behind.paths().count("/check") == checks + 1, "made anew with what the file holds now"
