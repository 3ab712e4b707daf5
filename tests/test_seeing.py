"""What a person or a machine sees of a running gateway."""

import json
import re

import jsonschema
import yaml

from harness import http1, upstream, yaml12
from harness.gateway import TOP, command, route, simple, upstream as pool
from harness.wait import until


def logged(gateway, path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_the_access_log_has_a_json_line_for_every_request(tidegate, server, tmp_path):
    path = tmp_path / "access.log"
    behind = server(upstream.by_path({"/ok": upstream.ok(b"12345"), "/bad": upstream.status(500)}))
    gateway = tidegate({**simple(behind, upstream_more={"outlier_detection": "off"}), "access_log": {"to": str(path)}})
    gateway.request("POST", "/ok?secret=1", [("x-request-id", "id-1"), ("user-agent", 'quote " and \\ and \t tab')], b"abc")
    gateway.get("/bad")
    assert behind.requests[1].header("x-request-id")
    lines = until(lambda: len(logged(gateway, path)) == 2 and logged(gateway, path), what="two lines")
    first, second = lines
    text = json.dumps(first)
    assert "POST" in text and "/ok" in text and "id-1" in text and "all" in text and behind.address in text
    assert "secret" not in text
    assert second["request_id"] == behind.requests[1].header("x-request-id"), "the id that was made here"
    assert 200 in first.values() and 500 in second.values(), (first, second)
    assert any(isinstance(value, (int, float)) and ("duration" in key or key.endswith(("_us", "_ms"))) for key, value in first.items()), first


def test_the_access_log_counts_the_bytes_of_answers_made_here(tidegate, server, tmp_path):
    """An answer of the config, a problem, one in a dialect, and to HEAD none."""
    path = tmp_path / "access.log"
    provider = {"name": "p", "type": "openai", "base_url": f"http://{server(upstream.ok()).address}", "api_tokens": ["sk-of-the-test-0000"], "models": ["m"]}
    routes = [
        {"name": "own", "match": {"path": {"exact": "/own"}}, "respond": {"status": 200, "body": "hello"}},
        {"name": "llm", "match": {"path": {"prefix": "/v1"}}, "to": [{"provider": "p"}]},
    ]
    gateway = tidegate({"routes": routes, "providers": [provider], "access_log": {"to": str(path)}})
    asked = [("GET", "/own"), ("GET", "/nowhere"), ("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("HEAD", "/own")]
    lengths = [len(gateway.request(method, target, [], b"" if method == "POST" else None).body) for method, target in asked]
    assert min(lengths[:4]) > 0 and lengths[4] == 0
    lines = until(lambda: len(logged(gateway, path)) == len(asked) and logged(gateway, path), what="a line each")
    # Workers write when they are done: not always in the order of the callers.
    assert {(line["method"], line["path"]): line["bytes_sent"] for line in lines} == dict(zip(asked, lengths))


def test_a_failed_request_is_logged_even_when_none_are_sampled(tidegate, server, tmp_path):
    path = tmp_path / "access.log"
    gateway = tidegate({**simple(server(upstream.by_path({"/ok": upstream.ok()}, upstream.status(503)))), "access_log": {"to": str(path), "sample": "0%"}})
    for _ in range(20):
        gateway.get("/ok")
    gateway.get("/bad")
    until(lambda: len(logged(gateway, path)) == 1, what="only the failed one")


def test_metrics_count_what_happened(tidegate, server):
    behind = server(upstream.by_path({"/ok": upstream.ok()}, upstream.status(500)))
    gateway = tidegate(simple(behind, upstream_more={"outlier_detection": "off"}))
    for _ in range(7):
        gateway.get("/ok")
    for _ in range(3):
        gateway.get("/bad")
    until(lambda: gateway.metric("tidegate_requests_total", route="all") == 10, what="ten requests counted")
    assert gateway.metric("tidegate_requests_total", route="all", code="200") == 7
    assert gateway.metric("tidegate_requests_total", route="all", code="500") == 3
    assert gateway.metric("tidegate_attempts_total", pool="up") == 10
    assert gateway.metric("tidegate_request_duration_seconds_count", route="all") == 10
    assert gateway.metric("tidegate_member_state", pool="up", member=behind.address, state="healthy") == 1
    assert gateway.metric("tidegate_inflight") == 0


def test_metric_labels_never_come_from_a_caller(tidegate, server):
    gateway = tidegate(simple(server()))
    before = sum(len(samples) for samples in gateway.metrics().values())
    for number in range(300):
        gateway.request(f"M{number}", f"/{number}", host=f"h{number}.local")
    assert sum(len(samples) for samples in gateway.metrics().values()) <= before + 50


def test_metrics_are_well_formed_histograms_included(tidegate, server):
    gateway = tidegate(simple(server()))
    for _ in range(5):
        gateway.get()
    text = gateway.admin("/metrics").text()
    helped = set(re.findall(r"^# HELP (\S+)", text, re.M))
    typed = dict(re.findall(r"^# TYPE (\S+) (\S+)", text, re.M))
    assert helped == set(typed)
    for name in ("tidegate_requests_total", "tidegate_request_duration_seconds", "tidegate_attempts_total", "tidegate_member_state", "tidegate_ejections_total", "tidegate_inflight"):
        assert name in typed or name.removesuffix("_total") in typed, name
    metrics = gateway.metrics()
    buckets = [(float(labels["le"]), value) for labels, value in metrics["tidegate_request_duration_seconds_bucket"] if labels["route"] == "all"]
    assert buckets == sorted(buckets) and buckets[-1][1] == gateway.metric("tidegate_request_duration_seconds_count", route="all")


def test_readiness_and_liveness(tidegate, server):
    gateway = tidegate(simple(server()))
    assert gateway.admin("/readyz").status == 200 and gateway.admin("/livez").status == 200


def test_the_api_answers_as_its_document_says(tidegate, server):
    gateway = tidegate(simple(server()))
    gateway.get()
    document = json.loads(gateway.admin("/api/openapi.json").body)
    assert document["openapi"].startswith("3.")
    checked = 0
    for path, item in document["paths"].items():
        if "get" not in item or not path.startswith("/api/v1") or path.startswith(("/api/v1/providers/", "/api/v1/keys/", "/api/v1/services/")):
            continue
        answer = gateway.admin(path.replace("{name}", "up"))
        assert answer.status == 200, path
        content = item["get"]["responses"]["200"]["content"]
        media = answer.header("content-type").split(";")[0]
        assert media in content, (path, media)
        schema = {**content[media]["schema"], "components": document["components"]}
        if media == "application/json":
            jsonschema.validate(json.loads(answer.body), schema)
            checked += 1
    assert checked >= 5


def test_errors_of_the_admin_port_are_problems(tidegate, server):
    gateway = tidegate(simple(server()))
    for path, status in (("/nothing", 404), ("/api/v1/upstreams/none", 404), ("/api/v1/events?after=x", 400)):
        answer = gateway.admin(path)
        assert answer.status == status and answer.header("content-type").startswith("application/problem+json"), path
        assert json.loads(answer.body)["status"] == status
    assert gateway.admin("/api/v1/upstreams", "DELETE").status == 405


def test_the_admin_port_is_not_open_to_other_sites(tidegate, server):
    """A page in a browser on the same machine must be able neither to read nor to change anything."""
    gateway = tidegate(simple(server()))
    assert gateway.admin("/api/v1/config/reload", "POST", b"", [("origin", "http://evil.example")]).status in (401, 403)
    assert http1.get(gateway.admin_port, "/api/v1/config", host="evil.example").status in (400, 403, 421)


def test_a_token_guards_the_admin_port(tidegate, server):
    config = simple(server())
    gateway = tidegate(config, start=False, env={"ADMIN_TOKEN": "s3cret-token"})
    gateway.write({**config, "admin": {"address": f"127.0.0.1:{gateway.admin_port}", "token": "${ADMIN_TOKEN}"}})
    gateway.start(ready=False)
    bearer = [("authorization", "Bearer s3cret-token")]
    until(lambda: gateway.admin("/readyz", headers=bearer).status == 200, 20)
    assert gateway.admin("/api/v1/config").status == 401
    assert gateway.admin("/api/v1/config", headers=[("authorization", "Bearer wrong")]).status == 401
    answer = gateway.admin("/api/v1/config", headers=bearer)
    assert answer.status == 200 and "s3cret-token" not in answer.text()
    assert "s3cret-token" not in gateway.logs()


def test_an_admin_port_off_loopback_without_a_token_is_refused():
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/c.yaml"
        with open(path, "w") as file:
            file.write("admin: { address: 0.0.0.0:9900 }\n")
        checked = command("check", path)
        assert checked.returncode == 2 and "token" in checked.stderr + checked.stdout


def test_the_dashboard_is_one_page_without_outside_parts(tidegate, server):
    gateway = tidegate(simple(server()))
    page = gateway.admin("/", headers=[("accept", "text/html")])
    assert page.status == 200 and page.header("content-type").startswith("text/html")
    assert page.header("content-security-policy")
    for source in re.findall(r"(?:src|href)=[\"']([^\"']+)", page.text()):
        assert not source.startswith(("http", "//")), source
        if source.startswith(("/", "assets")):
            assert gateway.admin("/" + source.lstrip("/")).status == 200, source


def test_events_tell_what_happened_in_order(tidegate, server):
    one, two = server(), server()
    gateway = tidegate(simple(one))
    gateway.reload(simple(one, two))
    until(lambda: any(e["member"] == two.address for e in gateway.events("member_added")), what="the new member told")
    events = gateway.events()
    assert [e["seq"] for e in events] == sorted(e["seq"] for e in events)
    assert any(e["kind"] == "config_loaded" for e in events)
    assert any(e["kind"] == "member_added" and e["member"] == two.address for e in events)


def test_status_shows_upstreams_as_a_table_and_as_json(tidegate, server):
    behind = server()
    gateway = tidegate(simple(behind))
    gateway.get()
    admin = f"http://127.0.0.1:{gateway.admin_port}"
    table = command("status", "--admin", admin)
    assert table.returncode == 0 and "up" in table.stdout and behind.address in table.stdout and "healthy" in table.stdout
    machine = command("status", "upstreams", "--json", "--admin", admin)
    assert machine.returncode == 0 and behind.address in json.dumps(json.loads(machine.stdout))
    assert command("status", "--admin", "http://127.0.0.1:1").returncode == 1


# --- check, schema --------------------------------------------------------------------------------


def test_check_accepts_good_configs_and_names_every_mistake_of_bad_ones(tmp_path):
    good = tmp_path / "good.yaml"
    good.write_text(yaml.safe_dump(simple(8080)))
    assert command("check", good).returncode == 0
    bad = tmp_path / "bad.yaml"
    bad.write_text(
        "listeners:\n  - { name: main, address: 127.0.0.1:99999 }\n"
        "routes:\n  - name: a\n    to: [ { upstream: nowhere } ]\n    tiemout: 3s\n"
        "  - name: a\n    to: []\n"
        "upstreams:\n  - name: up\n    endpoints: [ { address: '127.0.0.1:80', weight: -1 } ]\n    balance: roundrobin\n"
    )
    checked = command("check", bad)
    text = checked.stdout + checked.stderr
    assert checked.returncode == 2
    for word in ("99999", "nowhere", "tiemout", "weight", "roundrobin"):
        assert word in text, (word, text)
    assert "timeout" in text and "round_robin" in text, "what would be right"
    for line in (2, 5, 6, 11, 12):
        assert re.search(rf"bad\.yaml:{line}:\d+", text), (line, text)


def test_later_sections_are_said_to_be_not_in_this_build(tmp_path):
    for section in ("alerts", "notifiers", "keeper"):
        path = tmp_path / f"{section}.yaml"
        path.write_text(f"{section}: []\n" if section != "keeper" else "keeper: {}\n")
        checked = command("check", path)
        assert checked.returncode == 2 and "not in this build" in checked.stdout + checked.stderr, section


def test_missing_files_and_variables_are_told():
    assert command("check", "/nonexistent.yaml").returncode == 2
    assert command("up").returncode == 2
    assert command("nonsense").returncode == 2


def test_the_schema_accepts_what_check_accepts(tmp_path):
    schema = json.loads(command("schema").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(simple(8080))
    for example in sorted((TOP / "examples").rglob("*.yaml")):
        validator.validate(yaml12.load(example.read_text()))
    assert not validator.is_valid({"routse": []})
    assert not validator.is_valid({"routes": [{"name": 5, "to": "x"}]})


def test_routes_show_their_traffic(tidegate, server):
    gateway = tidegate({"routes": [route("up", name="shown", match={"path": {"prefix": "/a"}})], "upstreams": [pool("up", server())]})
    for _ in range(5):
        gateway.get("/a")
    shown = until(lambda: (r := gateway.api("routes")[0]) and r["requests"] == 5 and r, what="five requests shown")
    assert shown["name"] == "shown" and "/a" in shown["matches"] and "up" in shown["to"]
