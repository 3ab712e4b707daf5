"""Vertex AI by a service account: its key file signs for access tokens. The token endpoint and the models are servers of these tests."""

import base64
import json
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from harness import faults, providers
from harness.gateway import command
from harness.providers import post, route_to
from harness.wait import until

FILE = json.loads((Path(__file__).parent.parent / "crates/llm/tests/fixtures/service_account.json").read_text())
SOON = {"health_check_interval": "200ms", "failure_threshold": 1}


class TokenEndpoint:
    """Gives tokens that are counted, as long as it is to."""

    def __init__(self, server, **more):
        self.asked, self.lasts, self.refuses = [], 3600, None
        self.server = server(self._behave, **more)
        self.url = f"http{'s' if more.get('tls') else ''}://{self.server.address}/token"

    async def _behave(self, request, connection):
        self.asked.append(request)
        if self.refuses:
            return await connection.respond(*self.refuses)
        token = {"access_token": f"ya29.canary-token-{len(self.asked):04}", "expires_in": self.lasts, "token_type": "Bearer"}
        await connection.respond(200, json.dumps(token), [("content-type", "application/json")])

    def token(self):
        return f"ya29.canary-token-{len(self.asked):04}"


@pytest.fixture
def endpoint(server):
    return TokenEndpoint(server)


@pytest.fixture
def vertex(tidegate, faulty, endpoint, tmp_path):
    """A gateway with one account in a file; more of the provider's section."""

    def start(tokens=endpoint, **more):
        path = tmp_path / "account.json"
        path.write_text(json.dumps({**FILE, "token_uri": tokens.url}, indent=2))
        provider = {"name": "p", "type": "vertex", "project": "a-test", "base_url": f"http://127.0.0.1:{faulty.port}", "api_tokens": [f"file:{path}"], **more}
        return tidegate({"routes": [route_to("p")], "providers": [provider], "access_log": "stdout"})

    return start


@pytest.mark.parametrize("front", ["openai", "anthropic", "gemini"])
def test_an_account_is_asked_for_a_token_once_and_every_request_shows_it(vertex, faulty, endpoint, front):
    gateway = vertex()
    assert [post(gateway, front).status for _ in range(5)] == [200] * 5
    assert {call.key for call in faulty.calls} == {endpoint.token()}
    assert "/v1/projects/a-test/locations/us-central1/publishers/google/models/" in faulty.calls[0].path
    assert len(endpoint.asked) == 1
    asked = endpoint.asked[0]
    assert asked.header("content-type") == "application/x-www-form-urlencoded" and asked.target == "/token"
    assertion = parse_qs(asked.body.decode())["assertion"][0]
    claims = json.loads(base64.urlsafe_b64decode(assertion.split(".")[1] + "=="))
    assert claims["iss"] == FILE["client_email"] and claims["aud"] == f"http://{endpoint.server.address}/token"
    assert [key["name"] for key in providers.seen(gateway)["keys"]] == ["tests@…"]


def test_the_authority_of_the_provider_is_trusted_for_its_tokens_too(vertex, server, authority):
    secured = TokenEndpoint(server, tls=authority.server("127.0.0.1"))
    gateway = vertex(secured)
    assert post(gateway).status == 503 and not secured.asked
    (key,) = providers.seen(gateway)["keys"]
    assert "certificate" in json.dumps(key)
    gateway = vertex(secured, tls={"ca": str(authority.pem)})
    assert post(gateway).status == 200
    assert len(secured.asked) == 1


def test_a_token_is_replaced_before_it_ends_and_kept_over_a_reload(vertex, faulty, endpoint):
    endpoint.lasts = 4
    gateway = vertex()
    assert post(gateway).status == 200
    first = faulty.calls[-1].key
    until(lambda: len(endpoint.asked) == 2, 10, "another token is asked for")
    until(lambda: post(gateway).status == 200 and faulty.calls[-1].key != first, 5, "it is used")
    assert {call.status for call in faulty.calls} == {200}
    endpoint.lasts = 3600
    until(lambda: len(endpoint.asked) == 3, 10, "a long one")
    gateway.reload({**gateway.config, "shutdown": {"grace": "7s"}})
    assert post(gateway).status == 200 and faulty.calls[-1].key == endpoint.token()
    assert len(endpoint.asked) == 3


@pytest.mark.parametrize("refuses, cause", [((400, '{"error": "invalid_grant"}'), "400 invalid_grant"), ((503, "away"), "503")], ids=["refused", "away"])
def test_an_account_that_gets_no_token_is_out_with_the_cause_and_comes_back(vertex, faulty, endpoint, refuses, cause):
    endpoint.refuses = refuses
    gateway = vertex(failover=SOON)
    answer = post(gateway, "gemini")
    assert answer.status == 503
    providers.error_of(answer, "gemini")
    assert faulty.calls == []
    evidence = until(lambda: providers.worst(providers.seen(gateway)["keys"][0]), 5, "the cause is told")
    assert f"no access token: the token endpoint said {cause}" in evidence["excerpt"]
    endpoint.refuses = None
    until(lambda: post(gateway).status == 200, 20, "it is back")


def test_neither_the_key_nor_a_token_is_shown(vertex, faulty, endpoint, tmp_path):
    gateway = vertex(failover=SOON)
    assert post(gateway).status == 200
    faulty.default = faults.dead()
    answer = post(gateway)
    assert answer.status == 503
    faulty.default = faults.answer()
    until(lambda: post(gateway).status == 200, 20, "it is back")
    admin = f"http://127.0.0.1:{gateway.admin_port}"
    shown = [answer.text()] + [gateway.admin(path).text() for path in ("/api/v1/providers", "/api/v1/config", "/api/v1/events?limit=1000", "/metrics", "/api/v1/overview")]
    shown.append(command("status", "providers", "--admin", admin).stdout)
    shown.append(command("check", gateway.path).stdout)
    gateway.stop()
    shown.append(gateway.logs())
    key = FILE["private_key"].splitlines()
    for text in shown:
        assert "canary-token" not in text and not any(line[:30] in text for line in key[1:-1])


def test_a_file_that_is_no_key_file_is_a_load_error_without_its_content(tidegate, tmp_path, faulty):
    path = tmp_path / "account.json"
    path.write_text(json.dumps({**FILE, "private_key": "s3cret-of-nobody"}))
    provider = {"name": "p", "type": "vertex", "project": "a-test", "base_url": f"http://127.0.0.1:{faulty.port}", "api_tokens": [f"file:{path}"]}
    gateway = tidegate({"routes": [route_to("p")], "providers": [{**provider, "api_tokens": ["ya29.given-by-hand"]}]})
    assert post(gateway).status == 200 and faulty.calls[-1].key == "ya29.given-by-hand"
    gateway.reload({**gateway.config, "providers": [provider]}, refused=True)
    told = gateway.admin("/api/v1/config").text()
    assert "no key file of a service account: private_key is no RSA key" in told and "s3cret" not in told
    assert post(gateway).status == 200, "the running one stays"
